"""Memory of arrays that nobody has any more, for the next ones of their kind.

Memory that is new comes from the system in pages that are set to zero first: for arrays
of megabytes that takes about as long as filling them.
"""

from __future__ import annotations

import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Empty = Callable[[int, np.dtype[Any]], NDArray[Any]]
"""Makes an array of so many values, which are still to be filled in."""

SLACK = 16
"""A block is larger than the first of its arrays by one part of so many, as others may be."""


class Recycled:
    """Makes arrays, in memory that earlier ones have given back where there is some.

    Parameters
    ----------
    n_kept
        Most blocks of a type that wait to be used again; None for all, which are no
        more than the arrays that were there at one time.

    Notes
    -----
    Memory is given back when the array and all views of it are gone, and not before:
    whoever keeps an array keeps its values. May be used by several threads.
    """

    def __init__(self, n_kept: int | None = None) -> None:
        self._n_kept = n_kept
        self._lock = threading.Lock()
        self._free: dict[np.dtype[Any], deque[NDArray[Any]]] = {}

    def empty(self, n_values: int, dtype: np.dtype[Any]) -> NDArray[Any]:
        """An array of any values, shape (n_values,)."""
        with self._lock:
            free = self._free.setdefault(dtype, deque(maxlen=self._n_kept))
            block = _take(free, n_values)
        if block is None:
            block = np.empty(n_values + n_values // SLACK + 1, dtype)
        # Its base is no array, so that views of the array keep the array itself.
        array = np.frombuffer(block.data, dtype, n_values)
        # Not under the lock: arrays end whenever Python finds that they are not needed.
        weakref.finalize(array, free.append, block).atexit = False
        return array


def _take(free: deque[NDArray[Any]], n_values: int) -> NDArray[Any] | None:
    """The smallest block for so many values; where there is none, the largest is let go of."""
    # Others may append meanwhile, so that blocks are taken out to be compared.
    blocks = sorted((free.popleft() for _ in range(len(free))), key=len)
    place = next((i for i, block in enumerate(blocks) if len(block) >= n_values), -1)
    block = blocks.pop(place) if blocks else None
    free.extend(blocks)
    return block if block is not None and len(block) >= n_values else None
