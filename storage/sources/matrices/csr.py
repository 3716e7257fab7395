"""Matrices stored as compressed sparse rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.sources.matrices.matrix import (
    Array,
    Lock,
    Runs,
    SparseRows,
    check_numeric,
    joined,
    reading,
)
from tigon.storage.sources.matrices.offsets import Offsets, OffsetsBuilder

_PIECE = 1 << 20


@dataclass(frozen=True)
class CsrMatrix:
    """Compressed sparse rows in three arrays, read by slices.

    Attributes
    ----------
    where
        The file, for messages.
    shape
        Rows and columns.
    indptr, indices, values
        The arrays, shapes (n_rows + 1,), (n_entries,), (n_entries,).
    offsets
        Coarse copy of ``indptr``.
    lock
        Held while the arrays are read.
    """

    where: str
    shape: tuple[int, int]
    indptr: Array
    indices: Array
    values: Array
    offsets: Offsets
    lock: Lock

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = np.dtype(self.values.dtype)
        return dtype

    @property
    def entry_bytes(self) -> int:
        return self.dtype.itemsize + int(np.dtype(self.indices.dtype).itemsize)

    def read(self, start: int, stop: int) -> SparseRows:
        with reading(self.where, start, stop), self.lock:
            indptr = np.asarray(self.indptr[start : stop + 1], dtype=np.int64)
            self._check_length("indptr", len(indptr), stop + 1 - start)
            if indptr[0] < 0 or (np.diff(indptr) < 0).any():
                raise _broken(self.where, f"indptr falls in rows {start:,} to {stop:,}")
            first, last = int(indptr[0]), int(indptr[-1])
            indices = np.asarray(self.indices[first:last])
            values = np.asarray(self.values[first:last])
        self._check_length("indices", len(indices), last - first)
        self._check_length("data", len(values), last - first)
        return SparseRows(indptr=indptr - first, indices=indices, values=values)

    def read_runs(self, runs: Runs) -> SparseRows:
        return joined([self.read(start, stop) for start, stop in runs])

    def _check_length(self, name: str, n_read: int, n_asked: int) -> None:
        # Compiled code trusts these lengths.
        if n_read != n_asked:
            raise _broken(self.where, f"{name} gave {n_read:,} of {n_asked:,} numbers")

    def most_entries(self, n_rows: int) -> int:
        return self.offsets.most_entries(n_rows)


def open_csr(
    where: str,
    shape: tuple[int, int],
    arrays: tuple[Array, Array, Array],
    lock: Lock,
) -> CsrMatrix:
    """Check the frame of a CSR matrix (indptr, indices, values) and open it.

    Raises
    ------
    InputError
        ``indptr`` contradicts the shape or the other two arrays.

    Notes
    -----
    One pass over ``indptr``, holding 8 MiB of it.
    """
    indptr, indices, values = arrays
    check_numeric(np.dtype(values.dtype), where)
    if indptr.shape != (shape[0] + 1,):
        raise _broken(
            where, f"indptr has {indptr.shape[0]:,} numbers for {shape[0]:,} rows, not one more"
        )
    offsets = _scan(where, indptr, lock)
    for name, array in (("indices", indices), ("data", values)):
        if array.shape != (offsets.n_entries,):
            raise _broken(
                where,
                f"indptr ends at {offsets.n_entries:,} and {name} holds {array.shape[0]:,} entries",
            )
    return CsrMatrix(where, shape, indptr, indices, values, offsets, lock)


def _scan(where: str, indptr: Array, lock: Lock) -> Offsets:
    builder = OffsetsBuilder()
    for start in range(0, max(1, indptr.shape[0] - 1), _PIECE):
        with reading(where, start, start + _PIECE), lock:
            piece: NDArray[np.int64] = np.asarray(indptr[start : start + _PIECE + 1], np.int64)
        if start == 0 and piece[0] != 0:
            raise _broken(where, f"indptr begins with {piece[0]}, not with 0")
        lengths = np.diff(piece)
        if (lengths < 0).any():
            raise _broken(where, f"indptr falls after row {start + int(lengths.argmin()):,}")
        builder.add(lengths)
    return builder.build()


def _broken(where: str, problem: str) -> InputError:
    return InputError(
        f"{where}: the sparse matrix contradicts itself ({problem}): the file is damaged or cut "
        "short; write it again"
    )
