"""The factors of a run, listed.

Symbols: W (k x m) shared metagenes, V_i (k x m) those of dataset i. ``own`` of a factor in
a dataset is sum_g V_ifg / sum_g (W_fg + V_ifg) over the genes that the dataset measures.
``use`` is the mean share of the factor in the dataset's cells, and ``unevenness`` of a
factor is 1 - entropy(u) / log(d) with u its use in the d datasets, made to sum to 1: 0
where all datasets use it alike, 1 where one does alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling import recalling
from tigon.scaling.factors.genes import gene_scores, top_genes
from tigon.scaling.factors.judging import MIN_CELLS, N_GENES, reasons
from tigon.scaling.factors.summing import Cells, FactorSums, sum_factors
from tigon.scaling.inmf.rescaling import factor_sizes
from tigon.scaling.transferring import factor_scale
from tigon.storage.errors import InputError
from tigon.storage.gene_kinds import kinds_of
from tigon.storage.progress import Progress, silent
from tigon.storage.rows import ArrayRows, RowReader
from tigon.storage.runs.columns import categories_of, numbers_of

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage.runs.run import Run

COLUMNS = {
    "depth": "total_counts",
    "genes": "n_genes_by_counts",
    "mito": "pct_counts_mt",
    "ribo": "pct_counts_ribo",
}
"""Where a run keeps the figures that shares are correlated with."""

_LOGARITHMIC = frozenset({"depth", "genes"})


@dataclass(frozen=True, slots=True)
class Correlation:
    """Correlations of the shares of the factors with a figure of the cells.

    Attributes
    ----------
    overall, within
        Over all cells, and within cells of one cluster and dataset, float64, shape (k,);
        NaN where something is constant or too few cells are there.
    """

    overall: NDArray[np.float64]
    within: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class FactorListing:
    """What is known of the k factors of a run, by number.

    Attributes
    ----------
    n_cells, n_loaded
        Cells of the run, and those that have loadings.
    loadings
        Share of each factor in the sum of all loadings, the metagenes having equal size,
        float64, shape (k,).
    n_strongest
        Cells of which it is the strongest, each in units of its root mean square, int64,
        shape (k,).
    datasets
        Names of the d datasets.
    use, own
        By dataset, float64, shape (d, k); see the module. Use is NaN where the run does not
        say of which dataset its cells are.
    genes
        Top genes of each factor (``tigon.scaling.factors.genes``).
    correlations
        By figure, as far as the run keeps it.
    reasons
        Why each factor looks technical; empty where it does not.
    dropped
        Factors that alignment, clusters and layout leave out.
    """

    n_cells: int
    n_loaded: int
    loadings: NDArray[np.float64]
    n_strongest: NDArray[np.int64]
    datasets: tuple[str, ...]
    use: NDArray[np.float64]
    own: NDArray[np.float64]
    genes: list[list[str]]
    correlations: Mapping[str, Correlation]
    reasons: list[list[str]]
    dropped: tuple[int, ...]

    @property
    def technical(self) -> list[int]:
        """Numbers of the factors that look technical."""
        return [number for number, why in enumerate(self.reasons) if why]

    @property
    def missing(self) -> list[str]:
        """Figures that the run does not keep."""
        return [name for name in COLUMNS if name not in self.correlations]

    @property
    def evened_use(self) -> NDArray[np.float64]:
        """Use by dataset as if all had as many cells, float64, (d, k); sums to 1 or is 0."""
        total = self.use.sum(axis=0)
        evened: NDArray[np.float64] = self.use / np.where(total == 0, 1.0, total)
        return evened

    @property
    def used_by(self) -> list[str]:
        """Dataset that uses each factor most; "" where it is not known, or none does."""
        most = np.nan_to_num(self.use).argmax(axis=0)
        used = np.nan_to_num(self.use).max(axis=0) > 0
        return [self.datasets[most[f]] if used[f] else "" for f in range(self.use.shape[1])]

    @property
    def unevenness(self) -> NDArray[np.float64]:
        """How unevenly datasets use each factor, 0 to 1, float64, shape (k,)."""
        u, d = self.evened_use, len(self.datasets)
        if d == 1:
            return np.zeros(u.shape[1])
        entropy = -(u * np.log(np.where(u > 0, u, 1.0))).sum(axis=0)
        used = u.any(axis=0)  # NaN is, and stays NaN
        return np.where(used, 1.0 - entropy / np.log(d), 0.0).clip(0, 1)


def list_factors(
    run: Run, engine: ThreadEngine, *, n_top: int = 10, progress: Progress = silent
) -> FactorListing:
    """Sum up and judge the factors of a run.

    Parameters
    ----------
    run
        The run.
    engine, progress
        Where it runs and who is told.
    n_top
        Top genes of a factor to list.

    Raises
    ------
    InputError
        ``n_top`` is not positive.

    Notes
    -----
    One pass over the loadings and a few columns of ``obs``, which are streamed; holds the
    metagenes, 4 k m bytes a dataset, and see :func:`tigon.scaling.factors.summing.sum_factors`.
    """
    if n_top < 1:
        raise InputError(f"n_top is {n_top}: at least 1 gene is listed; set --n-top")
    cells = _cells(run)
    sums = sum_factors(cells, engine, progress)
    scores = gene_scores(run.W)
    names, kinds = np.array(run.genes, object), kinds_of(run.genes)
    correlations = _correlations(sums)
    within = {name: found.within for name, found in correlations.items()}
    told = len(run.datasets) == 1 or categories_of(run, "tigon_dataset") is not None
    n_loaded = sums.n.reshape(-1, cells.n_datasets).sum(axis=0)
    shares = sums.shares.reshape(-1, cells.n_datasets, len(run.W)).sum(axis=0)
    unknown = np.full(shares.shape, np.nan)
    weighed = sums.loadings * factor_sizes(run.W)
    return FactorListing(
        n_cells=run.loadings.shape[0],
        n_loaded=int(n_loaded.sum()),
        loadings=weighed / max(weighed.sum(), np.finfo(float).tiny),
        n_strongest=sums.n_strongest,
        datasets=run.datasets,
        use=shares / np.maximum(n_loaded, 1)[:, None] if told else unknown,
        own=_own_parts(run),
        genes=[[str(name) for name in names[top]] for top in top_genes(scores, n_top)],
        correlations=correlations,
        reasons=reasons(within, kinds[top_genes(scores, N_GENES)]),
        dropped=recalling.dropped_factors(run),
    )


def _cells(run: Run) -> Cells:
    found = {figure: numbers_of(run, column) for figure, column in COLUMNS.items()}
    clusters = categories_of(run, "tigon_cluster")
    scale = factor_scale(run.A, run.n_cells).astype(np.float64)
    return Cells(
        loadings=run.loadings,
        scale=scale,
        datasets=_datasets(run),
        clusters=None if clusters is None else clusters.codes,
        n_datasets=len(run.datasets),
        n_clusters=0 if clusters is None else len(clusters.names),
        figures={figure: column for figure, column in found.items() if column is not None},
        logarithmic=_LOGARITHMIC,
    )


@dataclass(frozen=True, slots=True)
class _Renumbered:
    """A column of numbers, each put in place of another."""

    codes: RowReader
    new: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.codes.shape

    @property
    def dtype(self) -> np.dtype[np.int64]:
        return self.new.dtype

    def read(self, start: int, stop: int) -> NDArray[np.int64]:
        renumbered: NDArray[np.int64] = self.new[self.codes.read(start, stop)]
        return renumbered


def _datasets(run: Run) -> RowReader:
    """Number of each cell's dataset, in the order of the statistics; 0 where none is told."""
    column = categories_of(run, "tigon_dataset")
    if column is None:
        return ArrayRows(np.broadcast_to(np.int64(0), run.loadings.shape[0]))
    number = {name: i for i, name in enumerate(run.datasets)}
    return _Renumbered(column.codes, np.array([number[name] for name in column.names], np.int64))


def _correlations(sums: FactorSums) -> dict[str, Correlation]:
    found = {}
    for name, moments in sums.moments.items():
        unknown = np.full(len(sums.loadings), np.nan)
        enough = moments.n_free >= MIN_CELLS
        found[name] = Correlation(
            moments.overall() if enough else unknown, moments.within() if enough else unknown
        )
    return found


def _own_parts(run: Run) -> NDArray[np.float64]:
    """Part of V in each dataset's metagenes, float64, shape (d, k)."""
    own = np.zeros((len(run.datasets), len(run.W)))
    known = "measured" in run.per_gene_names
    everything = np.ones((len(run.datasets), len(run.genes)), bool)
    measured = run.per_gene("measured").astype(bool) if known else everything
    for i, V in enumerate(run.V.values()):
        added = V[:, measured[i]].sum(axis=1, dtype=np.float64)
        whole = added + run.W[:, measured[i]].sum(axis=1, dtype=np.float64)
        own[i] = added / np.where(whole > 0, whole, 1.0)
    return own
