"""Y^T Y of transformed counts, for principal components (Numba).

Sums of pairs of genes lie by rank, the genes that most cells have first. Rows of pairs with
these frequent genes are products of the sparse entries with dense panels of them, and a panel
of a row stays in registers while the cells of its gene go by: a pair then takes a fraction of
a read, where adding it alone takes three reads and a write. Pairs of two other genes are added
alone, below the diagonal. Bits do not depend on which genes are taken for frequent by more than
what a fused multiplication and addition rounds.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.kernels.cells import contiguous_tile
from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.entries import CellEntries, Float64, GeneEntries, Transform, blocks_of
from tigon.kernels.cpu.lanes import at, put
from tigon.kernels.cpu.sketches import Sums
from tigon.kernels.cpu.whole import even_cuts, part_of
from tigon.kernels.threads import map_tiles
from tigon.kernels.tile import CellTile

_FREQUENT = 0.15
"""Share of the cells that have a gene from which on a panel is quicker."""

_SHAPE = (0, 0, 0, 0, 0)
_LANES = 4 * len(_SHAPE)

_CHUNK_CELLS = 4096
"""Cells whose transformed entries are held at once."""

_RANGE_GENES = 256
"""Rare genes of a task."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """The order in which genes lie while pairs of them are summed.

    Attributes
    ----------
    ranks
        Rank of each gene, uint16 where that is enough, or uint32, shape (m,).
    n_frequent
        How many of the first ranks are taken in panels, a multiple of their width.
    """

    ranks: NDArray[np.unsignedinteger]
    n_frequent: int

    @classmethod
    def of(cls, tile: CellTile, m: int) -> Self:
        """Judged by the entries of the first rows of a tile."""
        first = np.unique(tile.rows[:_CHUNK_CELLS])
        parts = [tile.genes[tile.indptr[c] : tile.indptr[c + 1]] for c in first.tolist()]
        counts = np.bincount(np.concatenate([*parts, np.zeros(0, np.int64)]), minlength=m)
        order = np.argsort(-counts, kind="stable")
        n_frequent = int((counts > _FREQUENT * len(first)).sum()) // _LANES * _LANES
        # Genes of a cell ascend; so must the ranks of the rare ones among them.
        order[n_frequent:].sort()
        ranks: NDArray[np.unsignedinteger] = np.empty(m, np.min_scalar_type(max(m - 1, 256)))
        ranks[order] = np.arange(m)
        return cls(ranks, n_frequent)

    def by_gene(self, out: Float64, sums: Float64, squares: Float64) -> Sums:
        """Whole Y^T Y (m, m) and moments (m,) from what lies by rank."""
        _mirror(out)
        return out[np.ix_(self.ranks, self.ranks)], sums[self.ranks], squares[self.ranks]


def sparse_gram(tile: CellTile, transform: Transform, n_threads: int | None) -> Sums:
    """Y^T Y, shape (m, m); see :func:`tigon.kernels.sketches.sparse_gram`."""
    m, tile = len(transform.column_scale), contiguous_tile(tile)
    ranking = Ranking.of(tile, m)
    onto = np.zeros((m, m)), np.zeros(m), np.zeros(m)
    add_sparse_gram(tile, transform, ranking, onto, n_threads)
    return ranking.by_gene(*onto)


def add_sparse_gram(
    tile: CellTile, transform: Transform, ranking: Ranking, onto: Sums, n_threads: int | None
) -> None:
    """Add Y^T Y (m, m), on and below its diagonal, and moments (m,), all by rank, in place.

    The tile's arrays are contiguous, genes ascend in a cell. Tasks are panels and ranges of
    rows of the result, each of which walks over all cells, so that there are no partial sums.
    """
    out, sums, squares = onto
    m, flat = len(out), out.ravel()

    def read(cells: slice) -> list[_Block]:
        blocks = blocks_of(part_of(tile, cells), transform.part(cells))
        return [_Block.of(block, ranking) for block in blocks]

    for first in range(0, len(tile.rows), _CHUNK_CELLS):
        n = min(_CHUNK_CELLS, len(tile.rows) - first)
        cuts = [slice(first + c.start, first + c.stop) for c in even_cuts(n, _CHUNK_CELLS // 2)]
        blocks = [block for piece in map_tiles(read, cuts, n_threads) for block in piece]

        def add_panel(low: int, blocks: list[_Block] = blocks) -> None:
            for block in blocks:
                panel = block.panel(low)
                block.genes.add_products(panel, _SHAPE, flat[low:], m, low)

        def add_rare(low: int, blocks: list[_Block] = blocks) -> None:
            for block in blocks:
                block.add_pairs(ranking.n_frequent, low, min(low + _RANGE_GENES, m), flat, m)

        map_tiles(add_panel, range(0, ranking.n_frequent, _LANES), n_threads)
        map_tiles(add_rare, range(ranking.n_frequent, m, _RANGE_GENES), n_threads)
        for block in blocks:
            block.genes.add_moments(sums, squares)


@dataclass(frozen=True, slots=True)
class _Block:
    """Entries by rank, and those of rare genes by cell.

    Attributes
    ----------
    n_cells
        Cells.
    genes
        All entries, by rank.
    ranks, values
        Entries of rare genes, cell after cell, each shape (n_rare,).
    spans
        For these entries by rank, where those of their cell begin, and they themselves are,
        int32, shape (n_rare, 2).
    """

    n_cells: int
    genes: GeneEntries
    ranks: NDArray[np.unsignedinteger]
    values: Float64
    spans: NDArray[np.int32]

    @classmethod
    def of(cls, cells: CellEntries, ranking: Ranking) -> Self:
        genes = cells.by_gene(ranking.ranks)
        first = ranking.n_frequent
        entries = cells.starts, cells.genes, cells.values
        rare = _rare(*entries, ranking.ranks, first, genes.starts[first:] - genes.starts[first])
        return cls(cells.n_cells, genes, *rare)

    def panel(self, low: int) -> Float64:
        """Dense columns of the frequent genes from rank ``low`` on."""
        out: Float64 = aligned_zeros(self.n_cells * _LANES, np.float64)
        _spread(self.genes.starts, self.genes.cells, self.genes.values, low, out)
        return out

    def add_pairs(self, first: int, low: int, high: int, onto: Float64, m: int) -> None:
        """Add pairs of genes from rank ``first`` on to rows ``low`` to ``high``, in place."""
        starts = self.genes.starts - self.genes.starts[first]
        _add_pairs(starts, self.spans.ravel(), self.ranks, self.values, low, high, onto, m)


@njit(cache=True, nogil=True)
def _rare(starts, genes, values, ranks, n_frequent, where):  # type: ignore[no-untyped-def]
    """Ranks, values and spans of the genes that are not frequent; overwrites ``where``."""
    n_rare, stop = where[-1], 0
    found, taken = np.empty(n_rare, ranks.dtype), np.empty(n_rare)
    spans = np.empty((n_rare, 2), np.int32)
    for i in range(len(starts) - 1):
        first = stop
        for t in range(starts[i], starts[i + 1]):
            rank = ranks[at(genes, t)]
            if rank >= n_frequent:
                found[stop], taken[stop] = rank, at(values, t)
                place = where[rank - n_frequent]
                spans[place, 0], spans[place, 1] = first, stop
                where[rank - n_frequent] = place + 1
                stop += 1
    return found, taken, spans


@njit(cache=True, nogil=True)
def _spread(starts, cells, values, low, panel):  # type: ignore[no-untyped-def]
    for j in range(_LANES):
        for t in range(starts[low + j], starts[low + j + 1]):
            put(panel, np.int64(at(cells, t)) * _LANES + j, at(values, t))


@njit(cache=True, nogil=True)
def _add_pairs(starts, spans, ranks, values, low, high, out, m):  # type: ignore[no-untyped-def]
    """Add pairs of rare genes to rows ``low`` to ``high``, up to the diagonal."""
    for g in range(low, high):
        for t in range(starts[g], starts[g + 1]):
            first, last = np.int64(at(spans, 2 * t)), np.int64(at(spans, 2 * t + 1))
            y = at(values, last)
            for u in range(first, last + 1):
                place = g * m + np.int64(at(ranks, u))
                put(out, place, at(out, place) + y * at(values, u))


@njit(cache=True, nogil=True)
def _mirror(out):  # type: ignore[no-untyped-def]
    """Copy what lies below the diagonal of a square matrix to above it."""
    for i in range(len(out)):
        for j in range(i):
            out[j, i] = out[i, j]
