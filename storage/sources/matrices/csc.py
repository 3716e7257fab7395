"""Matrices stored as compressed sparse columns, turned into rows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tigon.storage.scratch import Scratch
from tigon.storage.sources.matrices.csr import CsrMatrix, open_csr
from tigon.storage.sources.matrices.matrix import Array, Lock, reading
from tigon.storage.sources.matrices.transpose import PIECE_ENTRIES, Entries, rows_from_entries


def convert_csc(
    where: str,
    shape: tuple[int, int],
    arrays: tuple[Array, Array, Array],
    lock: Lock,
    scratch_parent: Path | None,
) -> tuple[CsrMatrix, Scratch]:
    """Turn compressed sparse columns (indptr, indices, values) into rows.

    Parameters
    ----------
    where
        The file, for messages.
    shape
        Rows and columns of the matrix.
    arrays
        ``indptr`` has one more number than there are columns.
    lock
        Held while the arrays are read.
    scratch_parent
        Where to make the folder that keeps the rows.

    Returns
    -------
    tuple of CsrMatrix and Scratch
        The rows, and the folder to close after their last use.

    Notes
    -----
    One pass over the matrix; ``indptr`` is held in memory.
    """
    columns = open_csr(where, (shape[1], shape[0]), arrays, lock)
    scratch = Scratch(scratch_parent)
    n_entries = columns.offsets.n_entries
    entries = _entries(columns)
    rows = rows_from_entries(entries, shape, n_entries, columns.dtype, where, scratch)
    return rows, scratch


def _entries(columns: CsrMatrix) -> Iterator[Entries]:
    with reading(columns.where, 0, columns.shape[1]), columns.lock:
        indptr = np.asarray(columns.indptr[:], dtype=np.int64)
    for start in range(0, columns.offsets.n_entries, PIECE_ENTRIES):
        stop = min(start + PIECE_ENTRIES, columns.offsets.n_entries)
        with reading(columns.where, 0, columns.shape[1]), columns.lock:
            rows = np.asarray(columns.indices[start:stop])
            values = np.asarray(columns.values[start:stop])
        place = np.searchsorted(indptr, np.arange(start, stop), side="right") - 1
        yield Entries(rows=rows, columns=place, values=values)
