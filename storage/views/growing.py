"""An array that grows at its end without being held twice."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

_LEAST = 1 << 12


class GrowingArray:
    """A one-dimensional array to append to.

    Parameters
    ----------
    dtype
        Type of its values.
    expected
        How many values are expected; room for them takes no memory before it is used.

    Notes
    -----
    Beyond what was expected, room grows by an eighth at a time: so far may the peak be
    above what was appended. The system moves the pages of large arrays rather than
    copy them.
    """

    MOST_ROOM: ClassVar[float] = 9 / 8

    def __init__(self, dtype: np.dtype[Any], expected: int = 0) -> None:
        self._room = np.empty(max(expected, _LEAST), dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def append(self, values: NDArray[Any]) -> None:
        """Add values at the end; they are cast to the type of the array."""
        length = self._length + len(values)
        if length > len(self._room):
            self._room.resize(max(length, int(len(self._room) * self.MOST_ROOM)), refcheck=False)
        self._room[self._length : length] = values
        self._length = length

    def finish(self) -> NDArray[Any]:
        """The array, without room to spare; nothing may be appended any more."""
        self._room.resize(self._length, refcheck=False)
        return self._room
