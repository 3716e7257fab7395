"""Y^T (Y Q) of transformed counts, for principal components (Numba).

For a block of cells and a panel of columns of Q, Y Q is summed in registers along the
entries of each cell, then each entry adds its cell's row to its gene's of Y^T (Y Q). Both take
genes that are near to each other in all cells before the next, so that their rows stay in the
second-level cache. Neither Y nor Y Q is ever held for more cells than a block.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.kernels.cells import contiguous_tile
from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.entries import CellEntries, Float64, Transform, blocks_of
from tigon.kernels.cpu.lanes import at, fma, load, put, store
from tigon.kernels.cpu.panels import MOST_PARTS_ALONE, panels_of
from tigon.kernels.cpu.whole import MOST_SUMS, even_cuts, part_of
from tigon.kernels.threads import map_tiles
from tigon.kernels.tile import CellTile

Sums = tuple[Float64, Float64, Float64]
"""Product, column sums and column sums of squares."""

_SLICE_CELLS = 640
"""Cells of a task."""

_NEAR_BYTES = 1 << 18
"""Of a panel of Q, or of sums, that all cells of a block go through before the next."""


@njit(cache=True, nogil=True)
def _cut(starts, genes, near, n_genes):  # type: ignore[no-untyped-def]
    """Where the entries of each cell begin that are of the next ``near`` genes, row by row."""
    n_cells, n_cuts = len(starts) - 1, -(-n_genes // near)
    cuts = np.empty((n_cuts + 1, n_cells), np.int64)
    for i in range(n_cells):
        t = cuts[0, i] = starts[i]
        for n in range(1, n_cuts + 1):
            while t < starts[i + 1] and np.int64(at(genes, t)) < n * near:
                t += 1
            cuts[n, i] = t
    return cuts


@njit(cache=True, nogil=True)
def _project(cuts, genes, values, table, shape, out):  # type: ignore[no-untyped-def]
    """Add a panel of Y Q of some cells, from a panel of Q, in place."""
    lanes, (n_cuts, n_cells) = len(shape) * 4, cuts.shape
    for n in range(n_cuts - 1):
        for i in range(n_cells):
            total = load(out, i * lanes, shape)
            for t in range(cuts[n, i], cuts[n + 1, i]):
                row = load(table, np.int64(at(genes, t)) * lanes, shape)
                total = fma(at(values, t), row, total)
            store(out, i * lanes, total)


@njit(cache=True, nogil=True)
def _project_back(cuts, genes, values, product, shape, onto):  # type: ignore[no-untyped-def]
    """Add a panel of Y^T (Y Q), from one of Y Q, in place: the cells of a gene in their order."""
    lanes, (n_cuts, n_cells) = len(shape) * 4, cuts.shape
    for n in range(n_cuts - 1):
        for i in range(n_cells):
            row = load(product, i * lanes, shape)
            for t in range(cuts[n, i], cuts[n + 1, i]):
                place = np.int64(at(genes, t)) * lanes
                store(onto, place, fma(at(values, t), row, load(onto, place, shape)))


@njit(cache=True, nogil=True)
def _add_moments(genes, values, sums, squares):  # type: ignore[no-untyped-def]
    """Add the sums of Y and of Y^2 of each gene, in place."""
    for t in range(len(genes)):
        g, y = np.int64(at(genes, t)), at(values, t)
        put(sums, g, at(sums, g) + y)
        put(squares, g, at(squares, g) + y * y)


class Sketcher:
    """Y^T (Y Q) and Y Q of one tile after the other, on the thread that calls.

    Parameters
    ----------
    Q
        Real, shape (m, l); copied.
    """

    def __init__(self, Q: NDArray[Any]) -> None:
        m, self.n_columns = Q.shape
        self._n_genes = m
        n_panels, self._shape = panels_of(self.n_columns, np.float64, MOST_PARTS_ALONE)
        self._lanes = 4 * len(self._shape)
        self._table: Float64 = aligned_zeros(n_panels * m * self._lanes, np.float64)
        self._table = self._table.reshape(n_panels, -1)  # a panel lies together
        for number, panel in enumerate(self._table.reshape(n_panels, m, self._lanes)):
            columns = Q[:, number * self._lanes : (number + 1) * self._lanes]
            panel[:, : columns.shape[1]] = columns

    def zeros(self) -> Sums:
        """Sums of no cells: the product in panels, flat, and moments (m,)."""
        moments = np.zeros((2, self._n_genes))
        return aligned_zeros(self._table.size, np.float64), *moments

    def add(self, tile: CellTile, transform: Transform, onto: Sums) -> None:
        """Add the cells of a tile of contiguous arrays, one after the other, in place."""
        total, sums, squares = onto
        panels = total.reshape(self._table.shape)
        for block in blocks_of(tile, transform):
            _add_moments(block.genes, block.values, sums, squares)
            cuts, entries = self._cuts(block), (block.genes, block.values)
            for table, panel in zip(self._table, panels, strict=True):
                product = self._panel(block, cuts, table)
                _project_back(cuts, *entries, product, self._shape, panel)

    def project(self, tile: CellTile, transform: Transform) -> Float64:
        """Y Q of the cells of a tile of contiguous arrays, shape (n, l)."""
        out: Float64 = np.empty((len(tile.rows), len(self._table), self._lanes))
        first = 0
        for block in blocks_of(tile, transform):
            cuts = self._cuts(block)
            for number, table in enumerate(self._table):
                product = self._panel(block, cuts, table).reshape(-1, self._lanes)
                out[first : first + block.n_cells, number] = product
            first += block.n_cells
        return out.reshape(len(out), len(self._table) * self._lanes)[:, : self.n_columns]

    def product(self, sums: Sums) -> Float64:
        """The product without its padding, shape (m, l); a copy."""
        m, n_panels = self._n_genes, len(self._table)
        by_gene = sums[0].reshape(n_panels, m, self._lanes).swapaxes(0, 1)
        whole: Float64 = by_gene.reshape(m, -1)[:, : self.n_columns].copy()
        return whole

    def _cuts(self, block: CellEntries) -> NDArray[np.int64]:
        near = max(1, _NEAR_BYTES // (8 * self._lanes))
        cuts: NDArray[np.int64] = _cut(block.starts, block.genes, near, self._n_genes)
        return cuts

    def _panel(self, block: CellEntries, cuts: NDArray[np.int64], table: Float64) -> Float64:
        out: Float64 = aligned_zeros(block.n_cells * self._lanes, np.float64)
        _project(cuts, block.genes, block.values, table, self._shape, out)
        return out


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
