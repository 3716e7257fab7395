"""What online iNMF needs to go on: metagenes and sufficient statistics.

Minimised, over H_i, W, V_i >= 0, with X_i scaled counts (n_i x m):

    F = sum_i |X_i - H_i (W + V_i)|^2 + lambda sum_i |H_i V_i|^2.

Statistics are sums over cells, so they stay commensurate between datasets:
``A_i = H_i^T H_i`` (k x k) and ``B_i = H_i^T X_i`` (k x m). Within a round, which is
an epoch or a part of it (:mod:`tigon.scaling.inmf.schedule`), the sums of the round before
are handed over linearly as cells are seen:

    A_i = A_now + (1 - n_seen_i / n_i) A_previous,   and the same for B_i.

Cells that were fitted before and are not read again leave sums that stay: their base.
``A_now`` begins every round with it, rounds are then whole epochs, and n_i counts the cells
that are read, so that old cells and new ones weigh alike and the equations are those of a fit.

W's normal equations are kept up to date instead of being summed anew over all
datasets: ``T = sum_i B_i - A_i V_i`` and ``S_p = sum of A_i`` over the datasets
that measure the genes of pattern p; so a step costs what the datasets that its
mini-batch touches cost, however many others there are.

lambda may be of each dataset. At genes that are not shared W is held at zero: the terms
of dataset i are then |X_i - H_i V_i|^2 + lambda_i |H_i V_i|^2 there, those of UINMF, and
what UINMF calls U_i is V_i at such genes. They are of the pattern of no dataset, whose S
is zero, and HALS leaves rows alone that no cell informs.

References
----------
Gao et al. (2021), doi:10.1038/s41587-021-00867-x; Yang and Michailidis (2016),
doi:10.1093/bioinformatics/btv544; Kriebel and Welch (2022),
doi:10.1038/s41467-022-28431-4.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Problem:
    """What is factorised, apart from the counts.

    Attributes
    ----------
    n_cells
        Cells of each dataset that are read, int64, shape (d,); 0 for a dataset at rest, of
        which only the statistics of an earlier fit are known.
    measured
        Which genes each dataset measures, bool, shape (d, m).
    scale
        One over the root mean square of each gene, float64, shape (d, m).
    lam
        lambda; or that of each dataset, float64, shape (d,).
    shared
        At which genes W may differ from zero, bool, shape (m,); None for all.
    """

    n_cells: NDArray[np.int64]
    measured: NDArray[np.bool_]
    scale: NDArray[np.float64]
    lam: float | NDArray[np.float64]
    shared: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        # Columns that were picked lie the other way, for which kernels would be compiled anew.
        object.__setattr__(self, "measured", np.ascontiguousarray(self.measured))

    @property
    def lam_by_dataset(self) -> NDArray[np.float64]:
        """Lambda of each dataset, float64, shape (d,)."""
        return np.broadcast_to(np.asarray(self.lam, np.float64), (self.n_datasets,))

    def lam_of(self, dataset: int) -> float:
        """Lambda of a dataset."""
        return float(self.lam[dataset]) if isinstance(self.lam, np.ndarray) else self.lam

    @property
    def common(self) -> NDArray[np.bool_]:
        """Genes that all datasets measure, bool, shape (m,)."""
        found: NDArray[np.bool_] = self.measured.sum(axis=0) == self.n_datasets
        return found

    def over_common(self) -> Problem:
        """The same as if no dataset measured any but the common genes."""
        return replace(self, measured=self.measured & self.common)

    @property
    def informing(self) -> NDArray[np.bool_]:
        """Which genes of each dataset inform W, bool, shape (d, m)."""
        return self.measured if self.shared is None else self.measured & self.shared

    @property
    def n_datasets(self) -> int:
        """Number of datasets d."""
        return len(self.n_cells)

    @property
    def n_genes(self) -> int:
        """Number of genes m."""
        return int(self.measured.shape[1])


@dataclass(frozen=True, slots=True)
class State:
    """Online iNMF between two steps. The arrays are updated in place.

    Attributes
    ----------
    W
        Shared metagenes, float32, shape (k, m).
    V
        Dataset-specific metagenes, float32, shape (d, k, m); zero where a
        dataset does not measure a gene.
    A, B
        Sums over the cells seen in this round and the base, float64, shapes (d, k, k)
        and (d, k, m).
    A_previous, B_previous
        The previous round's sums, same shapes.
    n_seen
        Cells seen in this round, int64, shape (d,).
    patterns
        Pattern of each gene, int64, shape (m,): genes measured by the same
        datasets share one, and so do all at which W is held at zero.
    in_pattern
        Which datasets inform W at the genes of a pattern, bool, shape (p, d).
    S
        Sum of A_i per pattern, float64, shape (p, k, k).
    T
        Sum of B_i - A_i V_i, float64, shape (k, m).
    continued
        Datasets that have a base and cells to read, int64, shape (c,).
    A_base, B_base
        Their bases, float64, shapes (c, k, k) and (c, k, m). Those of datasets at rest
        are A and B.
    sizes
        What the metagenes were multiplied by since the bases were taken, float64, (k,).
    """

    W: NDArray[np.float32]
    V: NDArray[np.float32]
    A: NDArray[np.float64]
    B: NDArray[np.float64]
    A_previous: NDArray[np.float64]
    B_previous: NDArray[np.float64]
    n_seen: NDArray[np.int64]
    patterns: NDArray[np.int64]
    in_pattern: NDArray[np.bool_]
    S: NDArray[np.float64]
    T: NDArray[np.float64]
    continued: NDArray[np.int64]
    A_base: NDArray[np.float64]
    B_base: NDArray[np.float64]
    sizes: NDArray[np.float64]

    def statistics_of(
        self, dataset: int, n_cells: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """A_i and B_i of a dataset with the hand-over applied."""
        remaining = 1.0 - self.n_seen[dataset] / max(n_cells, 1)
        A = self.A[dataset] + remaining * self.A_previous[dataset]
        B = self.B[dataset] + remaining * self.B_previous[dataset]
        return A, B


def init_state(problem: Problem, n_components: int, seed: np.random.SeedSequence) -> State:
    """Start: W uniform on [0, 2), V_i uniform on [0, 0.1), statistics zero.

    Scaled genes have root mean square 1, so W starts at the size of the data
    and V_i, which is a correction, an order of magnitude below; at genes that are
    not shared V_i is zero until it follows from the loadings.
    """
    d, m, k = problem.n_datasets, problem.n_genes, n_components
    rng = np.random.default_rng(seed)
    W = rng.random((k, m), np.float32) * np.float32(2)
    V = rng.random((d, k, m), np.float32) * np.float32(0.1)
    V *= problem.informing[:, None, :]
    if problem.shared is not None:
        W *= problem.shared
    return empty_state(problem, W, V)


def empty_state(problem: Problem, W: NDArray[np.float32], V: NDArray[np.float32]) -> State:
    """The state of given metagenes, shapes (k, m) and (d, k, m), before any cell is seen."""
    d, k, m = V.shape
    columns, patterns = np.unique(problem.informing, axis=1, return_inverse=True)
    return State(
        W=W,
        V=V,
        A=np.zeros((d, k, k)),
        B=np.zeros((d, k, m)),
        A_previous=np.zeros((d, k, k)),
        B_previous=np.zeros((d, k, m)),
        n_seen=np.zeros(d, np.int64),
        patterns=patterns.ravel(),
        in_pattern=columns.T.copy(),
        S=np.zeros((columns.shape[1], k, k)),
        T=np.zeros((k, m)),
        continued=np.zeros(0, np.int64),
        A_base=np.zeros((0, k, k)),
        B_base=np.zeros((0, k, m)),
        sizes=np.ones(k),
    )


def begin_round(state: State, ended: Problem | None = None) -> None:
    """Hand this round's sums over as the previous ones, and start anew from the bases.

    A dataset of which no cell was seen keeps what it has; and so does one of which cells are
    missing that the round which ended, ``ended``, was to see.
    """
    n_wanted = state.n_seen if ended is None else ended.n_cells
    done = (state.n_seen > 0) & (state.n_seen >= n_wanted)
    bases = {dataset: at for at, dataset in enumerate(state.continued.tolist())}
    for i in np.flatnonzero(done).tolist():
        for now, previous, base in (
            (state.A, state.A_previous, state.A_base),
            (state.B, state.B_previous, state.B_base),
        ):
            np.copyto(previous[i], now[i])
            now[i] = 0.0
            if i in bases:
                previous[i] -= base[bases[i]]
                now[i] = base[bases[i]]
    state.n_seen[done] = 0


def state_bytes(n_datasets: int, n_genes: int, n_components: int) -> int:
    """Bytes of the state of a fit: V, B and B_previous dominate."""
    per_dataset = n_components * (20 * n_genes + 16 * n_components)
    return n_datasets * per_dataset + 12 * n_components * n_genes
