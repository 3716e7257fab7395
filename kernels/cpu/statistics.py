"""Sums over cells of their loadings: A = H^T H (Numba)."""

from __future__ import annotations

import numpy as np
from numba import njit

from tigon.kernels.cpu.lanes import PART_BYTES, at, fma, load, put, store
from tigon.kernels.cpu.sweep import BLOCK

_CELLS = 32
"""Cells whose loadings stay in the nearest cache while all pairs are summed."""


@njit(cache=True, nogil=True)
def widen_rows(H, n, width, k, wide, wide_width):  # type: ignore[no-untyped-def]
    """Padded float32 rows as padded float64 rows."""
    for c in range(n):
        for j in range(k):
            put(wide, c * wide_width + j, np.float64(at(H, c * width + j)))
        for j in range(k, wide_width):
            put(wide, c * wide_width + j, 0.0)


@njit(cache=True, nogil=True)
def add_second_moments(H, n, width, k, sums):  # type: ignore[no-untyped-def]
    """Sums += H^T H, the entries on and below the diagonal.

    Parameters
    ----------
    H
        Loadings, float64, flat: n padded rows of ``width``.
    sums
        float64, flat: ``k`` rounded up to four rows of ``width``; added to in cell order.
    """
    lanes = PART_BYTES // H.itemsize
    for first in range(0, n, _CELLS):
        last = min(first + _CELLS, n)
        for i in range(0, k, BLOCK):
            o = np.int64(0)
            while o + 2 * lanes <= min(width, i + BLOCK + lanes):
                _add_block(H, first, last, width, i, o, sums, (0, 0))
                o += 2 * lanes
            while o < min(width, i + BLOCK):
                _add_block(H, first, last, width, i, o, sums, (0,))
                o += lanes


@njit(cache=True, nogil=True)
def _add_block(H, first, last, width, i, o, sums, shape):  # type: ignore[no-untyped-def]
    """Four rows, and as many columns as the shape has lanes."""
    place = i * width + o
    a, b = load(sums, place, shape), load(sums, place + width, shape)
    c, d = load(sums, place + 2 * width, shape), load(sums, place + 3 * width, shape)
    for row in range(first * width, last * width, width):
        x = load(H, row + o, shape)
        a = fma(at(H, row + i), x, a)
        b = fma(at(H, row + i + 1), x, b)
        c = fma(at(H, row + i + 2), x, c)
        d = fma(at(H, row + i + 3), x, d)
    store(sums, place, a)
    store(sums, place + width, b)
    store(sums, place + 2 * width, c)
    store(sums, place + 3 * width, d)
