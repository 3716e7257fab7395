"""Coordinate descent for non-negative least squares, cells in SIMD lanes (Numba).

A lane whose cell has converged is handed to the next cell that waits, so that no lane
runs for nothing. A cell is done when a bound of its KKT residual, which its sweeps
yield for one operation a coordinate (:mod:`tigon.kernels.cpu.sweep`), is within the
tolerance. How many sweeps a cell gets, and every bit of its loadings, depends on that
cell alone.

References
----------
Hsieh and Dhillon (2011), doi:10.1145/2020408.2020577; Cichocki and Phan
(2009), doi:10.1587/transfun.E92.A.708.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import (
    PART_BYTES,
    absolute,
    at,
    broadcast,
    load,
    load_apart,
    load_as,
    lowest_bit,
    maximum,
    multiply,
    put,
    store,
    store_apart,
    store_as,
    which_at_most,
)
from tigon.kernels.cpu.sweep import GROUP_BYTES, PARTS, sweep

_ROUNDING = 2e-6
"""What a bound computed in float32 may be off, relative to the largest product."""

_NEVER = 2**62
"""When a lane without a cell began, so that its time is never up."""


def fast_limit(tol: float) -> np.float32:
    """The limit at which float32 loadings are certain to have a residual of ``tol``."""
    return np.float32(max(tol - _ROUNDING, tol / 2))


@njit(cache=True, nogil=True, inline="always")
def _enter(values, start, scale, k, lane, group):  # type: ignore[no-untyped-def]
    """Bring the k values of a cell into one lane of a group that begins at ``lane``."""
    lanes = GROUP_BYTES // group.itemsize
    together = PART_BYTES // group.itemsize
    whole = k // together * together
    for j in range(0, whole, together):
        store_apart(group, lane + j * lanes, lanes, load_as(values, start + j, scale, group))
    for j in range(whole, k):
        put(group, lane + j * lanes, group.dtype.type(at(values, start + j) * scale))


@njit(cache=True, nogil=True, inline="always")
def _leave(group, lane, scale, values, start, k):  # type: ignore[no-untyped-def]
    lanes = GROUP_BYTES // group.itemsize
    together = PART_BYTES // group.itemsize
    whole = k // together * together
    for j in range(0, whole, together):
        found = load_apart(group, lane + j * lanes, lanes)
        store_as(values, start + j, multiply(found, scale))
    for j in range(whole, k):
        put(values, start + j, values.dtype.type(at(group, lane + j * lanes) * scale))


@njit(cache=True, nogil=True, inline="always")
def _measure(r, first, last, tol, size, highest, limit, place):  # type: ignore[no-untyped-def]
    """Largest |r| and largest r of each lane of a group, neither below zero."""
    lanes = GROUP_BYTES // r.itemsize
    nothing = broadcast(tol * 0, load(r, first, PARTS))
    most, top = nothing, nothing
    for i in range(first, last, lanes):
        product = load(r, i, PARTS)
        most = maximum(absolute(product), most)
        top = maximum(product, top)
    store(size, place, most)
    store(highest, place, top)
    store(limit, place, multiply(most, tol))


@njit(cache=True, nogil=True)
def descend(  # type: ignore[no-untyped-def]
    blocks, step, reach, scales, R, r_stride, start, H, h_stride, k, tol, most, sweeps, residual
):
    """Solve H = argmin over H >= 0 of sum_c h_c G h_c^T - 2 r_c h_c^T, in place.

    Parameters
    ----------
    blocks, step, reach
        G times ``scales[0]`` as :class:`tigon.kernels.cpu.sweep.SolverGram` lays it out,
        float32 or float64: what is computed in.
    scales
        Powers of two that G and R are multiplied by, so that float32 holds them.
    R, r_stride
        Products, flat, and the distance between the n cells' rows of k.
    start
        Where to start, non-negative, laid out as H; it may be H.
    H, h_stride
        Written: the loadings, flat; exactly zero for a cell without a positive product.
    k
        Number of factors.
    tol
        A cell is done when its KKT residual is at most ``tol`` times its largest |r|.
    most
        Sweeps; a cell that is not done by then keeps its last value.
    sweeps
        Written: sweeps that each cell took, int32, shape (n,).
    residual
        Written: a bound of the KKT residual relative to the largest |r|, float64,
        shape (n,).
    """
    n = len(sweeps)
    lanes, stride = GROUP_BYTES // step.itemsize, len(step) * (GROUP_BYTES // step.itemsize)
    r, h = aligned_zeros(2 * stride, step.dtype), aligned_zeros(2 * stride, step.dtype)
    bound, limit = aligned_zeros(2 * lanes, step.dtype), aligned_zeros(2 * lanes, step.dtype)
    size, highest = aligned_zeros(2 * lanes, step.dtype), aligned_zeros(2 * lanes, step.dtype)
    cell, began = np.zeros(2 * lanes, np.int64), np.zeros(2 * lanes, np.int64)
    busy = np.zeros(2, np.int64)
    into_r, into_h = R.dtype.type(scales[1]), start.dtype.type(scales[1] / scales[0])
    back = scales[0] / scales[1]
    n_busy = min(2 * lanes, n)
    for place in range(n_busy):
        lane = place // lanes * stride + place % lanes
        cell[place] = place
        busy[place // lanes] |= np.int64(1) << (place % lanes)
        _enter(R, place * r_stride, into_r, k, lane, r)
        _enter(start, place * h_stride, into_h, k, lane, h)
    following = n_busy
    _measure(r, np.int64(0), stride, tol, size, highest, limit, np.int64(0))
    _measure(r, stride, 2 * stride, tol, size, highest, limit, lanes)
    began[n_busy:] = _NEVER
    n_sweeps, deadline = 0, most
    while n_busy > 0:
        n_sweeps += 1
        # Two groups take turns: what one has just written, it does not read at once.
        for group in range(2):
            first, offset = group * stride, group * lanes
            sweep(blocks, step, reach, r, h, first, bound, offset)
            done = which_at_most(load(bound, offset, PARTS), load(limit, offset, PARTS))
            if n_sweeps >= deadline:
                for i in range(lanes):
                    if n_sweeps - began[offset + i] >= most:
                        done |= np.int64(1) << i
            done &= busy[group]
            entered = False
            while done:
                i = lowest_bit(done)
                done &= done - 1
                place = offset + i
                c = cell[place]
                useful = h.dtype.type(back if highest[place] > 0 else 0.0)
                _leave(h, first + i, useful, H, c * h_stride, k)
                sweeps[c] = n_sweeps - began[place]
                residual[c] = bound[place] / size[place] if highest[place] > 0 else 0.0
                if not np.isfinite(size[place]):
                    residual[c] = np.inf
                began[place] = n_sweeps
                if following < n:
                    cell[place] = following
                    _enter(R, following * r_stride, into_r, k, first + i, r)
                    _enter(start, following * h_stride, into_h, k, first + i, h)
                    following += 1
                    entered = True
                else:
                    busy[group] &= ~(np.int64(1) << i)
                    began[place] = _NEVER
                    n_busy -= 1
            if entered:
                _measure(r, first, first + stride, tol, size, highest, limit, offset)
        if n_sweeps >= deadline:
            deadline = began[0] + most
            for place in range(1, 2 * lanes):
                deadline = min(deadline, began[place] + most)
