"""Entries that come in any order become rows, in bounded memory.

Entries are scattered to buckets of rows on disk, then each bucket is sorted in
memory and appended to three files that are read back as compressed sparse rows.
It needs about twice the bytes of the entries on disk and 80 MiB of memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.raw import FileArray, write_array
from tigon.storage.scratch import Scratch, writing_scratch
from tigon.storage.sources.matrices.csr import CsrMatrix, open_csr

PIECE_ENTRIES = 1 << 20
"""Entries handed over at once."""
_BUCKET_ENTRIES = 1 << 21


@dataclass(frozen=True, slots=True)
class Entries:
    """Some entries of a matrix: rows, columns and values, shape (n,) each, in any order."""

    rows: NDArray[np.integer]
    columns: NDArray[np.integer]
    values: NDArray[np.number]


def rows_from_entries(
    entries: Iterable[Entries],
    shape: tuple[int, int],
    n_entries: int,
    dtype: np.dtype[Any],
    where: str,
    scratch: Scratch,
) -> CsrMatrix:
    """Sort entries into rows in files under ``scratch``.

    Parameters
    ----------
    entries
        All entries of the matrix, in pieces of about ``PIECE_ENTRIES``.
    shape
        Rows and columns.
    n_entries
        How many entries there are; sets the number of buckets.
    dtype
        Type of the values.
    where
        The file they come from, for messages.
    scratch
        Where to keep the rows; removed when this fails.

    Raises
    ------
    InputError
        An entry lies outside ``shape``.
    NoSpaceError
        The disk of ``scratch`` is full.
    """
    record = np.dtype([("row", "<u4"), ("column", "<u4"), ("value", dtype)])
    n_buckets = max(1, -(-n_entries // _BUCKET_ENTRIES))
    bucket_rows = max(1, -(-shape[0] // n_buckets))
    with writing_scratch(scratch, f"to turn {where} into rows", 2 * n_entries * record.itemsize):
        for piece in entries:
            _scatter(_records(piece, shape, record, where), bucket_rows, scratch.folder)
        counts = [
            _append_bucket(scratch.folder, first, min(bucket_rows, shape[0] - first), record)
            for first in range(0, shape[0], bucket_rows)
        ]
        return _open(scratch.folder, shape, sum(counts), dtype, where)


def _records(
    piece: Entries, shape: tuple[int, int], record: np.dtype[Any], where: str
) -> NDArray[np.void]:
    for positions, limit, axis in (
        (piece.rows, shape[0], "cell"),
        (piece.columns, shape[1], "gene"),
    ):
        outside = (positions < 0) | (positions >= limit)
        if outside.any():
            position = int(positions[outside.argmax()])
            raise InputError(
                f"{where}: an entry belongs to {axis} number {position + 1:,}: there are "
                f"{limit:,}; the file is damaged, write it again"
            )
    records = np.empty(len(piece.rows), record)
    records["row"], records["column"], records["value"] = piece.rows, piece.columns, piece.values
    return records


def _scatter(records: NDArray[np.void], bucket_rows: int, folder: Path) -> None:
    bucket = records["row"] // bucket_rows
    if bucket.max(initial=0) < 1 << 16:
        bucket = bucket.astype(np.uint16)  # sorted by radix, several times faster
    order = np.argsort(bucket, kind="stable")
    records, bucket = records[order], bucket[order]
    starts = np.flatnonzero(np.diff(bucket.astype(np.int64), prepend=-1))
    for start, stop in zip(starts, [*starts[1:], len(bucket)], strict=True):
        with _bucket(folder, int(bucket[start]) * bucket_rows).open("ab") as file:
            write_array(file, records[start:stop])


def _append_bucket(folder: Path, first: int, n_rows: int, record: np.dtype[Any]) -> int:
    """Sort one bucket, append it to the files of rows, remove it; returns its entries."""
    path = _bucket(folder, first)
    records = np.fromfile(path, record) if path.exists() else np.empty(0, record)
    path.unlink(missing_ok=True)
    place = records["row"].astype(np.uint64) << np.uint64(32) | records["column"]
    records = records[np.argsort(place, kind="stable")]
    parts = {
        "lengths": np.bincount(records["row"] - np.uint32(first), minlength=n_rows).astype("<i8"),
        "columns": records["column"],
        "values": records["value"],
    }
    for name, part in parts.items():
        with (folder / name).open("ab") as file:
            write_array(file, part)
    return len(records)


def _bucket(folder: Path, first_row: int) -> Path:
    return folder / f"bucket.{first_row}"


def _open(
    folder: Path, shape: tuple[int, int], n_entries: int, dtype: np.dtype[Any], where: str
) -> CsrMatrix:
    indptr = _write_indptr(folder, shape[0])
    columns = FileArray(folder / "columns", (n_entries,), np.dtype("<u4"))
    values = FileArray(folder / "values", (n_entries,), dtype)
    return open_csr(where, shape, (indptr, columns, values), nullcontext())


def _write_indptr(folder: Path, n_rows: int) -> FileArray:
    """Add up the lengths of the rows, a piece at a time."""
    lengths = FileArray(folder / "lengths", (n_rows,), np.dtype("<i8"))
    indptr = FileArray(folder / "indptr", (n_rows + 1,), np.dtype("<i8"))
    with indptr.path.open("wb") as file:
        write_array(file, np.zeros(1, "<i8"))
        before = 0
        for start in range(0, n_rows, PIECE_ENTRIES):
            piece = np.cumsum(lengths[start : start + PIECE_ENTRIES]) + before
            write_array(file, piece)
            before = int(piece[-1])
    return indptr
