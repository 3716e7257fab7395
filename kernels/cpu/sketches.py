"""Gene-side products of transformed counts, for principal components (Numba).

A cell's entries are transformed once into a row of float64 values: with these either
its product with Q is summed in registers and added back to its genes, or all pairs of
them are added to the Gram matrix. Neither Y nor Y Q is ever held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.kernels.cells import contiguous_tile
from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import PART_BYTES, add, at, broadcast, fma, load, put, store
from tigon.kernels.cpu.panels import padded_rows, panels_of
from tigon.kernels.cpu.whole import MOST_SUMS, even_cuts, part_of
from tigon.kernels.threads import map_tiles
from tigon.kernels.tile import CellTile

Float64 = NDArray[np.float64]
Sums = tuple[Float64, Float64, Float64]
"""Product, column sums and column sums of squares."""

_SLICE_CELLS = 640
"""Cells of a task."""

_CHUNK_CELLS = 4096
"""Cells whose transformed entries are held while a Gram matrix is summed."""

_RANGE_BYTES = 1 << 20
"""Of the Gram matrix: rows of a task, which stay in the second-level cache."""


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


@njit(cache=True, nogil=True)
def _read_cell(  # type: ignore[no-untyped-def]
    first, last, genes, counts, row_scale, column_scale, log1p, start, found, values
):
    """Transform entries ``first`` to ``last``, those of one gene that follow each other as one.

    Writes genes and values from ``start`` on and returns where they end.
    """
    stop, before = start, np.int64(-1)
    for t in range(first, last):
        g, x = np.int64(at(genes, t)), np.float64(at(counts, t))
        if g == before:
            values[stop - 1] += x
        else:
            found[stop], values[stop], before = g, x, g
            stop += 1
    for t in range(start, stop):
        x = values[t] * row_scale
        values[t] = (np.log1p(x) if log1p else x) * column_scale[found[t]]
    return stop


@njit(cache=True, nogil=True)
def _longest(rows, indptr):  # type: ignore[no-untyped-def]
    longest = 0
    for c in rows:
        longest = max(longest, indptr[c + 1] - indptr[c])
    return longest


@njit(cache=True, nogil=True)
def _panel_of_product(genes, values, n, table, width, start, shape):  # type: ignore[no-untyped-def]
    """A panel of y^T Q of one cell, in registers."""
    even = broadcast(0.0, load(table, start, shape))
    odd = even
    for t in range(0, n - 1, 2):
        one, other = np.int64(at(genes, t)), np.int64(at(genes, t + 1))
        even = fma(at(values, t), load(table, one * width + start, shape), even)
        odd = fma(at(values, t + 1), load(table, other * width + start, shape), odd)
    if n % 2:
        place = np.int64(at(genes, n - 1)) * width + start
        even = fma(at(values, n - 1), load(table, place, shape), even)
    return add(even, odd)


@njit(cache=True, nogil=True)
def _add_panel(genes, values, n, table, width, start, shape, Z):  # type: ignore[no-untyped-def]
    """Add y (y^T Q) of one cell to a panel of Z."""
    product = _panel_of_product(genes, values, n, table, width, start, shape)
    for t in range(n):
        place = np.int64(at(genes, t)) * width + start
        store(Z, place, fma(at(values, t), product, load(Z, place, shape)))


@njit(cache=True, nogil=True)
def _add_moments(genes, values, n, sums, squares):  # type: ignore[no-untyped-def]
    for t in range(n):
        g, y = np.int64(at(genes, t)), at(values, t)
        put(sums, g, at(sums, g) + y)
        put(squares, g, at(squares, g) + y * y)


@njit(cache=True, nogil=True)
def _sketch_cells(  # type: ignore[no-untyped-def]
    rows, indptr, genes, counts, row_scale, column_scale, log1p, table, width, shape, Z, sums,
    squares,
):  # fmt: skip
    longest = _longest(rows, indptr)
    found, values = np.empty(longest, np.uint32), np.empty(longest)
    for i in range(len(rows)):
        first, last = indptr[rows[i]], indptr[rows[i] + 1]
        n = _read_cell(
            first, last, genes, counts, row_scale[i], column_scale, log1p, 0, found, values
        )
        _add_moments(found, values, n, sums, squares)
        for start in range(0, width, len(shape) * (PART_BYTES // 8)):
            _add_panel(found, values, n, table, width, start, shape, Z)


@njit(cache=True, nogil=True)
def _project_cells(  # type: ignore[no-untyped-def]
    rows, indptr, genes, counts, row_scale, column_scale, log1p, table, width, shape, out
):
    longest = _longest(rows, indptr)
    found, values = np.empty(longest, np.uint32), np.empty(longest)
    for i in range(len(rows)):
        first, last = indptr[rows[i]], indptr[rows[i] + 1]
        n = _read_cell(
            first, last, genes, counts, row_scale[i], column_scale, log1p, 0, found, values
        )
        for start in range(0, width, len(shape) * (PART_BYTES // 8)):
            product = _panel_of_product(found, values, n, table, width, start, shape)
            store(out, i * width + start, product)


class Sketcher:
    """Y^T (Y Q) and Y Q of one tile after the other, on the thread that calls.

    Parameters
    ----------
    Q
        Real, shape (m, l); copied.
    """

    def __init__(self, Q: NDArray[Any]) -> None:
        self.n_columns = Q.shape[1]
        self._table = padded_rows(np.asarray(Q, np.float64))
        self._shape = panels_of(self.n_columns, np.float64)[1]

    def zeros(self) -> Sums:
        """Sums of no cells: the product in padded rows, shape (m * width,), and moments (m,)."""
        m, width = self._table.shape
        return aligned_zeros(m * width, np.float64), np.zeros(m), np.zeros(m)

    def add(self, tile: CellTile, transform: Transform, onto: Sums) -> None:
        """Add the cells of a tile of contiguous arrays, one after the other, in place."""
        _sketch_cells(
            *tile.arrays[:4], transform.row_scale, transform.column_scale, transform.log1p,
            self._table.ravel(), self._table.shape[1], self._shape, *onto,
        )  # fmt: skip

    def project(self, tile: CellTile, transform: Transform) -> Float64:
        """Y Q of the cells of a tile of contiguous arrays, shape (n, l)."""
        width = self._table.shape[1]
        out: Float64 = aligned_zeros(len(tile.rows) * width, np.float64)
        _project_cells(
            *tile.arrays[:4], transform.row_scale, transform.column_scale, transform.log1p,
            self._table.ravel(), width, self._shape, out,
        )  # fmt: skip
        return out.reshape(-1, width)[:, : self.n_columns]

    def product(self, sums: Sums) -> Float64:
        """The product without its padding, shape (m, l); a copy."""
        whole: Float64 = sums[0].reshape(self._table.shape)[:, : self.n_columns].copy()
        return whole


def sketch(tile: CellTile, Q: NDArray[Any], transform: Transform, n_threads: int | None) -> Sums:
    """Y^T (Y Q), shape (m, l); see :func:`tigon.kernels.sketches.sketch`."""
    tile, sketcher = contiguous_tile(tile), Sketcher(Q)

    def sum_cells(cells: slice) -> Sums:
        sums = sketcher.zeros()
        sketcher.add(part_of(tile, cells), transform.part(cells), sums)
        return sums

    first, *others = map_tiles(
        sum_cells, even_cuts(len(tile.rows), _SLICE_CELLS, MOST_SUMS), n_threads
    )
    for parts in others:
        for total, part in zip(first, parts, strict=True):
            total += part
    return sketcher.product(first), first[1], first[2]


@njit(cache=True, nogil=True)
def _read_cells(rows, indptr, genes, counts, row_scale, column_scale, log1p):  # type: ignore[no-untyped-def]
    """Transformed entries of some cells: where each cell begins, genes and values."""
    n_entries = 0
    for c in rows:
        n_entries += indptr[c + 1] - indptr[c]
    starts = np.zeros(len(rows) + 1, np.int64)
    found, values = np.empty(n_entries, np.uint32), np.empty(n_entries)
    for i in range(len(rows)):
        first, last = indptr[rows[i]], indptr[rows[i] + 1]
        starts[i + 1] = _read_cell(
            first, last, genes, counts, row_scale[i], column_scale, log1p, starts[i], found, values
        )
    return starts, found, values


@njit(cache=True, nogil=True)
def _position(genes, first, last, gene):  # type: ignore[no-untyped-def]
    """The first of ascending entries whose gene is not below ``gene``."""
    while first < last:
        middle = (first + last) // 2
        if np.int64(at(genes, middle)) < gene:
            first = middle + 1
        else:
            last = middle
    return first


@njit(cache=True, nogil=True)
def _add_pairs(starts, genes, values, low, high, out, m, sums):  # type: ignore[no-untyped-def]
    """Add y y^T of some cells to rows ``low`` to ``high``, up to the diagonal, and y to sums."""
    for i in range(len(starts) - 1):
        first, last = starts[i], starts[i + 1]
        t = _position(genes, first, last, low)
        while t < last and np.int64(at(genes, t)) < high:
            g, y = np.int64(at(genes, t)), at(values, t)
            put(sums, g, at(sums, g) + y)
            for u in range(first, t + 1):
                place = g * m + np.int64(at(genes, u))
                put(out, place, at(out, place) + y * at(values, u))
            t += 1


@njit(cache=True, nogil=True)
def mirror(out):  # type: ignore[no-untyped-def]
    """Copy what lies below the diagonal of a square matrix to above it."""
    for i in range(len(out)):
        for j in range(i):
            out[j, i] = out[i, j]


def sparse_gram(tile: CellTile, transform: Transform, n_threads: int | None) -> Sums:
    """Y^T Y, shape (m, m); see :func:`tigon.kernels.sketches.sparse_gram`."""
    m = len(transform.column_scale)
    out, sums = np.zeros((m, m)), np.zeros(m)
    add_sparse_gram(contiguous_tile(tile), transform, out, sums, n_threads)
    mirror(out)
    return out, sums, out.diagonal().copy()


def add_sparse_gram(
    tile: CellTile, transform: Transform, out: Float64, sums: Float64, n_threads: int | None
) -> None:
    """Add Y^T Y to ``out`` (m, m) on and below its diagonal, and sums of Y to ``sums`` (m,).

    The tile's arrays are contiguous. Tasks are ranges of rows of the result, each of which
    walks over all cells, so that there are no partial sums.
    """
    m = len(out)
    n_rows = max(16, _RANGE_BYTES // (8 * m))

    def read(cells: slice) -> tuple[NDArray[np.int64], NDArray[np.uint32], Float64]:
        some = transform.part(cells)
        entries: tuple[NDArray[np.int64], NDArray[np.uint32], Float64] = _read_cells(
            *part_of(tile, cells).arrays[:4], some.row_scale, some.column_scale, some.log1p
        )
        return entries

    for first in range(0, len(tile.rows), _CHUNK_CELLS):
        n = min(_CHUNK_CELLS, len(tile.rows) - first)
        cuts = [slice(first + c.start, first + c.stop) for c in even_cuts(n, _SLICE_CELLS)]
        pieces = map_tiles(read, cuts, n_threads)

        def add(low: int, pieces: Any = pieces) -> None:
            for piece in pieces:
                _add_pairs(*piece, low, min(low + n_rows, m), out.ravel(), m, sums)

        map_tiles(add, range(0, m, n_rows), n_threads)
