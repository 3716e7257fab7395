"""Slices of arrays copied to where they belong, all of them in one call (Numba).

The interpreter's lock is let go of meanwhile. Threads that decode chunks take it for moments,
and would wait for milliseconds each time while another thread copies under it, row after row.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.core.cgutils import raw_memcpy
from numba.extending import intrinsic
from numpy.typing import NDArray

Int64 = NDArray[np.int64]


def copy_slices(
    source: NDArray[Any], starts: Int64, stops: Int64, onto: NDArray[Any], places: Int64
) -> None:
    """Copy slices of a flat array into another one.

    Parameters
    ----------
    source, onto
        Contiguous, of one type.
    starts, stops
        Of each slice, shape (n,), within ``source``.
    places
        Where each begins in ``onto``, which has room for it, shape (n,).

    Raises
    ------
    ValueError
        Slices that are not within their arrays, or arrays that are not as above.
    """
    if source.dtype != onto.dtype or not onto.flags.writeable:
        raise ValueError(f"slices of {source.dtype} do not go into {onto.dtype}, or not there")
    if not (source.flags.c_contiguous and onto.flags.c_contiguous):
        raise ValueError("slices are copied between contiguous arrays")
    if not starts.shape == stops.shape == places.shape:
        raise ValueError(f"shapes {starts.shape}, {stops.shape}, {places.shape} differ")
    # The kernel does not look.
    if not _inside(starts, stops, len(source)):
        raise ValueError(f"a slice reaches out of the {len(source)} values that there are")
    if not _inside(places, places + stops - starts, len(onto)):
        raise ValueError(f"a slice does not fit into the {len(onto)} values that there are")
    _copy(_address(source), starts, stops, _address(onto), places, source.itemsize)


def load() -> None:
    """Load what :func:`copy_slices` needs: half a second where no kernel has run yet."""
    nothing = np.zeros(0, np.int64)
    copy_slices(nothing, nothing, nothing, nothing, nothing)


def _inside(starts: Int64, stops: Int64, length: int) -> bool:
    if not len(starts):
        return True
    return bool(starts.min() >= 0 and (stops >= starts).all() and stops.max() <= length)


def _address(array: NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


@intrinsic
def _move(_typing: Any, onto: Any, source: Any, n_bytes: Any) -> Any:
    """Copy bytes from one address to another."""

    def generate(context: Any, builder: Any, _sig: Any, args: Any) -> Any:
        pointer = context.get_value_type(types.voidptr)
        to, of = (builder.inttoptr(address, pointer) for address in args[:2])
        raw_memcpy(builder, to, of, args[2], 1)
        return context.get_dummy_value()

    return types.void(types.int64, types.int64, types.int64), generate


@njit(cache=True, nogil=True)
def _copy(source, starts, stops, onto, places, size):  # type: ignore[no-untyped-def]
    for i in range(len(starts)):
        n_bytes = (stops[i] - starts[i]) * size
        _move(onto + places[i] * size, source + starts[i] * size, n_bytes)
