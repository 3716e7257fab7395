"""Matrices stored as compressed sparse rows.

Where the arrays are of a store that Tigon reads by plans, a reading is one plan for
both of them; elsewhere they are sliced.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.reading.ahead import Order
from tigon.storage.reading.store import expect_ranges, read_ranges
from tigon.storage.recycling import Empty
from tigon.storage.sources.matrices.matrix import (
    Array,
    Lock,
    Runs,
    SparseRows,
    check_numeric,
    reading,
)
from tigon.storage.sources.matrices.offsets import Offsets, OffsetsBuilder
from tigon.storage.sources.matrices.row_starts import RowStarts, broken

_PIECE = 1 << 20


@dataclass(frozen=True)
class CsrMatrix:
    """Compressed sparse rows in three arrays.

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
        self._expect_what_follows(start, stop)
        return self.read_runs([(start, stop)])

    def read_runs(self, runs: Runs, empty: Empty = np.empty) -> SparseRows:
        first, last = min(start for start, _ in runs), max(stop for _, stop in runs)
        with reading(self.where, first, last), self.lock:
            starts = [self._starts.of(start, stop) for start, stop in runs]
            ranges = np.array([(of_run[0], of_run[-1]) for of_run in starts], np.int64)
            indices, values = read_ranges((self.indices, self.values), ranges, empty)
        n_entries = int((ranges[:, 1] - ranges[:, 0]).sum())
        self._check_length("indices", len(indices), n_entries)
        self._check_length("data", len(values), n_entries)
        return SparseRows(indptr=_indptr(starts), indices=indices, values=values)

    def _expect_what_follows(self, start: int, stop: int) -> None:
        runs = self._order.next_after(start, stop) if start < stop else []
        with reading(self.where, start, stop):
            if runs is None:
                expect_ranges((self.indices, self.values), None)
                return
            known = [self._starts.of(*run) for run in runs if self._starts.knows(*run)]
            ranges = [np.array([[starts[0], starts[-1]]]) for starts in known]
            expect_ranges((self.indices, self.values), ranges)

    @cached_property
    def _order(self) -> Order:
        return Order(self.shape[0])

    @cached_property
    def _starts(self) -> RowStarts:
        return RowStarts(self.where, self.indptr, self.offsets)

    def _check_length(self, name: str, n_read: int, n_asked: int) -> None:
        # Compiled code trusts these lengths.
        if n_read != n_asked:
            raise broken(self.where, f"{name} gave {n_read:,} of {n_asked:,} numbers")

    def most_entries(self, n_rows: int) -> int:
        return self.offsets.most_entries(n_rows)

    def row_lengths(self, start: int, stop: int) -> NDArray[np.int64]:
        """Entries of the rows ``start`` to ``stop``, shape (stop - start,)."""
        with reading(self.where, start, stop), self.lock:
            return np.diff(self._starts.of(start, stop))


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
        raise broken(
            where, f"indptr has {indptr.shape[0]:,} numbers for {shape[0]:,} rows, not one more"
        )
    offsets = _scan(where, indptr, lock)
    for name, array in (("indices", indices), ("data", values)):
        if array.shape != (offsets.n_entries,):
            raise broken(
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
            raise broken(where, f"indptr begins with {piece[0]}, not with 0")
        lengths = np.diff(piece)
        if (lengths < 0).any():
            raise broken(where, f"indptr falls after row {start + int(lengths.argmin()):,}")
        builder.add(lengths)
    return builder.build()


def _indptr(starts: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Entries before each row of several runs, counted from the first of them."""
    if len(starts) == 1:
        of_run = starts[0]
        relative: NDArray[np.int64] = of_run - of_run[0]
        return relative
    lengths = np.concatenate([np.diff(of_run) for of_run in starts])
    indptr = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return indptr
