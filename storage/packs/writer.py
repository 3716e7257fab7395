"""Writing a pack: cells are sorted by their places in it, on disk.

Every cell knows its place in the pack beforehand, so the result does not depend on the runs
that cells come in, nor on the number of buckets, threads or workers. What takes long is done
by two functions that any thread or process may call that sees the folder, again if need be:
:class:`RunWriter` writes some cells as a sorted run, :class:`BucketWriter` puts a stretch of
the pack in its place. Whoever holds the :class:`PackWriter` sees lengths and checksums alone.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from tigon.storage.packs.coding import encode
from tigon.storage.packs.pack import CELL, FILES, FORMAT, Pack, write_description
from tigon.storage.packs.sorting import Bucket, Rows, RunFiles
from tigon.storage.packs.stretches import Piece, SummedFile, sums_of_stretches

_INDPTR_CELLS = 2**20
"""Cells whose running sums are held at once, 8 MiB of them."""

N_SECTIONS = 8
"""Parts of the pack, of which each takes the room of what was sorted for the one before."""

_CELLS, _INDPTR, *_ENTRIES = FILES

Sums = list[list[Piece]]
"""Of what was written to the files of genes and of counts."""

OrderedMap = Callable[[Callable[[Bucket], Sums], Iterable[Bucket]], Iterable[Sums]]
"""As ``map``; may work on several buckets at once, and gives what is found in order."""


@dataclass(frozen=True, slots=True)
class RunWriter:
    """Writes runs of cells; a pure function but for a file whose bytes are always the same.

    Attributes
    ----------
    files
        Where runs lie.
    """

    files: RunFiles

    def __call__(
        self, run: int, places: NDArray[np.int64], parts: Iterable[Rows]
    ) -> NDArray[np.uint32]:
        """Write a run.

        Parameters
        ----------
        run
            Its number.
        places
            Where each cell goes in the pack, shape (n,).
        parts
            The cells in several parts: where those of each begin and end, and their genes and
            counts; taken one by one, and not held as they are.

        Returns
        -------
        ndarray of uint32, shape (n,)
            Entries that each cell takes.
        """
        coded = list(map(self._coded, parts))  # a loop would hold a part while the next is read
        self.files.write(run, places, coded)
        return np.concatenate([np.diff(indptr) for indptr, _ in coded]).astype(np.uint32)

    def _coded(self, part: Rows) -> Rows:
        indptr, (genes, counts) = part
        starts, *entries = encode(indptr, genes, counts, self.files.dtypes)
        return starts, tuple(entries)


@dataclass(frozen=True, slots=True)
class BucketWriter:
    """Puts a bucket in its place in the pack; pure but for bytes that are always the same.

    Attributes
    ----------
    files
        Where runs lie, and the files of genes and counts, which are as long as they will be.
    """

    files: RunFiles

    def __call__(self, bucket: Bucket) -> Sums:
        """The sums of what was written; holds the arrays of the bucket."""
        pieces = self.files.read(bucket)
        sums: Sums = [[] for _ in _ENTRIES]
        # Who writes to a file has others wait: buckets next to each other begin with another one.
        for i in range(len(_ENTRIES))[:: -1 if bucket.number % 2 else 1]:
            sums[i] = self._write(bucket, i, pieces[i])
        return sums

    def _write(self, bucket: Bucket, array: int, pieces: Iterator[memoryview]) -> list[Piece]:
        with (self.files.folder / _ENTRIES[array]).open("r+b") as file:
            summed = SummedFile(file, bucket.before * self.files.dtypes[array].itemsize)
            summed.writelines(pieces)
            return summed.finish()


class PackWriter:
    """Writes one pack: ``writer.take`` what :attr:`run_writer` did, then ``finish()``.

    Parameters
    ----------
    folder
        Created; must not exist.
    shape
        Cells and genes of the pack; ``places`` must fill 0 to n_cells exactly once.
    dtypes
        Types of gaps between genes and of counts, as they are written
        (:mod:`tigon.storage.packs.coding`).
    n_buckets
        Stretches that are put in order one by one.

    Notes
    -----
    Cells are written twice, and read once in between. The disk holds the pack and an eighth of
    it, or what is being put in order where that is more. Holds 24 bytes for every cell.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int],
        dtypes: tuple[np.dtype[Any], np.dtype[Any]],
        n_buckets: int,
    ) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._n_cells, self._n_genes = shape
        self._bucket_cells = max(1, -(-self._n_cells // n_buckets))
        self._section_buckets = max(1, -(-self.n_buckets // N_SECTIONS))
        section_cells = self._section_buckets * self._bucket_cells
        # A name of its own: what a lost worker still writes never meets another pack.
        self._files = RunFiles(folder / f"parts-{uuid4().hex}", dtypes, section_cells)
        self._files.folder.mkdir()
        self._cells = np.zeros(self._n_cells, CELL)
        self._lengths = np.zeros(self._n_cells, np.uint32)
        self._runs = np.full(self._n_cells, -1, np.int32)
        self._n_runs = 0

    @property
    def run_writer(self) -> RunWriter:
        """What writes runs, here or in another process."""
        return RunWriter(self._files)

    @property
    def n_buckets(self) -> int:
        """Stretches that are put in order one by one."""
        return -(-self._n_cells // self._bucket_cells)

    def take(
        self, places: NDArray[np.int64], cells: NDArray[np.void], lengths: NDArray[np.uint32]
    ) -> None:
        """Note the next run: its ``places`` (n,), records (``CELL``) and entries (n,)."""
        assert (self._runs[places] == -1).all(), "a cell is doubled"
        self._cells[places], self._lengths[places] = cells, lengths
        self._runs[places] = self._n_runs
        self._n_runs += 1

    def finish(self, ordered_map: OrderedMap = map, atlas: str = "") -> Pack:
        """Put every bucket in order, and note what the pack is.

        Parameters
        ----------
        ordered_map
            Works on the buckets.
        atlas
            What the cells are of, for people.
        """
        assert (self._runs >= 0).all(), "a cell is missing"
        n_nonzeros = int(self._lengths.sum(dtype=np.int64))
        sums = [
            _written(self._folder / _CELLS, [self._cells]),
            _written(self._folder / _INDPTR, _running_sums(self._lengths)),
            *self._entries(n_nonzeros, ordered_map),
        ]
        self.close()
        described = {
            "format": FORMAT,
            "n_cells": self._n_cells,
            "n_genes": self._n_genes,
            "n_nonzeros": n_nonzeros,
            "gaps": self._files.dtypes[0].str,
            "counts": self._files.dtypes[1].str,
            "atlas": atlas,
            "crc32": dict(zip(FILES, sums, strict=True)),
        }
        write_description(self._folder / "pack.json", described)
        return Pack(self._folder)

    def close(self) -> None:
        """Remove what was written to sort; a writer that is not finished is of no more use."""
        folder = self._files.folder
        if folder.exists():
            # First its name, so that a thread that goes on for a moment adds nothing to it.
            shutil.rmtree(folder.rename(folder.with_suffix(".old")), ignore_errors=True)

    def _entries(self, n_entries: int, ordered_map: OrderedMap) -> list[list[int]]:
        """Write the files of genes and counts; their sums by stretch."""
        paths = [self._files.folder / name for name in _ENTRIES]
        for path, dtype in zip(paths, self._files.dtypes, strict=True):
            with path.open("wb") as file:
                file.truncate(n_entries * dtype.itemsize)
        pieces: Sums = [[], []]
        for n, found in enumerate(ordered_map(BucketWriter(self._files), self._buckets()), 1):
            for whole, of_bucket in zip(pieces, found, strict=True):
                whole += of_bucket
            if n % self._section_buckets == 0:
                self._files.remove(n // self._section_buckets - 1, self._n_runs)
        for path in paths:
            path.rename(self._folder / path.name)
        return [sums_of_stretches(whole) for whole in pieces]

    def _buckets(self) -> Iterator[Bucket]:
        before, none = 0, np.zeros(self._n_runs, np.int64)
        starts = none
        for number in range(self.n_buckets):
            rows = slice(number * self._bucket_cells, (number + 1) * self._bucket_cells)
            lengths, section = self._lengths[rows], number // self._section_buckets
            starts = starts if number % self._section_buckets else none
            bucket = Bucket(number, before, lengths, self._runs[rows], section, starts)
            yield bucket
            before, starts = before + int(lengths.sum(dtype=np.int64)), bucket.stops


def _written(path: Path, arrays: Iterable[NDArray[Any]]) -> list[int]:
    """Write arrays one behind the other; the sums of the file by stretch."""
    with path.open("wb") as file:
        summed = SummedFile(file)
        for array in arrays:
            summed.write(array.view(np.uint8).data)
        return sums_of_stretches(summed.finish())


def _running_sums(lengths: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """0 and the sums of ``lengths`` (n,), in pieces of together n + 1 numbers."""
    total = np.zeros(1, "<i8")
    yield total
    for start in range(0, len(lengths), _INDPTR_CELLS):
        piece = total[-1] + np.cumsum(lengths[start : start + _INDPTR_CELLS], dtype="<i8")
        yield piece
        total = piece[-1:]
