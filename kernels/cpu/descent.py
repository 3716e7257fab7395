"""Coordinate descent for non-negative least squares, cells in SIMD lanes (Numba).

A lane whose cell has converged is handed to the next cell that waits, so that no lane
runs for nothing. A small last change is a hint of convergence, which costs nothing;
the KKT residual, computed anew from the loadings, is the proof. How many sweeps a
cell gets, and every bit of its loadings, depends on that cell alone.

References
----------
Hsieh and Dhillon (2011), doi:10.1145/2020408.2020577; Cichocki and Phan
(2009), doi:10.1587/transfun.E92.A.708.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import PART_BYTES, absolute, at, load, maximum, multiply, put, store
from tigon.kernels.cpu.residual import certify, largest_lane
from tigon.kernels.cpu.sweep import GROUP_BYTES, PARTS, sweep

_HINT = np.float32(1.0)
"""Changes of at most this share of the limit earn a check."""

_ROUNDING = 2e-6
"""What a residual computed in float32 may be off, relative to the largest product."""


def fast_limit(tol: float) -> np.float32:
    """The limit at which float32 loadings are certain to have a residual of ``tol``."""
    return np.float32(max(tol - _ROUNDING, tol / 2))


@njit(cache=True, nogil=True)
def _enter(R, H, c, k, width, group, r, h):  # type: ignore[no-untyped-def]
    """Bring cell c into the lane that begins at ``group``."""
    lanes = GROUP_BYTES // h.itemsize
    for j in range(k):
        put(r, group + j * lanes, at(R, c * width + j))
        put(h, group + j * lanes, at(H, c * width + j))


@njit(cache=True, nogil=True)
def _leave(H, c, k, width, group, h):  # type: ignore[no-untyped-def]
    lanes = GROUP_BYTES // h.itemsize
    for j in range(k):
        put(H, c * width + j, at(h, group + j * lanes))


@njit(cache=True, nogil=True)
def _measure(r, first, last, size, place):  # type: ignore[no-untyped-def]
    """Largest |r| of each lane of a group."""
    lanes = GROUP_BYTES // r.itemsize
    most = multiply(load(r, first, PARTS), at(r, 0) * 0)
    for i in range(first, last, lanes):
        most = maximum(absolute(load(r, i, PARTS)), most)
    store(size, place, most)


@njit(cache=True, nogil=True)
def _relax(blocks, diagonal, step, R, H, width, k, cells, hint, max_sweeps, sweeps):  # type: ignore[no-untyped-def]
    """Sweep each of the cells until its last change is at most ``hint`` times its largest |r|."""
    lanes, stride = GROUP_BYTES // R.itemsize, len(step) * (GROUP_BYTES // R.itemsize)
    r, h = aligned_zeros(2 * stride, R.dtype), aligned_zeros(2 * stride, R.dtype)
    change, size = aligned_zeros(2 * lanes, R.dtype), aligned_zeros(2 * lanes, R.dtype)
    cell = np.full(2 * lanes, -1)
    following, n_busy = 0, 0
    # Two groups take turns: what one has just written, it does not read at once.
    for place in range(0, 2 * lanes):
        if following < len(cells):
            start = place // lanes * stride + place % lanes
            cell[place] = cells[following]
            _enter(R, H, cell[place], k, width, start, r, h)
            following += 1
            n_busy += 1
    _measure(r, 0, stride, size, 0)
    _measure(r, stride, 2 * stride, size, lanes)
    group = 0
    while n_busy > 0:
        first = group * stride
        sweep(blocks, diagonal, step, r, h, first, change, group * lanes)
        entered = False
        for i in range(lanes):
            place = group * lanes + i
            c = cell[place]
            if c < 0:
                continue
            sweeps[c] += 1
            if change[place] > hint * size[place] and sweeps[c] < max_sweeps:
                continue
            _leave(H, c, k, width, first + i, h)
            if following < len(cells):
                cell[place] = cells[following]
                _enter(R, H, cell[place], k, width, first + i, r, h)
                following += 1
                entered = True
            else:
                cell[place] = -1
                n_busy -= 1
        if entered:
            _measure(r, first, first + stride, size, group * lanes)
        group = 1 - group


@njit(cache=True, nogil=True)
def descend(blocks, diagonal, step, rows, shape, R, H, tol, max_sweeps, sweeps, residual):  # type: ignore[no-untyped-def]
    """Solve H = argmin over H >= 0 of sum_c h_c G h_c^T - 2 r_c h_c^T, in place.

    Parameters
    ----------
    blocks, diagonal, step, rows, shape
        G as :class:`SolverGram` lays it out, float32 or float64.
    R
        Products, the dtype of G, flat: n padded rows.
    H
        In: where to start, non-negative. Out: the loadings. As R.
    tol
        A cell is done when its KKT residual is at most ``tol`` times its largest |r|.
    max_sweeps
        A cell that is not done by then keeps its last value.
    sweeps
        Written: sweeps that each cell took, int32, shape (n,).
    residual
        Written: KKT residual relative to the largest |r|, the dtype of G, shape (n,).
    """
    n = len(sweeps)
    if n == 0:
        return
    width = len(R) // n
    k = len(rows) // width
    weight = aligned_zeros(width, R.dtype)
    weight[: len(diagonal)] = diagonal[:width]
    sweeps[:] = 0
    cells = np.arange(n)
    n_left = n
    while n_left > 0:
        _relax(
            blocks, diagonal, step, R, H, width, k, cells[:n_left], tol * _HINT, max_sweeps, sweeps
        )
        certify(rows, weight, R, H, k, cells[:n_left], shape, residual)
        kept = 0
        for i in range(n_left):
            c = cells[i]
            cells[kept] = c
            kept += residual[c] > tol and sweeps[c] < max_sweeps
        n_left = kept


@njit(cache=True, nogil=True)
def _pad(rows, k, factor, padded, width):  # type: ignore[no-untyped-def]
    """Rows of k, times ``factor``, to padded rows."""
    factor = padded.dtype.type(factor)
    for c in range(len(rows) // k):
        for j in range(k):
            put(padded, c * width + j, padded.dtype.type(at(rows, c * k + j)) * factor)


@njit(cache=True, nogil=True)
def _unpad(padded, width, factor, rows, k):  # type: ignore[no-untyped-def]
    factor = padded.dtype.type(factor)
    for c in range(len(rows) // k):
        for j in range(k):
            put(rows, c * k + j, rows.dtype.type(at(padded, c * width + j) * factor))


@njit(cache=True, nogil=True)
def _clear_idle(R, H, width):  # type: ignore[no-untyped-def]
    """Where no product is positive zero is optimal, and the only start that stays so."""
    part = PART_BYTES // R.itemsize
    scratch = aligned_zeros(part, R.dtype)
    for row in range(0, len(R), width):
        highest = load(R, row, 1)
        for j in range(part, width, part):
            highest = maximum(load(R, row + j, 1), highest)
        if largest_lane(highest, scratch) <= 0:
            H[row : row + width] = 0


@njit(cache=True, nogil=True)
def solve_cells(  # type: ignore[no-untyped-def]
    blocks, diagonal, step, rows, shape, scales, R, start, tol, max_sweeps, H, sweeps, residual
):
    """As :func:`descend`, for products that are neither padded nor scaled.

    Parameters
    ----------
    blocks, diagonal, step, rows, shape
        G times a power of two.
    scales
        That power, and the one that R is to be multiplied by: exact, and float32 holds
        the products of both.
    R
        Products, float32 or float64, shape (n, k).
    start
        Where to start, shape (n, k), or (0, k) for zero.
    tol, max_sweeps, sweeps, residual
        As in :func:`descend`.
    H
        Written: loadings, shape (n, k).
    """
    n, k = R.shape
    width = len(rows) // k
    products = aligned_zeros(n * width, diagonal.dtype)
    solved = aligned_zeros(n * width, diagonal.dtype)
    _pad(R.ravel(), k, scales[1], products, width)
    if len(start) > 0:
        _pad(start.ravel(), k, scales[1] / scales[0], solved, width)
        _clear_idle(products, solved, width)
    descend(
        blocks, diagonal, step, rows, shape, products, solved, tol, max_sweeps, sweeps, residual
    )
    _unpad(solved, width, scales[0] / scales[1], H.ravel(), k)
