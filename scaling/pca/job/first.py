"""The first pass of a job: statistics of cells and genes, and sums that ride on it.

All genes of a cell are in its block: its total is known there, whether it is kept, and so what
it adds to a sum over the cells. Where the genes are known beforehand, or are so few that their
whole Gram matrix can be summed and the selected ones taken from it, no further pass is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.sketches import GeneProducts
from tigon.scaling.datasets import Datasets
from tigon.scaling.pca.passes import (
    Cuts,
    Normalisation,
    Summing,
    onto,
    stretches_of,
    tasks_of,
)
from tigon.scaling.pca.rows import Cells, cells_of_block, even_cuts
from tigon.scaling.selecting import GeneSelection
from tigon.scaling.statistics import (
    BlockCounting,
    BlockSums,
    Folding,
    Statistics,
    blocks_together,
    moments_bytes,
)
from tigon.storage.progress import Progress
from tigon.storage.views.reopening import AtlasReference, reference

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas


@dataclass(frozen=True, slots=True)
class ChosenRows:
    """Some genes of the cells that limits on counts will keep, told as each block is read.

    Attributes
    ----------
    atlas, counting
        The cells, and which of them are kept.
    selection
        Which genes.
    shape
        Cells at most, and genes.
    n_bytes
        Bytes that a pass decodes.
    """

    atlas: AtlasReference
    counting: BlockCounting
    selection: GeneSelection
    shape: tuple[int, int]
    n_bytes: int

    def cuts(self) -> list[tuple[int, int]]:
        """Of the cells of the atlas."""
        return even_cuts(len(self.counting.codes))

    def read(self, start: int, stop: int) -> Cells:
        """Kept ones among cells ``start`` to ``stop`` of the atlas."""
        block = self.atlas.get().read(start, stop)
        cells = self.counting.cell_sums(block)
        kept = self.counting.kept(start, cells)
        return cells_of_block(block, self.selection, cells.totals, kept)


@dataclass(frozen=True, slots=True)
class _Task:
    rows: ChosenRows
    normalisation: Normalisation
    what: Summing

    def __call__(self, cuts: Cuts) -> tuple[list[BlockSums], GeneProducts]:
        counted, sums = [], self.what.begin()
        for start, stop in cuts:
            block = self.rows.atlas.get().read(start, stop)
            found = self.rows.counting.count(block)
            cells = cells_of_block(block, self.rows.selection, found.cells.totals, found.kept)
            sums.add(cells, self.normalisation.transform(cells, self.rows.shape[1]))
            counted.append(found)
        return counted, sums.found()


def chosen_rows(
    atlas: Atlas, counting: BlockCounting, genes: NDArray[np.int64], n_bytes: int
) -> ChosenRows:
    """Of the genes at some positions, shape (m,)."""
    n_chosen = int((counting.codes >= 0).sum())
    selection = GeneSelection.of(genes, atlas.n_genes)
    return ChosenRows(reference(atlas), counting, selection, (n_chosen, len(genes)), n_bytes)


def stretches_riding(sums_bytes: int, counting: BlockCounting, n_genes: int) -> int:
    """Stretches of a task, so many that neither sums nor statistics outweigh the reading."""
    together = blocks_together(moments_bytes(counting.most_datasets, n_genes))
    return min(stretches_of(sums_bytes), together)


def first_sums(
    rows: ChosenRows,
    datasets: Datasets,
    normalisation: Normalisation,
    what: Summing,
    engine: ThreadEngine,
    progress: Progress,
    **figures: float,
) -> tuple[Statistics, GeneProducts]:
    """Read every cell once: statistics, and sums of the kept cells.

    Parameters
    ----------
    rows, normalisation, what
        The cells and genes that are summed, and how.
    datasets
        Dataset of each cell.
    engine, progress
        Where it runs and who is told; ``figures`` are told too.

    Notes
    -----
    One pass. The statistics are those of :func:`tigon.scaling.first_pass.first_pass`.
    """
    n_cells, n_genes = len(rows.counting.codes), len(rows.selection.selected)
    statistics = Folding(n_cells, len(datasets.names), n_genes)
    total: GeneProducts | None = None
    size = stretches_riding(what.n_bytes, rows.counting, n_genes)
    tasks = tasks_of(rows.cuts(), size)
    done = 0
    for counted, found in engine.ordered_map(_Task(rows, normalisation, what), tasks):
        for block in counted:
            statistics.add(block)
            done = block.start + len(block.kept)
        total = onto(total, found)
        progress("reading cells", done, n_cells, **figures)
    assert total is not None, "atlases without cells are refused before"
    return statistics.statistics(), total
