"""Rows that come in any order, on their way to a file in theirs.

Cells of a shuffled pack lie all over the file that their rows belong in. Written as they come,
each would take a call of its own, or all that lies between them would be read and written with
every few megabytes: of millions of cells most of the file, again and again. So rows go first to
buckets, each for a stretch of the file, and from there to their places: all are written twice
and read once, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from tigon.storage.progress import Progress, silent
from tigon.storage.raw import FileArray, write_array_at
from tigon.storage.rows import RowFile

WriteRows = Callable[[NDArray[np.int64], NDArray[np.float32]], None]
"""Takes positions (n,) and rows (n, width), which the caller leaves as they are."""

BUCKET_BYTES = 8 * 2**20
"""Rows of a bucket, and rows that are held before they go to buckets, with what sorts them."""

_SORTING_BYTES = 32
"""Of a row on its way to a bucket: its position, bucket, place and turn."""


@contextmanager
def in_any_order(file: RowFile, progress: Progress = silent) -> Iterator[WriteRows]:
    """Rows given meanwhile are in ``file`` at the end; others stay as they are.

    Parameters
    ----------
    file
        What is written to. A second file stands beside it meanwhile.
    progress
        Told of the rows that are put in their places at the end.

    Notes
    -----
    One thread at a time may write. Each position is given once. Holds three times 8 MiB, and
    the rows of one call; the second file takes 4 bytes a row more than the first.
    """
    buckets = _Buckets(file)
    try:
        yield buckets.add
        buckets.empty(progress)
    finally:
        buckets.close()


class _Buckets:
    """Rows by stretches of a file, each with its place in the stretch."""

    def __init__(self, file: RowFile) -> None:
        n_rows, width = file.shape
        self._file = file
        self._path = file.path.with_name(f"{file.path.name}.buckets")
        self._record = np.dtype([("place", "<u4"), ("row", "<f4", (width,))])
        self._size = max(1, BUCKET_BYTES // (4 * width + _SORTING_BYTES))
        self._filled = np.zeros(-(-n_rows // self._size), np.int64)
        self._held: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._n_held = 0
        self._path.open("wb").close()  # without what a killed job left in it

    def add(self, positions: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        self._held.append((positions, rows))
        self._n_held += len(rows)
        if self._n_held >= self._size:
            self._spill()

    def empty(self, progress: Progress) -> None:
        """Put all rows in their places."""
        self._spill()
        n_rows, n_placed, n_given = self._file.shape[0], 0, int(self._filled.sum())
        for bucket in np.flatnonzero(self._filled).tolist():
            start = bucket * self._size
            stop = min(start + self._size, n_rows)
            found = self._read(bucket)
            rows = self._file.read(start, stop)
            rows[found["place"]] = found["row"]
            self._file.write(start, rows)
            n_placed += len(found)
            progress("ordering loadings", n_placed, n_given)

    def close(self) -> None:
        self._path.unlink(missing_ok=True)

    def _spill(self) -> None:
        """Append what is held to the buckets."""
        if not self._n_held:
            return
        positions, rows = map(np.concatenate, zip(*self._held, strict=True))
        self._held, self._n_held = [], 0
        bucket, place = np.divmod(positions, self._size)
        order = np.argsort(bucket, kind="stable")
        records = np.empty(len(order), self._record)
        records["place"], records["row"] = place[order], rows[order]
        counts = np.bincount(bucket, minlength=len(self._filled))
        stops = np.cumsum(counts)
        with self._path.open("r+b", buffering=0) as file:
            for i in np.flatnonzero(counts).tolist():
                first = (i * self._size + int(self._filled[i])) * self._record.itemsize
                write_array_at(file.fileno(), records[stops[i] - counts[i] : stops[i]], first)
        self._filled += counts
        assert self._filled.max() <= self._size, "a row is doubled"

    def _read(self, bucket: int) -> NDArray[np.void]:
        whole = FileArray(self._path, (len(self._filled) * self._size,), self._record)
        first = bucket * self._size
        return whole[first : first + int(self._filled[bucket])]
