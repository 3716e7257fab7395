"""KKT residuals of many cells, computed anew from their loadings (Numba)."""

from __future__ import annotations

from numba import njit

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import (
    PART_BYTES,
    absolute,
    at,
    fnma,
    load,
    maximum,
    multiply,
    store,
    subtract,
)

_CHECKED = 32
"""Cells whose residuals are computed together."""


@njit(cache=True, nogil=True)
def largest_lane(value, scratch):  # type: ignore[no-untyped-def]
    """The largest of the lanes of one vector."""
    store(scratch, 0, value)
    largest = at(scratch, 0)
    for i in range(1, PART_BYTES // scratch.itemsize):
        largest = at(scratch, i) if at(scratch, i) > largest else largest
    return largest


@njit(cache=True, nogil=True)
def _slopes(rows, R, H, cells, k, width, shape, slope):  # type: ignore[no-untyped-def]
    """Minus the gradients, r - G h, of some cells.

    A panel of G stays in the nearest cache for all of them, and is read once for two.
    """
    n = len(cells)
    for start in range(0, width, len(shape) * (PART_BYTES // R.itemsize)):
        for i in range(0, n, 2):
            j = min(i + 1, n - 1)
            b, c = cells[i] * width, cells[j] * width
            one, other = load(R, b + start, shape), load(R, c + start, shape)
            for o in range(k):
                row = load(rows, o * width + start, shape)
                one = fnma(at(H, b + o), row, one)
                other = fnma(at(H, c + o), row, other)
            store(slope, i * width + start, one)
            store(slope, j * width + start, other)


@njit(cache=True, nogil=True)
def _residual(weight, R, H, c, slope, base, scratch):  # type: ignore[no-untyped-def]
    """KKT residual of a cell, max_j |min(h_j G_jj, gradient_j)|, relative to its largest |r|."""
    width = len(weight)
    nothing = multiply(load(weight, 0, 1), at(weight, 0) * 0)
    size, worst = nothing, nothing
    for j in range(0, width, PART_BYTES // weight.itemsize):
        slack = multiply(load(H, c * width + j, 1), load(weight, j, 1))
        missed = maximum(subtract(nothing, slack), load(slope, base + j, 1))
        worst = maximum(absolute(missed), worst)
        size = maximum(absolute(load(R, c * width + j, 1)), size)
    furthest, largest = largest_lane(worst, scratch), largest_lane(size, scratch)
    return furthest / largest if largest > 0 else furthest


@njit(cache=True, nogil=True)
def certify(rows, weight, R, H, k, cells, shape, residual):  # type: ignore[no-untyped-def]
    """Write the residuals of some cells, relative to their largest |r|.

    Parameters
    ----------
    rows, shape
        As in :class:`tigon.kernels.cpu.sweep.SolverGram`.
    weight
        Diagonal of G, padded as its rows are.
    R, H
        Products and loadings, flat: padded rows.
    k
        Number of factors.
    cells
        Rows of R and H to look at, int64.
    residual
        Written at the positions ``cells``: max_j |min(h_j G_jj, (G h - r)_j)| / max_j |r_j|.
    """
    width = len(weight)
    slope, scratch = aligned_zeros(_CHECKED * width, R.dtype), aligned_zeros(width, R.dtype)
    for first in range(0, len(cells), _CHECKED):
        some = cells[first : first + _CHECKED]
        _slopes(rows, R, H, some, k, width, shape, slope)
        for i in range(len(some)):
            residual[some[i]] = _residual(weight, R, H, some[i], slope, i * width, scratch)
