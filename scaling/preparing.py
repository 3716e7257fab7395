"""From an atlas to what is factorised: datasets, kept cells, selected genes, scales."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.cells import CellFilter, chosen_cells
from tigon.scaling.checking import check_whole
from tigon.scaling.datasets import Datasets, datasets_of, resolve_small
from tigon.scaling.first_pass import first_pass
from tigon.scaling.genes import inverse_rms, listed_genes, select_genes
from tigon.scaling.inmf.state import Problem
from tigon.scaling.statistics import Statistics
from tigon.scaling.unshared import check_split, select_split
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas


@dataclass(frozen=True, kw_only=True, slots=True)
class PrepareConfig:
    """Which cells and genes take part, checked when made.

    Parameters
    ----------
    batch_key
        Columns of ``obs`` whose values name the datasets; None for the sources.
    n_genes
        Variable genes to select; "all", or a list of names. Where ``n_unshared`` is given
        they are chosen among those that all datasets measure.
    n_unshared
        Variable genes to select besides among those that not all datasets measure, at which
        no metagenes are shared (UINMF); "all", or a list of names. None to treat all genes
        alike.
    cells
        Expression over the columns of ``obs``; None for all cells.
    cell_filter
        Limits on counts.
    small_datasets
        What to do with datasets of fewer cells than components.
    """

    batch_key: str | Sequence[str] | None = None
    n_genes: int | Literal["all"] | Sequence[str] = 2000
    n_unshared: int | Literal["all"] | Sequence[str] | None = None
    cells: str | None = None
    cell_filter: CellFilter = field(default_factory=CellFilter)
    small_datasets: Literal["error", "merge", "drop"] = "error"

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_genes", _plain_genes("n_genes", self.n_genes))
        if self.n_unshared is not None:
            object.__setattr__(self, "n_unshared", _plain_genes("n_unshared", self.n_unshared))
        _check_columns(self.batch_key)
        for what, n, option in (
            ("genes", self.n_genes, "--n-genes"),
            ("unshared genes", self.n_unshared, "--n-unshared"),
        ):
            if isinstance(n, int) and n < 1:
                raise InputError(
                    f"the number of {what} is {n}: at least 1 is needed; set {option}, or 'all'"
                )
        if self.small_datasets not in ("error", "merge", "drop"):
            raise InputError(
                f"small datasets are to be {self.small_datasets!r}: the choices are error, merge "
                "and drop; set --small-datasets"
            )

    def at_most_genes(self, n_available: int) -> int:
        """Genes that will be selected at most, of ``n_available``."""
        wanted = 0
        for n in (self.n_genes, self.n_unshared):
            if n == "all":
                return n_available
            if n is not None:
                wanted += n if isinstance(n, int) else len(n)
        return min(wanted, n_available)


def _plain_genes(name: str, n_genes: Any) -> int | str | tuple[str, ...]:
    """A plain number, "all", or names: also of NumPy's integers and of an index."""
    if isinstance(n_genes, str) and n_genes == "all":
        return n_genes
    if isinstance(n_genes, str) or not isinstance(n_genes, Iterable):
        check_whole(name, n_genes, word="all")
        return int(n_genes)
    return tuple(map(str, n_genes))


def _check_columns(batch_key: Any) -> None:
    if batch_key is None:
        return
    names = [batch_key] if isinstance(batch_key, str) else batch_key
    if not isinstance(names, Iterable) or not all(isinstance(name, str) for name in names):
        raise InputError(
            f"batch_key is {batch_key!r}: it names columns of obs; set a name or a list of names"
        )


@dataclass(frozen=True, slots=True)
class Prepared:
    """What the first pass leaves for the ones that follow.

    Attributes
    ----------
    datasets
        Dataset of each cell of the atlas, -1 where it was left out.
    statistics
        Sums per cell and per gene.
    genes
        Atlas positions of the selected genes, ascending, int64, shape (m,).
    merged
        Name of the pooled dataset by the name of each small one that is in it.
    shared
        At which of the genes metagenes are shared, bool, shape (m,); None for all.
    """

    datasets: Datasets
    statistics: Statistics
    genes: NDArray[np.int64]
    merged: dict[str, str]
    shared: NDArray[np.bool_] | None = None

    @property
    def kept_codes(self) -> NDArray[np.int32]:
        """Dataset of each kept cell, shape (n_kept,)."""
        codes, kept = self.datasets.codes, self.statistics.kept
        return codes if kept.all() else codes[kept]

    def problem(self, lam: float | NDArray[np.float64]) -> Problem:
        """Masks and scales over the selected genes; ``lam`` is one number, or (d,)."""
        return Problem(
            n_cells=self.datasets.sizes,
            measured=self.datasets.measured[:, self.genes],
            scale=inverse_rms(self.statistics, self.datasets, self.genes),
            lam=lam,
            shared=self.shared,
        )


def prepare(
    atlas: Atlas,
    config: PrepareConfig,
    n_components: int,
    engine: ThreadEngine,
    progress: Progress = silent,
) -> Prepared:
    """Read the atlas once and decide which cells and genes take part.

    Parameters
    ----------
    atlas, config
        The counts and the choices.
    n_components
        k; datasets, cells and genes must be at least as many.
    engine, progress
        Where it runs and who is told.

    Raises
    ------
    InputError
        Before reading, if the choices do not fit the atlas; after, if too
        little is left.
    """
    everyone = chosen_datasets(atlas, config, n_components)
    wanted = _listed(atlas, config)
    statistics = first_pass(atlas, everyone, config.cell_filter, engine, progress)
    check_some_kept(statistics, config.cell_filter)
    kept = everyone.keep(statistics.kept)
    datasets = resolve_small(kept, n_components, config.small_datasets)
    statistics = statistics.merged(everyone, datasets)
    if config.n_unshared is not None:
        both = (config.n_genes, config.n_unshared)
        genes, shared = select_split(atlas, statistics, datasets, *both)
    else:
        genes, shared = _ranked(statistics, datasets, config) if wanted is None else wanted, None
    _check_components(n_components, int(statistics.kept.sum()), len(genes))
    _check_measured(atlas, datasets, genes)
    return Prepared(datasets, statistics, genes, kept.now_in(datasets), shared)


def check_some_kept(statistics: Statistics, cell_filter: CellFilter) -> None:
    """Refuse filters that no cell passes.

    Raises
    ------
    InputError
        None does.
    """
    if not statistics.kept.any():
        raise InputError(
            f"none of {len(statistics.kept)} cells passes the filters ({cell_filter}): at least "
            "one is needed; relax --min-genes, --min-counts, --max-mito or --cells"
        )


def check_label_key(atlas: Atlas, label_key: str | None) -> None:
    """Refuse labels that are not there.

    Raises
    ------
    InputError
        There is no such column of ``obs``.
    """
    if label_key is not None and label_key not in atlas.obs_columns:
        raise InputError(
            f"the label key {label_key!r} is not a column of obs: there are "
            f"{', '.join(atlas.obs_columns)}; choose one of these"
        )


def chosen_datasets(atlas: Atlas, config: PrepareConfig, n_components: int) -> Datasets:
    """Datasets of the cells that may take part, refused before any count is read.

    Raises
    ------
    InputError
        There are fewer cells or genes than components; or, before any limit on
        counts, datasets are too small, or genes are not shared or unshared as is wanted.
    """
    _check_components(n_components, atlas.n_cells, atlas.n_genes)
    chosen = chosen_cells(atlas, config.cells)
    datasets = datasets_of(atlas, config.batch_key, chosen)
    resolved = resolve_small(datasets, n_components, config.small_datasets)
    if config.n_unshared is not None:
        check_split(atlas, resolved, config.n_genes, config.n_unshared)
    return datasets


def _listed(atlas: Atlas, config: PrepareConfig) -> NDArray[np.int64] | None:
    if isinstance(config.n_genes, int | str):
        return None
    return listed_genes(list(atlas.var_columns.index), config.n_genes)


def _ranked(statistics: Statistics, datasets: Datasets, config: PrepareConfig) -> NDArray[np.int64]:
    n_genes = None if config.n_genes == "all" else config.n_genes
    assert n_genes is None or isinstance(n_genes, int)
    return select_genes(statistics, datasets, n_genes)


def _check_measured(atlas: Atlas, datasets: Datasets, genes: NDArray[np.int64]) -> None:
    """Listed genes may be in the atlas and yet measured by no dataset as a whole."""
    nowhere = genes[~datasets.measured[:, genes].any(axis=0)]
    if len(nowhere):
        names = ", ".join(map(str, atlas.var.index[nowhere[:5]]))
        raise InputError(
            f"{len(nowhere)} of {len(genes)} listed genes are measured by no dataset ({names}): a "
            "dataset that pools several sources measures the genes that all of them have; leave "
            "these genes out, or choose another batch key"
        )


def _check_components(n_components: int, n_cells: int, n_genes: int) -> None:
    for what, n in (("cells", n_cells), ("genes", n_genes)):
        if n_components > n:
            raise InputError(
                f"{n_components} components are more than the {n} {what}: at most {n} can be "
                "found; set --n-components"
            )
