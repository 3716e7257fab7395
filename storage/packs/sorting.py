"""Sorting rows that do not fit in memory: sorted runs in files, then buckets of them.

A run is some of the rows, sorted by place. A bucket is a stretch of places; its rows are one
contiguous piece of each run, so merging reads a few pieces and copies whole rows. The result
depends on rows and places alone.

Several buckets make a section, of which every run has a file of its own: what is in order is
removed, and its room on the disk and in the page cache is that of the sections to come.

Any thread or process that sees the folder may write a run or read a bucket, and more than
once: a file takes its name when it is whole, and has the same bytes again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tigon.storage.counts import index_dtype
from tigon.storage.errors import InputError
from tigon.storage.packs.stretches import open_to_read
from tigon.storage.raw import read_at
from tigon.storage.slices import copy_slices

Rows = tuple[NDArray[np.int64], tuple[NDArray[Any], ...]]
"""Ragged rows: a CSR of them (n + 1,), and (nnz,) for each array."""

PIECE_BYTES = 2 * 2**20
"""Put in order, and written, at a time: the kernel takes larger pages for larger pieces, and
threads that write to one file wait for each other less often."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """The rows of a stretch of places, and where they lie.

    Attributes
    ----------
    number
        Its place among the buckets.
    before
        Entries of all buckets before.
    lengths
        Entries of each row, by place, uint32, shape (n,).
    runs
        The run that each is in, int32, shape (n,).
    section
        The section that it is of.
    starts
        Entries of each run that belong to the buckets before of its section, int64, shape
        (n_runs,).
    """

    number: int
    before: int
    lengths: NDArray[np.uint32]
    runs: NDArray[np.int32]
    section: int
    starts: NDArray[np.int64]

    def __str__(self) -> str:
        return f"bucket {self.number}"

    @property
    def stops(self) -> NDArray[np.int64]:
        """As ``starts``, with those of this bucket."""
        counted = np.bincount(self.runs, self.lengths, len(self.starts))  # exact below 2^53
        return self.starts + counted.astype(np.int64)


@dataclass(frozen=True, slots=True)
class RunFiles:
    """Runs in a folder.

    Attributes
    ----------
    folder
        An existing one. When it is renamed or removed, who still writes a run fails and
        leaves nothing.
    dtypes
        Types of the arrays.
    section_rows
        Places of a section; the last may have fewer.
    """

    folder: Path
    dtypes: tuple[np.dtype[Any], ...]
    section_rows: int

    def write(self, run: int, places: NDArray[np.int64], parts: Sequence[Rows]) -> None:
        """Write a run: the ``places`` (n,) of its rows, and the rows in several parts.

        Notes
        -----
        Holds the rows once more, and 2 MiB of them twice.
        """
        lengths = np.concatenate([np.diff(indptr) for indptr, _ in parts])
        order = np.argsort(places)
        stops = np.cumsum(lengths)[order]
        starts = stops - lengths[order]
        whole = [
            np.concatenate([arrays[i] for _, arrays in parts]).astype(dtype, copy=False)
            for i, dtype in enumerate(self.dtypes)
        ]
        sections, firsts = np.unique(places[order] // self.section_rows, return_index=True)
        cuts = pairwise([*firsts.tolist(), len(order)])
        for section, (first, last) in zip(sections.tolist(), cuts, strict=True):
            rows = starts[first:last], stops[first:last]
            with self._aside(self._path(run, section)) as file:
                for array in whole:
                    file.writelines(join_rows(array, *rows))

    @contextmanager
    def _aside(self, path: Path) -> Iterator[BinaryIO]:
        """A file that takes its name when it is whole, and is removed if it never is."""
        aside = self.folder / f"{uuid4().hex}.partial"
        try:
            with aside.open("wb") as file:
                yield file
            aside.replace(path)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise

    def read(self, bucket: Bucket) -> list[Iterator[memoryview]]:
        """Each array of the rows of a bucket in order of place, in pieces.

        Notes
        -----
        Holds the arrays, each until its last piece is taken, and 2 MiB of one twice.
        """
        lengths = bucket.lengths.astype(np.int64)
        # Read run by run, they stand by place within a run.
        order = np.argsort(bucket.runs.astype(index_dtype(len(bucket.starts))), kind="stable")
        stops = np.empty_like(lengths)
        stops[order] = np.cumsum(lengths[order])
        return [join_rows(array, stops - lengths, stops) for array in self._gathered(bucket)]

    def _gathered(self, bucket: Bucket) -> list[NDArray[Any]]:
        """The arrays of the rows of a bucket, run behind run."""
        starts, stops = bucket.starts, bucket.stops
        n_entries = int((stops - starts).sum())
        found = [np.empty(n_entries, dtype) for dtype in self.dtypes]
        place = 0
        for run in np.flatnonzero(stops > starts).tolist():
            n_read = int(stops[run] - starts[run])
            onto = [array[place : place + n_read] for array in found]
            self._read_run(self._path(run, bucket.section), int(starts[run]), onto)
            place += n_read
        return found

    def _read_run(self, path: Path, start: int, onto: Sequence[NDArray[Any]]) -> None:
        """Entries of a run from ``start`` on, of each array as many as there is room for."""
        descriptor = open_to_read(path)
        try:
            entry_bytes = sum(dtype.itemsize for dtype in self.dtypes)
            n_entries = os.fstat(descriptor).st_size // entry_bytes
            bytes_before = 0  # of an entry, in the arrays before
            for array in onto:
                first = n_entries * bytes_before + start * array.itemsize
                if read_at(descriptor, array.view(np.uint8), first) != array.nbytes:
                    raise InputError(
                        f"{path} ends early: an intermediate file was cut short; run again "
                        "to rebuild it"
                    )
                bytes_before += array.itemsize
        finally:
            os.close(descriptor)

    def remove(self, section: int, n_runs: int) -> None:
        """Remove what the first ``n_runs`` runs have of a section."""
        for run in range(n_runs):
            self._path(run, section).unlink(missing_ok=True)

    def _path(self, run: int, section: int) -> Path:
        return self.folder / f"run-{run}-{section}"


def join_rows(
    array: NDArray[Any], starts: NDArray[np.int64], stops: NDArray[np.int64]
) -> Iterator[memoryview]:
    """Slices of a one-dimensional array, one behind the other, as pieces of bytes.

    Copies whole rows: several times as fast as an index for every entry.
    """
    lengths = stops - starts
    before = (np.cumsum(lengths) - lengths) * array.itemsize
    edges = np.flatnonzero(np.diff(before // PIECE_BYTES, prepend=-1)).tolist()
    for first, last in pairwise([*edges, len(lengths)]):
        here = slice(first, last)
        ends = np.cumsum(lengths[here])
        joined = np.empty(int(ends[-1]), array.dtype)
        copy_slices(array, starts[here], stops[here], joined, ends - lengths[here])
        yield joined.view(np.uint8).data
