"""Transformed counts of some cells, by cell and by gene (Numba).

Sums over genes for a cell walk along its entries; sums over cells for a gene, along those of
the gene, so that what they are added to stays in registers. Both take entries in their order,
genes in a cell and cells of a gene: a sum's bits depend neither on how cells are cut nor on
which way it is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.kernels.cpu.lanes import at, fma, load, put, store
from tigon.kernels.tile import CellTile

Float64 = NDArray[np.float64]

_MOST_CELLS = 2048
"""Cells of a block: a panel of a product for each stays in the second-level cache."""

_MOST_ENTRIES = 1 << 20
"""Entries of a block, unless one cell has more: 24 bytes each are held."""

_COUNTS = 64
"""Logarithms of counts below this are kept from entry to entry of a cell."""


@dataclass(frozen=True, slots=True)
class Transform:
    """Y = f(row_scale * X) * column_scale, with f(x) = log(1 + x) or x.

    Attributes
    ----------
    row_scale
        float64, shape (n,): for the rows of the tile, its weights taken in.
    column_scale
        float64, shape (m,).
    log1p
        Whether f is log(1 + x).
    """

    row_scale: Float64
    column_scale: Float64
    log1p: bool

    def part(self, cells: slice) -> Transform:
        """Of some of the tile's cells; a view."""
        return Transform(self.row_scale[cells], self.column_scale, self.log1p)


@dataclass(frozen=True, slots=True)
class CellEntries:
    """Transformed entries, cell after cell.

    Attributes
    ----------
    starts
        Where each cell begins, int64, shape (n + 1,).
    genes
        uint32, shape (nnz,); in a cell each at most once.
    values
        float64, shape (nnz,).
    """

    starts: NDArray[np.int64]
    genes: NDArray[np.uint32]
    values: Float64

    @property
    def n_cells(self) -> int:
        """Cells."""
        return len(self.starts) - 1

    def by_gene(self, places: NDArray[np.unsignedinteger]) -> GeneEntries:
        """The same, gene after gene, each at its place (m,), a permutation."""
        return GeneEntries(*_by_gene(self.starts, self.genes, self.values, places))


@dataclass(frozen=True, slots=True)
class GeneEntries:
    """Transformed entries, gene after gene.

    Attributes
    ----------
    starts
        Where each gene begins, int64, shape (m + 1,).
    cells
        Ascending in a gene, uint16, shape (nnz,).
    values
        float64, shape (nnz,).
    """

    starts: NDArray[np.int64]
    cells: NDArray[np.uint16]
    values: Float64

    def add_moments(self, sums: Float64, squares: Float64) -> None:
        """Add the sums of Y and of Y^2 of each gene, in place."""
        _add_moments(self.starts, self.values, sums, squares)

    def add_products(
        self, panel: Float64, shape: tuple[int, ...], onto: Float64, width: int, first: int
    ) -> None:
        """Add Y^T P for a panel P of columns, to genes from ``first`` on, in place.

        Parameters
        ----------
        panel
            P, as wide as the lanes of ``shape``, shape (n * lanes,).
        onto
            Flat; a gene's sums begin at ``gene * width``.
        """
        _add_products(self.starts, self.cells, self.values, panel, shape, onto, width, first)


def blocks_of(tile: CellTile, transform: Transform) -> Iterator[CellEntries]:
    """Transformed entries of a tile of contiguous arrays, some cells after the other."""
    lengths = np.diff(tile.indptr)[tile.rows]
    ends = np.cumsum(lengths)
    first = 0
    while first < len(lengths):
        most = ends[first] - lengths[first] + _MOST_ENTRIES
        last = int(np.searchsorted(ends, most, side="right"))
        last = max(first + 1, min(last, first + _MOST_CELLS))
        some = transform.part(slice(first, last))
        yield CellEntries(
            *_read_cells(
                tile.rows[first:last], *tile.arrays[1:4],
                some.row_scale, some.column_scale, some.log1p,
            )
        )  # fmt: skip
        first = last


@njit(cache=True, nogil=True)
def _take_logarithms(values, first, last, scale, known):  # type: ignore[no-untyped-def]
    """log(1 + scale x) of a cell's counts, each small one computed once."""
    known[:] = -1.0
    for t in range(first, last):
        x = at(values, t)
        count = np.int64(x) if 0.0 <= x < _COUNTS else 0
        y = at(known, count) if x == count else -1.0
        if y < 0.0:
            y = np.log1p(x * scale)
            if x == count:
                put(known, count, y)
        put(values, t, y)


@njit(cache=True, nogil=True)
def _read_cells(rows, indptr, genes, counts, row_scale, column_scale, log1p):  # type: ignore[no-untyped-def]
    """Starts, genes and values; entries of a gene that follow each other are one."""
    n_entries = 0
    for c in rows:
        n_entries += indptr[c + 1] - indptr[c]
    starts = np.zeros(len(rows) + 1, np.int64)
    found, values = np.empty(n_entries, np.uint32), np.empty(n_entries)
    known, stop = np.empty(_COUNTS), np.int64(0)
    for i in range(len(rows)):
        before, scale = np.int64(-1), row_scale[i]
        for t in range(indptr[rows[i]], indptr[rows[i] + 1]):
            g, x = np.int64(at(genes, t)), np.float64(at(counts, t))
            if g == before:
                values[stop - 1] += x
            else:
                found[stop], values[stop], before = g, x, g
                stop += 1
        if log1p:
            _take_logarithms(values, starts[i], stop, scale, known)
            scale = 1.0
        for t in range(starts[i], stop):
            put(values, t, at(values, t) * scale * at(column_scale, np.int64(at(found, t))))
        starts[i + 1] = stop
    return starts, found[:stop], values[:stop]


@njit(cache=True, nogil=True)
def _by_gene(starts, genes, values, places):  # type: ignore[no-untyped-def]
    m, n_entries = len(places), len(genes)
    ends = np.zeros(m + 1, np.int64)
    for t in range(n_entries):
        ends[places[genes[t]] + 1] += 1
    for g in range(m):
        ends[g + 1] += ends[g]
    where = ends[:-1].copy()
    cells, turned = np.empty(n_entries, np.uint16), np.empty(n_entries)
    for i in range(len(starts) - 1):
        for t in range(starts[i], starts[i + 1]):
            g = places[at(genes, t)]
            place = at(where, g)
            put(cells, place, np.uint16(i))
            put(turned, place, at(values, t))
            put(where, g, place + 1)
    return ends, cells, turned


@njit(cache=True, nogil=True)
def _add_moments(starts, values, sums, squares):  # type: ignore[no-untyped-def]
    for g in range(len(starts) - 1):
        first, second = sums[g], squares[g]
        for t in range(starts[g], starts[g + 1]):
            y = at(values, t)
            first += y
            second += y * y
        sums[g], squares[g] = first, second


@njit(cache=True, nogil=True)
def _add_products(starts, cells, values, panel, shape, onto, width, first):  # type: ignore[no-untyped-def]
    lanes = len(shape) * 4
    for g in range(first, len(starts) - 1):
        if starts[g] == starts[g + 1]:
            continue
        total = load(onto, g * width, shape)
        for t in range(starts[g], starts[g + 1]):
            row = load(panel, np.int64(at(cells, t)) * lanes, shape)
            total = fma(at(values, t), row, total)
        store(onto, g * width, total)
