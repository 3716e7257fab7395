"""One pass over an array, to know whether and how it can be computed with (Numba)."""

from __future__ import annotations

from numba import njit

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import PART_BYTES, absolute, add, broadcast, fma, load, maximum, store

_PARTS = 4


@njit(cache=True, nogil=True)
def all_finite(values):  # type: ignore[no-untyped-def]
    """Whether every entry of a flat array, float32 or float64, is finite."""
    step = _PARTS * PART_BYTES // values.itemsize
    whole = len(values) // step * step
    scratch = aligned_zeros(step, values.dtype)
    # Zero times a finite number is zero; times any other it is not a number.
    zero = broadcast(scratch[0], load(scratch, 0, _PARTS))
    total = zero
    for i in range(0, whole, step):
        total = add(total, fma(scratch[0], load(values, i, _PARTS), zero))
    store(scratch, 0, total)
    for i in range(whole, len(values)):
        scratch[i - whole] += values[i] * 0
    return (scratch == 0).all()


@njit(cache=True, nogil=True)
def largest_size(values):  # type: ignore[no-untyped-def]
    """Largest absolute value of a flat array, float32 or float64, of finite numbers; 0 of none."""
    step = _PARTS * PART_BYTES // values.itemsize
    whole = len(values) // step * step
    scratch = aligned_zeros(step, values.dtype)
    most = load(scratch, 0, _PARTS)
    for i in range(0, whole, step):
        most = maximum(absolute(load(values, i, _PARTS)), most)
    store(scratch, 0, most)
    for i in range(whole, len(values)):
        scratch[i - whole] = max(scratch[i - whole], abs(values[i]))
    return scratch.max()


@njit(cache=True, nogil=True)
def unevenness(G):  # type: ignore[no-untyped-def]
    """Largest difference of a square matrix to its transpose, and its largest absolute value."""
    uneven, size = 0.0, 0.0
    for i in range(len(G)):
        for j in range(i + 1):
            size = max(size, abs(G[i, j]), abs(G[j, i]))
            uneven = max(uneven, abs(G[i, j] - G[j, i]))
    return uneven, size
