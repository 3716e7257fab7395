"""Arrays that begin where a line of the cache does.

A machine vector that straddles two cache lines costs two accesses; NumPy aligns to
16 bytes only. The kernels run a third slower without this.
"""

from __future__ import annotations

import numpy as np
from numba import njit

_LINE_BYTES = 64


@njit(cache=True, nogil=True)
def aligned_empty(n, dtype):  # type: ignore[no-untyped-def]
    """Room of shape (n,) on a cache line, not filled; for use within kernels and outside."""
    spare = _LINE_BYTES // np.empty(0, dtype).itemsize
    room = np.empty(n + spare, dtype)
    start = (-room.ctypes.data % _LINE_BYTES) // room.itemsize
    return room[start : start + n]


@njit(cache=True, nogil=True)
def aligned_zeros(n, dtype):  # type: ignore[no-untyped-def]
    """Zeros of shape (n,) on a cache line; for use within kernels and outside."""
    found = aligned_empty(n, dtype)
    for i in range(n):
        found[i] = 0
    return found
