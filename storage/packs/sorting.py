"""Sorting rows that do not fit in memory: sorted runs in one file, then buckets of them.

Rows are collected until a run is full, sorted by place and appended to the file. A bucket
is a stretch of places; its rows are one contiguous piece of each run, so merging reads a
few pieces and copies whole rows. The result depends on rows and places alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.packs.stretches import read_at

RUN_BYTES = 64 * 2**20
"""Rows collected before they are sorted; sorting holds half as much again."""

_JOIN_ROWS = 512
"""Rows put in order at a time: they stay in the cache."""


class RowSorter:
    """Ragged rows of several arrays, added in any order, taken in order of place.

    Parameters
    ----------
    path
        File of the runs; created.
    n_rows
        Rows there will be; every place from 0 on is filled once.
    dtypes
        Types of the arrays.
    bucket_rows
        Rows of a bucket.
    run_bytes
        Bytes of a run.

    Notes
    -----
    Holds 8 bytes for every row besides a run.
    """

    def __init__(
        self,
        path: Path,
        n_rows: int,
        dtypes: tuple[np.dtype[Any], ...],
        bucket_rows: int,
        run_bytes: int = RUN_BYTES,
    ) -> None:
        self._path, self._dtypes, self._run_bytes = path, dtypes, run_bytes
        self._file = path.open("w+b")
        self._lengths = np.zeros(n_rows, np.uint32)
        self._run = np.full(n_rows, -1, np.int32)
        self._first_places = np.arange(0, n_rows + bucket_rows, bucket_rows)
        self._held: list[tuple[NDArray[np.int64], NDArray[np.int64], tuple[NDArray[Any], ...]]] = []
        self._held_bytes = 0
        # Where each array of a run begins in the file, and where in it each bucket does.
        self._runs: list[tuple[list[int], NDArray[np.int64]]] = []

    @property
    def n_buckets(self) -> int:
        """Buckets that the rows are taken in."""
        return len(self._first_places) - 1

    def add(
        self, places: NDArray[np.int64], indptr: NDArray[np.int64], arrays: tuple[NDArray[Any], ...]
    ) -> None:
        """Add rows: their places (n,), and a CSR of them (n + 1,) and (nnz,) for each array."""
        n_bytes = sum(array.nbytes for array in arrays)
        if self._held and self._held_bytes + n_bytes > self._run_bytes:
            self._end_run()
        self._held.append((places, np.diff(indptr), arrays))
        self._held_bytes += n_bytes

    def lengths(self) -> NDArray[np.uint32]:
        """Entries of every row, shape (n_rows,); all rows must have been added."""
        if self._held:
            self._end_run()
        self._file.flush()
        assert (self._run >= 0).all(), "a row is missing"
        return self._lengths

    def bucket(self, b: int) -> tuple[list[bytes], ...]:
        """The rows of a bucket in order of place, each array in pieces; any thread may ask."""
        rows = slice(self._first_places[b], self._first_places[b + 1])
        lengths = self._lengths[rows].astype(np.int64)
        # In the file they stand run by run, by place within a run.
        order = np.argsort(self._run[rows], kind="stable")
        stops = np.empty_like(lengths)
        stops[order] = np.cumsum(lengths[order])
        return tuple(
            list(join_rows(self._pieces(b, i, int(lengths.sum())), stops - lengths, stops))
            for i in range(len(self._dtypes))
        )

    def close(self) -> None:
        """Close and remove the file."""
        self._file.close()
        self._path.unlink(missing_ok=True)

    def _end_run(self) -> None:
        places = np.concatenate([places for places, _, _ in self._held])
        lengths = np.concatenate([lengths for _, lengths, _ in self._held])
        assert (self._run[places] == -1).all(), "a row is doubled"
        self._run[places], self._lengths[places] = len(self._runs), lengths
        order = np.argsort(places)
        stops = np.cumsum(lengths)
        starts = (stops - lengths)[order]
        ordered = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[order])])
        firsts = []
        for i, dtype in enumerate(self._dtypes):
            whole = np.concatenate([arrays[i] for _, _, arrays in self._held]).astype(
                dtype, copy=False
            )
            firsts.append(self._file.tell())
            self._file.writelines(join_rows(whole, starts, stops[order]))
        self._runs.append((firsts, ordered[np.searchsorted(places[order], self._first_places)]))
        self._held, self._held_bytes = [], 0

    def _pieces(self, b: int, i: int, n_entries: int) -> NDArray[Any]:
        """The entries of a bucket in one array, run behind run."""
        array = np.empty(n_entries, self._dtypes[i])
        left = array.view(np.uint8)
        for firsts, edges in self._runs:
            start, stop = (int(edge) * array.itemsize for edge in edges[b : b + 2])
            n_read = read_at(self._file.fileno(), left[: stop - start], firsts[i] + start)
            assert n_read == stop - start, "the file of runs was cut short"
            left = left[n_read:]
        assert not len(left), "the runs of a bucket have other lengths than its rows"
        return array


def join_rows(
    array: NDArray[Any], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> Iterator[bytes]:
    """Slices of a one-dimensional array, one behind the other, as pieces of bytes.

    Copies whole rows: several times as fast as an index for every entry.
    """
    view = array.view(np.uint8).data
    size = array.itemsize
    for i in range(0, len(starts), _JOIN_ROWS):
        some = slice(i, i + _JOIN_ROWS)
        cuts = map(slice, (starts[some] * size).tolist(), (stops[some] * size).tolist())
        yield b"".join(map(view.__getitem__, cuts))
