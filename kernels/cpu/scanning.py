"""One pass over an array, to know whether and how it can be computed with (Numba)."""

from __future__ import annotations

from numba import njit

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import PART_BYTES, broadcast, fma, load, maximum, minimum, store

_PARTS = 4


@njit(cache=True, nogil=True)
def extent(values):  # type: ignore[no-untyped-def]
    """Lowest and highest entry of a flat array, float32 or float64, that has any.

    Neither is a number if one entry is not finite.
    """
    step = _PARTS * PART_BYTES // values.itemsize
    whole = len(values) // step * step
    scratch = aligned_zeros(3 * step, values.dtype)
    zero = scratch[0]
    total = broadcast(zero, load(scratch, 0, _PARTS))
    low, high = broadcast(values[0], total), broadcast(values[0], total)
    for i in range(0, whole, step):
        found = load(values, i, _PARTS)
        # Zero times a finite number is zero; times any other it is not a number.
        total = fma(zero, found, total)
        low, high = minimum(found, low), maximum(found, high)
    store(scratch, 0, total)
    store(scratch, step, low)
    store(scratch, 2 * step, high)
    for i in range(whole, len(values)):
        place = i - whole
        scratch[place] += values[i] * zero
        scratch[step + place] = min(scratch[step + place], values[i])
        scratch[2 * step + place] = max(scratch[2 * step + place], values[i])
    sound = scratch[:step].sum()
    return scratch[step : 2 * step].min() + sound, scratch[2 * step :].max() + sound


@njit(cache=True, nogil=True)
def unevenness(G):  # type: ignore[no-untyped-def]
    """Largest difference of a square matrix to its transpose, and its largest absolute value."""
    uneven, size = 0.0, 0.0
    for i in range(len(G)):
        for j in range(i + 1):
            size = max(size, abs(G[i, j]), abs(G[j, i]))
            uneven = max(uneven, abs(G[i, j] - G[j, i]))
    return uneven, size
