"""Arrays that begin where a line of the cache does.

A machine vector that straddles two cache lines costs two accesses; NumPy aligns to
16 bytes only. The kernels run a third slower without this.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_LINE_BYTES = 64


@njit(cache=True, nogil=True)
def aligned_zeros(n, dtype):  # type: ignore[no-untyped-def]
    """Zeros of shape (n,) on a cache line; for use within kernels and outside."""
    spare = _LINE_BYTES // np.empty(0, dtype).itemsize
    room = np.zeros(n + spare, dtype)
    start = (-room.ctypes.data % _LINE_BYTES) // room.itemsize
    return room[start : start + n]


def aligned_empty(n: int, dtype: Any) -> NDArray[Any]:
    """Room of shape (n,) on a cache line, not filled; for use outside of kernels."""
    room = np.empty(n + _LINE_BYTES // np.dtype(dtype).itemsize, dtype)
    start = (-room.__array_interface__["data"][0] % _LINE_BYTES) // room.itemsize
    found: NDArray[Any] = room[start : start + n]
    return found
