"""Dense matrices; their zeros are left out as they are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.recycling import Empty
from tigon.storage.sources.matrices.matrix import (
    Array,
    Lock,
    Runs,
    SparseRows,
    joined,
    reading,
)

_STRIP_BYTES = 8 << 20
_LARGEST_STRIP_BYTES = 64 << 20


@dataclass(frozen=True)
class DenseMatrix:
    """A two-dimensional array, read in strips of rows.

    Attributes
    ----------
    where
        The file, for messages.
    array
        Shape (n_rows, n_columns).
    lock
        Held while the array is read.
    """

    where: str
    array: Array
    lock: Lock

    @property
    def shape(self) -> tuple[int, int]:
        n_rows, n_columns = self.array.shape
        return n_rows, n_columns

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.array.dtype)
        return dtype

    @property
    def entry_bytes(self) -> int:
        return self.dtype.itemsize + 4

    def most_entries(self, n_rows: int) -> int:
        return min(n_rows, self.shape[0]) * self.shape[1]

    def read(self, start: int, stop: int) -> SparseRows:
        step = strip_rows(self.array)
        # No rows are one empty strip, which has the types.
        firsts = range(start, stop, step) or [start]
        strips = [self._read_strip(first, min(first + step, stop)) for first in firsts]
        lengths, indices, values = (list(parts) for parts in zip(*strips, strict=True))
        indptr = np.zeros(stop - start + 1, np.int64)
        np.cumsum(np.concatenate(lengths), out=indptr[1:])
        return SparseRows(
            indptr=indptr, indices=np.concatenate(indices), values=np.concatenate(values)
        )

    def read_runs(self, runs: Runs, empty: Empty = np.empty) -> SparseRows:
        return joined([self.read(start, stop) for start, stop in runs])

    def _read_strip(
        self, start: int, stop: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.number]]:
        with reading(self.where, start, stop), self.lock:
            strip = np.asarray(self.array[start:stop])
        stored = strip != 0  # NaN is kept, to be found by the check of the counts
        columns = np.nonzero(stored)[1].astype(np.int32)
        return np.count_nonzero(stored, axis=1), columns, strip[stored]


def strip_rows(array: Array) -> int:
    """Rows to read at a time: whole chunks where that is affordable, else 8 MiB."""
    row_bytes = max(1, int(np.dtype(array.dtype).itemsize) * array.shape[1])
    chunks = getattr(array, "chunks", None)
    rows = max(1, _STRIP_BYTES // row_bytes)
    if chunks and rows < chunks[0] <= _LARGEST_STRIP_BYTES // row_bytes:
        return int(chunks[0])
    return rows
