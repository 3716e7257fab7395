"""Online factorisation on a GPU: state and step.

The same steps as on the CPU, which also brings factors back to size 1 every so often
(``tigon.scaling.inmf.rescaling``): here nothing does that yet. For dataset i with loadings H_i:

    A_i = H_i^T H_i, B_i = H_i^T X_i, the previous epoch's handed over linearly;
    S_p = sum of A_i over the datasets that measure the genes of pattern p;
    T   = sum of B_i - A_i V_i;
    W_j   <- max(0, W_j + (T - S W)_j / S_jj)
    V_i,j <- max(0, V_i,j + (B_i - A_i W - (1 + lambda) A_i V_i)_j / ((1 + lambda) A_i,jj))

A step is about twenty launches and never waits for the host.

References
----------
Gao et al. (2021), doi:10.1038/s41587-021-00867-x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.gpu.factors import add_product_into, gram_into, hals_genes
from tigon.kernels.gpu.minibatch import DeviceTile, StepMemory, run_step
from tigon.kernels.gpu.modules import Kernel
from tigon.kernels.tile import Metagenes

if TYPE_CHECKING:
    import cupy

_THREADS = 256


def _each(name: str, n: int, *args: Any) -> None:
    """Launch a kernel of ``online.cu`` with one thread for each of n entries."""
    Kernel("online.cu", name)(-(-n // _THREADS), _THREADS, *args)


@dataclass(frozen=True, slots=True)
class Part:
    """The cells of one dataset in a mini-batch.

    Attributes
    ----------
    dataset
        Its number.
    tile
        Its counts.
    H
        Loadings, float32, shape (n, k): the start of the next solve, and its
        result.
    """

    dataset: int
    tile: DeviceTile
    H: cupy.ndarray


@dataclass(frozen=True, slots=True)
class OnlineState:
    """Metagenes and statistics, updated in place; CuPy arrays except as said.

    Attributes
    ----------
    W
        float32, shape (k, m).
    V
        float32, shape (d, k, m); zero where a dataset does not measure a gene.
    A, A_previous
        float64, shape (d, k, k).
    B, B_previous
        float64, shape (d, k, m).
    S
        float64, shape (p, k, k).
    T
        float64, shape (k, m).
    figures
        |X|^2, F and unfinished cells since the epoch began, float64, (3,).
    scale
        float64, shape (d, m).
    measured
        uint8, shape (d, m).
    genes_of
        The genes that each dataset measures, int32; a tuple of d arrays.
    genes_in
        The genes of each pattern, int32; a tuple of p arrays.
    in_pattern
        NumPy, bool, shape (p, d).
    n_cells
        NumPy, int64, shape (d,).
    lam
        lambda.
    """

    W: cupy.ndarray
    V: cupy.ndarray
    A: cupy.ndarray
    A_previous: cupy.ndarray
    B: cupy.ndarray
    B_previous: cupy.ndarray
    S: cupy.ndarray
    T: cupy.ndarray
    figures: cupy.ndarray
    scale: cupy.ndarray
    measured: cupy.ndarray
    genes_of: tuple[cupy.ndarray, ...]
    genes_in: tuple[cupy.ndarray, ...]
    in_pattern: NDArray[np.bool_]
    n_cells: NDArray[np.int64]
    lam: float

    @classmethod
    def start(
        cls,
        W: NDArray[np.float32],
        V: NDArray[np.float32],
        scale: NDArray[np.float64],
        measured: NDArray[np.bool_],
        n_cells: NDArray[np.int64],
        lam: float,
    ) -> OnlineState:
        """State with no cell seen, from NumPy arrays; about 20 d k m bytes."""
        import cupy

        d, k, m = V.shape
        patterns, pattern_of = np.unique(measured, axis=1, return_inverse=True)
        pattern_of = pattern_of.ravel()
        return cls(
            W=cupy.array(W, np.float32),
            V=cupy.array(V * measured[:, None, :], np.float32),
            A=cupy.zeros((d, k, k)),
            A_previous=cupy.zeros((d, k, k)),
            B=cupy.zeros((d, k, m)),
            B_previous=cupy.zeros((d, k, m)),
            S=cupy.zeros((patterns.shape[1], k, k)),
            T=cupy.zeros((k, m)),
            figures=cupy.zeros(3),
            scale=cupy.array(scale, np.float64),
            measured=cupy.array(measured, np.uint8),
            genes_of=tuple(cupy.array(np.flatnonzero(row), np.int32) for row in measured),
            genes_in=tuple(
                cupy.array(np.flatnonzero(pattern_of == p), np.int32)
                for p in range(patterns.shape[1])
            ),
            in_pattern=patterns.T.copy(),
            n_cells=n_cells,
            lam=lam,
        )


class OnlineSteps:
    """Launches the steps of an epoch; holds their scratch memory.

    Parameters
    ----------
    state
        Updated in place.
    n_max
        Cells of the largest part of a mini-batch.
    tol
        KKT residual that loadings reach.
    n_sweeps
        HALS sweeps of a step.
    """

    def __init__(
        self, state: OnlineState, n_max: int, *, tol: float = 1e-3, n_sweeps: int = 1
    ) -> None:
        import cupy

        self.state = state
        self.tol = tol
        self.n_sweeps = n_sweeps
        d, k, m = state.V.shape
        self.memory = StepMemory.for_shape(n_max, k, m)
        self._L = cupy.empty((k, m), np.float32)
        self._scaled = cupy.empty((m, k), np.float32)
        self._G = cupy.empty((k, k), np.float64)
        self._V_before = cupy.empty((k, m), np.float32)
        self._A_now = cupy.empty((d, k, k), np.float64)
        self._B_now = cupy.empty((d, k, m), np.float64)
        self._A_change = cupy.empty((k, k), np.float64)
        self._wide = cupy.empty((k, m), np.float64)
        self._n_seen = np.zeros(d, np.int64)

    def begin_epoch(self) -> None:
        """Hand this epoch's sums over as the previous ones."""
        state = self.state
        for now, previous in ((state.A, state.A_previous), (state.B, state.B_previous)):
            _each("hand_over", now.size, now, previous, np.int32(now.size))
        n = np.int32(state.figures.size)
        _each("hand_over", 3, state.figures, self._wide, n)
        self._n_seen[:] = 0

    def metagenes(self, dataset: int) -> Metagenes:
        """What a dataset's cells are solved against, in memory that the next call overwrites."""
        state = self.state
        k, m = state.W.shape
        scale, V = state.scale[dataset], state.V[dataset]
        _each(
            "metagenes", k * m, state.W, V, state.measured[dataset], scale,
            self._L, self._scaled, np.int32(k), np.int32(m),
        )  # fmt: skip
        slices = self.memory.slices
        gram_into(self._L, self._G, slices, over_rows=False)
        gram_into(V, self._G, slices, over_rows=False, weight=state.lam, keep=1.0)
        return Metagenes(self._scaled, self._G, scale)

    def step(self, parts: Sequence[Part]) -> None:
        """Take in a mini-batch, one part for each dataset in it, and improve W and V."""
        for part in parts:
            self.take_in(part)
        self.improve([part.dataset for part in parts])

    def take_in(self, part: Part) -> None:
        """Solve a part's loadings and replace its share of the statistics."""
        metagenes, figures = self.metagenes(part.dataset), self.state.figures
        run_step(part.tile, metagenes, part.H, self.memory, figures, tol=self.tol, warm=True)
        self._fold(part.dataset, len(part.H))

    def improve(self, datasets: Sequence[int]) -> None:
        """Update W, and V of the datasets that a mini-batch touched."""
        for _ in range(self.n_sweeps):
            for genes, S in zip(self.state.genes_in, self.state.S, strict=True):
                hals_genes(self.state.W, self.state.T, S, genes, 1)
            for dataset in datasets:
                self._update_V(dataset)

    def _fold(self, i: int, n: int) -> None:
        state = self.state
        n_cells = int(state.n_cells[i])
        before = np.float64(1.0 - self._n_seen[i] / n_cells)
        self._n_seen[i] += n
        left = before, np.float64(1.0 - self._n_seen[i] / n_cells)
        first, *others = np.flatnonzero(state.in_pattern[:, i])
        size = np.int32(self._A_change.size)
        _each(
            "fold", int(size), state.A[i], state.A_previous[i], self.memory.A, self._A_now[i],
            self._A_change, state.S[first], *left, size,
        )  # fmt: skip
        for p in others:
            _each("accumulate", int(size), state.S[p], self._A_change, size)
        k, m = state.W.shape
        _each(
            "fold_genes", k * m, state.B[i], state.B_previous[i], self.memory.B, self._B_now[i],
            state.T, *left, np.int32(k), np.int32(m),
        )  # fmt: skip
        add_product_into(state.T, state.T, self._A_change, state.V[i], -1.0)

    def _update_V(self, i: int) -> None:
        state, V, A = self.state, self.state.V[i], self._A_now[i]
        n = np.int32(V.size)
        _each("copy_factor", V.size, self._V_before, V, n)
        add_product_into(self._wide, self._B_now[i], A, state.W, -1.0)
        hals_genes(V, self._wide, A, state.genes_of[i], 1, share=1.0 / (1.0 + state.lam))
        add_product_into(state.T, state.T, A, V, -1.0, minus=self._V_before)
