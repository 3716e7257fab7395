"""Cells to decompose, read a stretch at a time from wherever they are.

A pass is cut into stretches at fixed cells (of a Dask array: at its chunks), each of which
is a task; what is read is pure, so that a task may run anywhere and again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.kernels.cells import as_tile
from tigon.kernels.tile import CellTile
from tigon.scaling.selecting import GeneSelection
from tigon.storage.errors import InputError
from tigon.storage.packs.reader import CellReader
from tigon.storage.sources.matrices.matrix import SparseRows
from tigon.storage.sums import cell_totals
from tigon.storage.views.reopening import AtlasReference

if TYPE_CHECKING:
    from tigon.storage.block import Block

BLOCK_CELLS = 2048
"""Cells that are decoded at a time."""


@dataclass(frozen=True, slots=True)
class Cells:
    """Some cells as the kernels read them.

    Attributes
    ----------
    tile
        Counts over the genes that take part, in contiguous arrays, all weights 1.
    totals
        Sums of each cell's counts over all genes, float64, shape (n,).
    """

    tile: CellTile
    totals: NDArray[np.float64]


class Rows(Protocol):
    """A matrix of cells by genes that is read again in each pass."""

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes that take part."""
        ...

    @property
    def n_bytes(self) -> int:
        """Bytes that a pass decodes."""
        ...

    def cuts(self) -> list[tuple[int, int]]:
        """First and last of the stretches that a pass reads, in order."""
        ...

    def read(self, start: int, stop: int) -> Cells:
        """Cells of one such stretch, or of a part of it."""
        ...


def even_cuts(n_cells: int) -> list[tuple[int, int]]:
    """Stretches of 2,048 cells."""
    return [(start, min(start + BLOCK_CELLS, n_cells)) for start in range(0, n_cells, BLOCK_CELLS)]


@dataclass(frozen=True, slots=True)
class AtlasRows:
    """Kept cells and selected genes of an atlas.

    Attributes
    ----------
    atlas
        How a task gets at it.
    selection
        Which genes.
    shape
        Cells that are kept, and genes.
    kept
        Which cells are kept, bool, shape (n cells of the atlas,); None for all.
    n_bytes
        Bytes that a pass decodes.
    """

    atlas: AtlasReference
    selection: GeneSelection
    shape: tuple[int, int]
    n_bytes: int
    kept: NDArray[np.bool_] | None = None

    def cuts(self) -> list[tuple[int, int]]:
        """Of the cells of the atlas."""
        return even_cuts(self.shape[0] if self.kept is None else len(self.kept))

    def read(self, start: int, stop: int) -> Cells:
        """Kept ones among cells ``start`` to ``stop`` of the atlas."""
        block = self.atlas.get().read(start, stop)
        totals = cell_totals(SparseRows(block.indptr, block.indices, block.values))
        kept = None if self.kept is None else self.kept[start:stop]
        return cells_of_block(block, self.selection, totals, kept)


def cells_of_block(
    block: Block,
    selection: GeneSelection,
    totals: NDArray[np.float64],
    kept: NDArray[np.bool_] | None,
) -> Cells:
    """Kept cells and selected genes of a block.

    Parameters
    ----------
    block, totals
        Cells over all genes of the atlas, and the sums of their counts, shape (n,).
    selection
        Which genes.
    kept
        Which cells, shape (n,); None for all.
    """
    indptr, counts = block.indptr, block.values
    genes: NDArray[Any] = block.indices
    if not selection.is_everything:
        entries = np.flatnonzero(selection.selected.take(genes))
        indptr = np.searchsorted(entries, indptr)
        genes = selection.places.take(genes.take(entries))
        counts = counts.take(entries)
    elif genes.dtype == np.int32:
        genes = genes.view(np.uint32)  # as kernels read them; none is negative
    rows = np.arange(block.n_cells, dtype=np.int64)
    tile = CellTile(rows, indptr, genes, counts, np.ones(block.n_cells, np.float32))
    if kept is None or kept.all():
        return Cells(tile, totals)
    rows = np.flatnonzero(kept)
    return Cells(CellTile(rows, *tile.arrays[1:]), totals[rows])


@dataclass(frozen=True, slots=True)
class PackRows:
    """Cells of a pack, in its order; their weights say their totals."""

    pack: CellReader
    shape: tuple[int, int]
    n_bytes: int

    def cuts(self) -> list[tuple[int, int]]:
        """Of the cells of the pack."""
        return even_cuts(self.shape[0])

    def read(self, start: int, stop: int) -> Cells:
        """Cells ``start`` to ``stop`` of the pack."""
        block = self.pack.read(start, stop)
        n, weights = stop - start, block.weights.astype(np.float64)
        totals = np.divide(1.0, weights, out=np.zeros(n), where=weights > 0)
        ones = np.ones(n, np.float32)
        rows = np.arange(n, dtype=np.int64)
        return Cells(CellTile(rows, block.indptr, block.genes, block.counts, ones), totals)


@dataclass(frozen=True, slots=True)
class MatrixRows:
    """A matrix in memory: SciPy's sparse ones in CSR form, or dense."""

    matrix: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        n_cells, n_genes = self.matrix.shape
        return int(n_cells), int(n_genes)

    @property
    def n_bytes(self) -> int:
        """Bytes of its entries."""
        if isinstance(self.matrix, np.ndarray):
            return self.matrix.nbytes
        return int(self.matrix.data.nbytes + self.matrix.indices.nbytes)

    def cuts(self) -> list[tuple[int, int]]:
        """Of its rows."""
        return even_cuts(self.shape[0])

    def read(self, start: int, stop: int) -> Cells:
        """Rows ``start`` to ``stop``."""
        return cells_of(self.matrix[start:stop], start)


@dataclass(frozen=True, slots=True)
class DaskRows:
    """A Dask array of chunks of rows, each a CSR matrix or dense; every chunk is a task.

    A chunk is computed where its task runs, on one thread.
    """

    array: Any

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        n_cells, n_genes = self.array.shape
        return int(n_cells), int(n_genes)

    @property
    def n_bytes(self) -> int:
        """Bytes of its entries were it dense: how many are zero is not known."""
        return int(self.array.nbytes)

    def cuts(self) -> list[tuple[int, int]]:
        """Of its chunks."""
        ends = np.cumsum(self.array.chunks[0]).tolist()
        return list(zip([0, *ends[:-1]], ends, strict=True))

    def read(self, start: int, stop: int) -> Cells:
        """Rows ``start`` to ``stop``, within one chunk."""
        found = self.array[start:stop].compute(scheduler="synchronous")
        return cells_of(found, start)


def cells_of(matrix: Any, start: int) -> Cells:
    """Rows of a matrix, which begin with cell ``start``, as the kernels read them.

    Raises
    ------
    InputError
        Entries that are not finite real numbers, or masked.
    """
    if isinstance(matrix, np.ma.MaskedArray):
        raise InputError(
            "the matrix is a masked array, whose masked entries would be taken for what lies below "
            "the mask: pass its filled(0), or another number"
        )
    try:
        tile, _ = as_tile(sparse.csr_array(matrix), None, merged=True)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"rows {start:,} to {start + matrix.shape[0]:,} cannot be decomposed: {error}"
        ) from error
    return Cells(tile, cell_totals(SparseRows(tile.indptr, tile.genes, tile.counts)))
