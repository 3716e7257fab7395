"""The first pass over an atlas: every cell is read, or the sums that the atlas brings with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tigon.kernels.moments import CellSums
from tigon.scaling.cells import CellFilter
from tigon.scaling.datasets import Datasets, distinct_pairs
from tigon.scaling.statistics import (
    BLOCK_CELLS,
    BlockCounting,
    BlockSums,
    Folding,
    Statistics,
    blocks_together,
    moments_bytes,
)
from tigon.storage.gene_kinds import checksum_of
from tigon.storage.known_sums import KnownSums
from tigon.storage.progress import Progress, silent
from tigon.storage.sums import checksum_of_sources
from tigon.storage.views.reopening import reference

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas

_STRETCH_CELLS = 32 * BLOCK_CELLS
"""Cells whose stored sums are read at once."""


def first_pass(
    atlas: Atlas,
    datasets: Datasets,
    cell_filter: CellFilter,
    engine: ThreadEngine,
    progress: Progress = silent,
) -> Statistics:
    """Read every cell once, unless the atlas brings the sums with it.

    Parameters
    ----------
    atlas
        The counts.
    datasets
        Dataset of each cell; cells of code -1 are read for their totals only.
    cell_filter
        Which cells to keep.
    engine, progress
        Where it runs and who is told.

    Returns
    -------
    Statistics

    Notes
    -----
    One pass, or none (:func:`stored_statistics`). Holds
    n_datasets * n_genes * 20 bytes, 29 bytes a cell, and the blocks in flight.
    """
    counting = BlockCounting.of(atlas, datasets, cell_filter)
    stored = stored_statistics(atlas, datasets, counting)
    if stored is None:
        return read_statistics(atlas, datasets, counting, engine, progress)
    progress("reading cells", atlas.n_cells, atlas.n_cells)
    return stored


def read_statistics(
    atlas: Atlas,
    datasets: Datasets,
    counting: BlockCounting,
    engine: ThreadEngine,
    progress: Progress = silent,
) -> Statistics:
    """What :func:`first_pass` finds, by reading every cell, whatever was stored."""
    shared, (n_cells, n_genes) = reference(atlas), atlas.shape

    def sums_of(start: int) -> BlockSums:
        return counting.count(shared.get().read(start, min(start + BLOCK_CELLS, n_cells)))

    total = Folding(n_cells, len(datasets.names), n_genes)
    together = blocks_together(moments_bytes(counting.most_datasets, n_genes))
    for sums in engine.ordered_map(sums_of, range(0, n_cells, BLOCK_CELLS), together=together):
        total.add(sums)
        progress("reading cells", sums.start + len(sums.kept), n_cells)
    return total.statistics()


def stored_statistics(
    atlas: Atlas, datasets: Datasets, counting: BlockCounting
) -> Statistics | None:
    """What :func:`first_pass` finds, to the bit, from the sums that were stored with the counts.

    None where there are none, or they are of no use: they are of all cells of each source, so
    that each dataset must be a source, and none of its cells left out.
    """
    known, sources = atlas.sums, _sources_of(datasets, atlas)
    if known is None or sources is None or not _are_of(known, atlas, counting):
        return None
    found = Folding(atlas.n_cells, len(sources), atlas.n_genes)
    if not _add_cells(found, known, counting):
        return None
    genes = known.of_genes(sources)
    found.put_genes(genes.first, genes.second, genes.cells, known.largest)
    return found.statistics()


def is_stored(atlas: Atlas, datasets: Datasets, cell_filter: CellFilter) -> bool:
    """Whether :func:`first_pass` is sure to read no cell; reads metadata only."""
    known = atlas.sums
    if known is None or cell_filter != CellFilter() or _sources_of(datasets, atlas) is None:
        return False
    return _are_of(known, atlas, BlockCounting.of(atlas, datasets, cell_filter))


def _are_of(known: KnownSums, atlas: Atlas, counting: BlockCounting) -> bool:
    """Whether sums are of these counts, sources and kinds of genes, and not of others of before.

    A table of cells may have been written anew, and versions may know other kinds of genes.
    """
    are_whole = atlas.values_dtype.kind != "f"
    are_of_sources = known.sources == checksum_of_sources(atlas.source_codes)
    return are_whole and are_of_sources and known.kinds == checksum_of(counting.kinds)


def _sources_of(datasets: Datasets, atlas: Atlas) -> list[int] | None:
    """The source that each dataset is, whole; None where one is not."""
    pairs = distinct_pairs(datasets.codes, atlas.source_codes)
    chosen, there = datasets.sizes, np.bincount(atlas.source_codes)
    if len(pairs) != len(chosen) or any(chosen[d] != there[s] for d, s in pairs):
        return None
    return [source for _, source in pairs]


def _add_cells(found: Folding, known: KnownSums, counting: BlockCounting) -> bool:
    """Add the cells, block by block as they are read; whether all that were chosen are kept."""
    n_cells = len(counting.codes)
    for start in range(0, n_cells, _STRETCH_CELLS):
        stretch = known.of_cells(start, min(start + _STRETCH_CELLS, n_cells))
        for first in range(0, len(stretch.totals), BLOCK_CELLS):
            here = slice(first, first + BLOCK_CELLS)
            sums = stretch.totals[here], stretch.n_genes[here], stretch.of_kinds[here]
            counted = counting.count_cells(start + first, CellSums(*sums))
            chosen = counting.codes[start : start + _STRETCH_CELLS][here] >= 0
            if not np.array_equal(counted.kept, chosen):
                return False
            found.add_cells(counted)
    return True
