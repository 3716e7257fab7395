"""All that is done with a tile of cells, in two calls: loadings, and sums over them (Numba).

Between the calls of kernels the GIL would be taken, and threads would wait for each other.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tigon.kernels.cpu.aligned import aligned_empty, aligned_zeros
from tigon.kernels.cpu.descent import descend
from tigon.kernels.cpu.lanes import PART_BYTES, at, load, multiply, put, store
from tigon.kernels.cpu.products import add_by_gene, explained, products, scale_rows
from tigon.kernels.cpu.statistics import add_second_moments, widen_rows
from tigon.kernels.cpu.sweep import BLOCK


@njit(cache=True, nogil=True)
def solve_tile(  # type: ignore[no-untyped-def]
    rows,
    indptr,
    genes,
    counts,
    weights,
    table,
    width,
    shape,
    blocks,
    step,
    reach,
    limit,
    most,
    H,
    places,
    sizes,
):
    """Loadings of a tile, from and into rows of H.

    Parameters
    ----------
    rows, indptr, genes, counts, weights
        As in :class:`tigon.kernels.tile.CellTile`.
    table, width, shape
        As for :func:`tigon.kernels.cpu.products.products`.
    blocks, step, reach, limit, most
        As for :func:`tigon.kernels.cpu.descent.descend`.
    H
        Loadings times ``sizes``, float32, shape (any, k): where cells start, and written.
    places
        Row of each cell in ``H``, int64, shape (n,).
    sizes
        float32, shape (k,).

    Returns
    -------
    R, solved
        Products and loadings, float32, flat: n padded rows of ``width``.
    residual
        A bound of the KKT residual relative to the largest |r|, float64, shape (n,).
    """
    n, k = len(rows), len(sizes)
    R, solved = aligned_empty(n * width, np.float32), aligned_empty(n * width, np.float32)
    sweeps, residual = np.empty(n, np.int32), np.empty(n)
    products(rows, indptr, genes, counts, weights, table, width, shape, R)
    flat, inverse = H.ravel(), np.empty(k, np.float32)
    for j in range(k):
        inverse[j] = 1 / sizes[j]
    for i in range(n):
        _scale_row(flat, places[i] * k, inverse, k, solved, i * width)
        for j in range(k, width):
            put(solved, i * width + j, np.float32(0))
    descend(
        blocks,
        step,
        reach,
        (1.0, 1.0),
        R,
        width,
        solved,
        solved,
        width,
        k,
        limit,
        most,
        sweeps,
        residual,
    )
    for i in range(n):
        _scale_row(solved, i * width, sizes, k, flat, places[i] * k)
    return R, solved, residual


@njit(cache=True, nogil=True, inline="always")
def _scale_row(source, start, factors, k, target, place):  # type: ignore[no-untyped-def]
    """A row of k entries from one array to another, times ``factors``."""
    lanes = PART_BYTES // 4
    whole = k // lanes * lanes
    for j in range(0, whole, lanes):
        store(target, place + j, multiply(load(source, start + j, 1), load(factors, j, 1)))
    for j in range(whole, k):
        put(target, place + j, at(source, start + j) * at(factors, j))


@njit(cache=True, nogil=True)
def sum_tile(rows, indptr, genes, counts, weights, scale, R, H, k, shape):  # type: ignore[no-untyped-def]
    """What the loadings of a tile add to the statistics.

    Parameters
    ----------
    rows, indptr, genes, counts, weights
        As in :class:`tigon.kernels.tile.CellTile`.
    scale
        Gene scale, float64, shape (m,).
    R, H
        Products and loadings as :func:`solve_tile` leaves them.
    k, shape
        Number of factors, and a panel of them in float64.

    Returns
    -------
    A
        H^T H, float64, shape (k, k).
    B
        X^T H, float64, flat: m padded rows.
    squared, explained
        |X|^2 and tr(H R^T).
    """
    n, m, step = len(rows), len(scale), len(shape) * (PART_BYTES // 8)
    width = -(-k // step) * step
    wide = aligned_empty(n * width, np.float64)
    widen_rows(H, n, len(H) // max(n, 1), k, wide, width)
    B = aligned_zeros(m * width, np.float64)
    squared = add_by_gene(rows, indptr, genes, counts, weights, scale, wide, B, width, shape)
    scale_rows(B, width, scale)
    moments = aligned_zeros(-(-k // BLOCK) * BLOCK * width, np.float64)
    add_second_moments(wide, n, width, k, moments)
    A = np.empty((k, k))
    for i in range(k):
        for j in range(i + 1):
            A[i, j] = A[j, i] = moments[i * width + j]
    return A, B, squared, explained(R, H)
