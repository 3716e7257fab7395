"""How many entries runs of rows hold, known from a coarse copy of ``indptr``.

A copy of every 1024th value takes a thousandth of ``indptr``'s memory and still
bounds the entries of any run of rows from above.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

STRIDE = 1024


@dataclass(frozen=True, slots=True)
class Offsets:
    """Entries before every 1024th row.

    Attributes
    ----------
    values
        Entries before rows 0, 1024, 2048, ... and, last, in all rows; int64.
    largest_row
        Entries of the fullest row.
    """

    values: NDArray[np.int64]
    largest_row: int

    @property
    def n_entries(self) -> int:
        """Entries in all rows."""
        return int(self.values[-1])

    def most_entries(self, n_rows: int) -> int:
        """No run of ``n_rows`` rows has more entries than this."""
        # A run that starts anywhere touches at most this many strides.
        n_strides = -(-n_rows // STRIDE) + 1
        by_row = n_rows * self.largest_row
        if n_strides >= len(self.values):
            return min(self.n_entries, by_row)
        return min(int((self.values[n_strides:] - self.values[:-n_strides]).max()), by_row)


class OffsetsBuilder:
    """Gathers ``Offsets`` from consecutive pieces of row lengths."""

    def __init__(self) -> None:
        self._n_rows = self._n_entries = self._largest_row = 0
        self._kept: list[NDArray[np.int64]] = []

    def add(self, lengths: NDArray[np.int64]) -> None:
        """Take the lengths of the next rows."""
        if not len(lengths):
            return
        before = np.cumsum(lengths) - lengths + self._n_entries
        self._kept.append(before[-self._n_rows % STRIDE :: STRIDE])
        self._n_rows += len(lengths)
        self._n_entries += int(lengths.sum())
        self._largest_row = max(self._largest_row, int(lengths.max()))

    def build(self) -> Offsets:
        """Offsets of all rows taken."""
        values = np.concatenate([*self._kept, np.array([self._n_entries])]).astype(np.int64)
        return Offsets(values=values, largest_row=self._largest_row)
