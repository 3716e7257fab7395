"""Cells that come after a fit: which datasets they are of, and what they measure."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.cells import chosen_cells
from tigon.scaling.datasets import Datasets, datasets_of, resolve_small
from tigon.scaling.first_pass import first_pass
from tigon.scaling.genes import inverse_rms
from tigon.scaling.inmf.known import Known
from tigon.scaling.preparing import PrepareConfig
from tigon.scaling.statistics import Statistics
from tigon.storage.errors import InputError
from tigon.storage.join import unique_names
from tigon.storage.progress import Progress, silent

if TYPE_CHECKING:
    import pandas as pd

    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas

log = logging.getLogger("tigon")


@dataclass(frozen=True, slots=True)
class Arrival:
    """New cells, as a first pass over them leaves them.

    Attributes
    ----------
    datasets
        The datasets that have new cells, by the names under which they are fitted, and
        that of each cell of the atlas, -1 where it is left out.
    statistics
        Sums per cell and gene, over these datasets.
    genes
        Atlas positions of those genes of the model that the atlas has, ascending, (m',).
    columns
        Which gene of the model each of these is, int64, shape (m',).
    merged
        Name of the pooled dataset by the name of each small one that is in it.
    """

    datasets: Datasets
    statistics: Statistics
    genes: NDArray[np.int64]
    columns: NDArray[np.int64]
    merged: dict[str, str]

    @property
    def n_cells(self) -> int:
        """Cells that take part."""
        return int((self.datasets.codes >= 0).sum())

    def spread(self, of_genes: NDArray[np.generic], n_genes: int) -> NDArray[np.generic]:
        """Values by dataset and gene, (a, m'), over all ``n_genes`` of the model; 0 elsewhere."""
        whole = np.zeros((len(of_genes), n_genes), of_genes.dtype)
        whole[:, self.columns] = of_genes
        return whole

    def measured(self, n_genes: int) -> NDArray[np.bool_]:
        """Which genes of the model each dataset's new cells measure, bool, (a, n_genes)."""
        return self.spread(self.datasets.measured[:, self.genes], n_genes)  # type: ignore[return-value]

    def own_scale(self, n_genes: int) -> NDArray[np.float64]:
        """One over the root mean squares of the new cells, float64, (a, n_genes)."""
        own = inverse_rms(self.statistics, self.datasets, self.genes)
        return self.spread(own, n_genes)  # type: ignore[return-value]

    def second_moments(self, n_genes: int) -> NDArray[np.float64]:
        """Sums of squared normalised counts of the new cells, float64, (a, n_genes)."""
        return self.spread(self.statistics.second[:, self.genes], n_genes)  # type: ignore[return-value]


def arrive(
    atlas: Atlas,
    known: Known,
    config: PrepareConfig,
    engine: ThreadEngine,
    progress: Progress = silent,
) -> Arrival:
    """Read new cells once and find their datasets among those of a fit.

    Parameters
    ----------
    atlas
        The new cells.
    known
        The fit; its genes are taken, whatever ``config`` says.
    config
        Batch key, which cells take part, and what becomes of small datasets; one that the
        fit knows is never too small.
    engine, progress
        Where it runs and who is told.

    Raises
    ------
    InputError
        Before reading, if genes or columns do not fit; after, if no cell is left or a new
        dataset has fewer cells than there are components.

    Notes
    -----
    One pass over the atlas.
    """
    everyone = datasets_of(atlas, config.batch_key, chosen_cells(atlas, config.cells))
    _tell_same_sources(everyone, known, config)
    places = gene_positions(atlas, known.genes)
    ignored = atlas.n_genes - int((places >= 0).sum())
    if ignored:
        log.warning(
            "%d of the %d genes of the new data are not in the model: they count towards cell "
            "totals only",
            ignored,
            atlas.n_genes,
        )
    statistics = first_pass(atlas, everyone, config.cell_filter, engine, progress)
    if not statistics.kept.any():
        raise InputError(
            f"none of {atlas.n_cells} new cells passes the filters ({config.cell_filter}), which "
            "are those of the run where no others were given: at least one is needed; choose other "
            "cells, or give min_genes, min_counts or max_mito in Python"
        )
    kept = everyone.keep(statistics.kept)
    datasets = _resolved(kept, known, config.small_datasets)
    order = np.argsort(places, kind="stable")
    columns = order[np.searchsorted(places[order], 0) :]
    return Arrival(
        datasets,
        statistics.merged(everyone, datasets),
        places[columns],
        columns,
        {**kept.now_in(datasets)},
    )


def _tell_same_sources(datasets: Datasets, known: Known, config: PrepareConfig) -> None:
    """Names of sources may be the same by chance, as ``adata0`` of all in memory is."""
    same = [name for name in datasets.names if known.fitted_as(name) in known.V]
    if config.batch_key is None and same:
        log.warning(
            "the source %s has the name of a dataset of the fit: its cells are taken for more "
            "cells of that dataset; name the datasets by columns of obs if they are not",
            same[0],
        )


def gene_positions(atlas: Atlas, genes: Sequence[str]) -> NDArray[np.int64]:
    """Atlas position of each gene, int64, shape (m,); -1 where the atlas does not have it.

    Raises
    ------
    InputError
        It has none of them.
    """
    index: pd.Index = atlas.var.index
    where = {str(name): i for i, name in enumerate(index)}
    positions = np.array([where.get(str(name), -1) for name in genes], np.int64)
    if (positions < 0).all():
        raise InputError(
            f"none of the {len(genes)} genes of the model is in the data (model: {genes[0]!r}, "
            f"data: {str(index[0])!r}): names must match; rename the genes, or open "
            "the data with another gene_id_column"
        )
    missing = int((positions < 0).sum())
    if missing:
        log.warning(
            "%d of the model's %d genes are not in the data: loadings rest on the others",
            missing,
            len(genes),
        )
    return positions


def _resolved(kept: Datasets, known: Known, policy: str) -> Datasets:
    """Datasets that have cells, under the names of the fit; small new ones as ``policy`` says."""
    named = [known.fitted_as(name) for name in kept.names]
    old = np.array([name in known.V for name in named])
    if policy == "drop":
        small = np.flatnonzero(~old & (kept.sizes < known.n_components))
        kept = kept.keep(~np.isin(kept.codes, small))
        if not kept.sizes.any():
            raise InputError(
                f"no new dataset has as many cells as there are components ({known.n_components}): "
                "none is left; use --small-datasets merge"
            )
    is_old = np.append(old, False)[kept.codes]
    fresh = resolve_small(kept.keep(~is_old), known.n_components, policy) if (~old).any() else None
    names: list[str] = []
    codes = np.full(len(kept.codes), -1, np.int32)
    measured: list[NDArray[np.bool_]] = []
    for name in dict.fromkeys(name for name, was in zip(named, old, strict=True) if was):
        parts = [i for i, other in enumerate(named) if other == name]
        cells = np.isin(kept.codes, parts)
        if cells.any():
            codes[cells] = len(names)
            names.append(name)
            measured.append(np.logical_and.reduce(kept.measured[parts], axis=0))
    if fresh is not None:
        codes[fresh.codes >= 0] = fresh.codes[fresh.codes >= 0] + len(names)
        taken = [*known.names, *fresh.names]
        names += unique_names(taken)[len(known.names) :]
        measured += list(fresh.measured)
    return Datasets(tuple(names), codes, np.array(measured))
