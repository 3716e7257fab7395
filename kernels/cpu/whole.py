"""Whole matrices on the CPU: ranges of genes and tiles of cells on threads.

Cuts are decided by the shapes alone and partial sums are added in their order, so that
results never depend on the threads.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cells import contiguous_tile
from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.genes import hals as hals_genes
from tigon.kernels.cpu.grams import add_gram
from tigon.kernels.cpu.metagenes import MetageneTable
from tigon.kernels.cpu.panels import padded_rows, panels_of, row_width
from tigon.kernels.cpu.products import add_by_gene, products
from tigon.kernels.cpu.step import minibatch_step_in_place
from tigon.kernels.cpu.sweep import SolverGram
from tigon.kernels.threads import map_tiles
from tigon.kernels.tile import CellTile, Metagenes, TileStatistics

_TILE_CELLS = 1280
"""Cells of a task: their products and loadings stay in the cache between the two."""

_RANGE_GENES = 1024
"""Genes of a task."""

MOST_SUMS = 16
"""Partial sums that are held at once, each as large as the result."""


def even_cuts(n: int, most_cells: int, most_cuts: int | None = None) -> list[slice]:
    """Cut n cells evenly into tiles of at most ``most_cells``, or into ``most_cuts`` tiles.

    At least one tile; decided by these numbers alone.
    """
    n_cuts = max(1, -(-n // most_cells))
    if most_cuts is not None:
        n_cuts = min(n_cuts, most_cuts)
    edges = [i * n // n_cuts for i in range(n_cuts + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


def part_of(tile: CellTile, cells: slice) -> CellTile:
    """Some cells of a tile; a view."""
    return CellTile(tile.rows[cells], tile.indptr, tile.genes, tile.counts, tile.weights)


def gram(
    L: NDArray[Any], V: NDArray[Any] | None, lam: float, n_threads: int | None
) -> NDArray[np.float64]:
    """See :func:`tigon.kernels.factors.gram`."""
    k, m = L.shape
    terms = [(_real(L), 1.0)]
    if V is not None and lam:
        terms.append((_real(V), float(lam)))

    def sum_range(first: int) -> NDArray[np.float64]:
        G = np.zeros((k, k))
        for rows, weight in terms:
            add_gram(G, rows, weight, first, min(first + _RANGE_GENES, m))
        return G

    G = np.zeros((k, k))
    for part in map_tiles(sum_range, range(0, m, _RANGE_GENES), n_threads):
        G += part
    return G + np.tril(G, -1).T


def _real(rows: NDArray[Any]) -> NDArray[Any]:
    return np.ascontiguousarray(rows, np.float32 if rows.dtype == np.float32 else np.float64)


def hals(
    factor: NDArray[Any],
    target: NDArray[Any],
    gram: NDArray[Any],
    n_sweeps: int,
    n_threads: int | None,
) -> NDArray[np.float32]:
    """See :func:`tigon.kernels.factors.hals`."""
    F = np.array(factor, np.float32, order="C")
    m = F.shape[1]
    # By a power of two, which is exact: the kernel keeps both sides in float32.
    scale = 2.0 ** -np.frexp(float(gram.max(initial=0)))[1]
    S = SolverGram.of((gram * scale).astype(np.float32))
    T = np.multiply(target, scale, order="C", dtype=np.float64)

    def improve(first: int) -> None:
        last = min(first + _RANGE_GENES, m)
        hals_genes(F, T, *S.arrays, n_sweeps, first, last)

    map_tiles(improve, range(0, m, _RANGE_GENES), n_threads)
    return F


def spmm(tile: CellTile, D: NDArray[Any], n_threads: int | None) -> NDArray[np.float32]:
    """X D, shape (n, l); see :func:`tigon.kernels.products.spmm`."""
    tile, n, n_columns = contiguous_tile(tile), len(tile.rows), D.shape[1]
    table = padded_rows(np.asarray(D, np.float32))
    width, shape = table.shape[1], panels_of(n_columns, np.float32)[1]
    result = np.empty((n, n_columns), np.float32)

    def multiply(cells: slice) -> None:
        part = part_of(tile, cells)
        R = aligned_zeros(len(part.rows) * width, np.float32)
        products(*part.arrays, table.ravel(), width, shape, R)
        result[cells] = R.reshape(-1, width)[:, :n_columns]

    map_tiles(multiply, even_cuts(n, _TILE_CELLS), n_threads)
    return result


def spmm_transposed(
    tile: CellTile, D: NDArray[Any], n_genes: int, n_threads: int | None
) -> NDArray[np.float64]:
    """X^T D, shape (m, l); see :func:`tigon.kernels.products.spmm`."""
    tile, n, n_columns = contiguous_tile(tile), len(tile.rows), D.shape[1]
    width, shape = row_width(n_columns, np.float64), panels_of(n_columns, np.float64)[1]
    ones = np.ones(n_genes)

    def sum_cells(cells: slice) -> NDArray[np.float64]:
        rows = padded_rows(np.asarray(D[cells], np.float64))
        sums: NDArray[np.float64] = aligned_zeros(n_genes * width, np.float64)
        add_by_gene(*part_of(tile, cells).arrays, ones, rows.ravel(), sums, width, shape)
        return sums

    first, *others = map_tiles(sum_cells, even_cuts(n, _TILE_CELLS, MOST_SUMS), n_threads)
    for sums in others:
        first += sums
    return np.ascontiguousarray(first.reshape(n_genes, width)[:, :n_columns])


def minibatch_step(
    tile: CellTile,
    metagenes: Metagenes,
    tol: float,
    H0: NDArray[Any] | None,
    n_threads: int | None,
) -> tuple[NDArray[np.float32], TileStatistics]:
    """See :func:`tigon.kernels.minibatch.minibatch_step`."""
    tile = contiguous_tile(tile)
    table = MetageneTable.laid_out(
        Metagenes(
            np.asarray(metagenes.scaled, np.float32),
            metagenes.gram,
            np.ascontiguousarray(metagenes.scale, np.float64),
        )
    )
    k, places = len(metagenes.gram), np.arange(len(tile.rows))
    H = np.zeros((len(places), k), np.float32)
    if H0 is not None:
        H[:] = H0
    sizes = np.ones(k, np.float32)

    def solve(cells: slice) -> TileStatistics:
        part = part_of(tile, cells)
        return minibatch_step_in_place(part, table, tol, H, places[cells], sizes)

    cuts = even_cuts(len(tile.rows), _TILE_CELLS)
    total, *others = map_tiles(solve, cuts[:MOST_SUMS], n_threads)
    for first in range(MOST_SUMS, len(cuts), MOST_SUMS):
        while others:  # each is let go before more are made
            total += others.pop(0)
        others = map_tiles(solve, cuts[first : first + MOST_SUMS], n_threads)
    for found in others:
        total += found
    return H, total
