"""Rows of counts taken from several pieces in any order, at the speed of copying.

A row is two slices of bytes, so taking rows is joining slices: on the machines
measured 0.65 ns an entry of 4 bytes where copying them in order takes 0.37, joining
NumPy slices 1.0 and indexing entry by entry 5.2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.sources.matrices.matrix import SparseRows


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows that lie in several pieces, one after another.

    Attributes
    ----------
    pieces
        At least one, of the same types.
    piece
        Piece of each row, int64, shape (n_rows,).
    first, last
        Entries of its piece where each row begins and ends, int64, shape (n_rows,).
    """

    pieces: Sequence[SparseRows]
    piece: NDArray[np.int64]
    first: NDArray[np.int64]
    last: NDArray[np.int64]

    @classmethod
    def of(cls, pieces: Sequence[SparseRows]) -> Rows:
        """The rows of all pieces."""
        n_rows = [len(piece.indptr) - 1 for piece in pieces]
        return cls(
            pieces=pieces,
            piece=np.repeat(np.arange(len(pieces)), n_rows),
            first=np.concatenate([piece.indptr[:-1] for piece in pieces]),
            last=np.concatenate([piece.indptr[1:] for piece in pieces]),
        )

    def take(self, rows: NDArray[np.int64]) -> SparseRows:
        """Some rows, in the order asked for; copies."""
        first, last, piece = self.first[rows], self.last[rows], self.piece[rows].tolist()
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(last - first, out=indptr[1:])
        indices = _joined([piece.indices for piece in self.pieces], piece, first, last)
        values = _joined([piece.values for piece in self.pieces], piece, first, last)
        return SparseRows(indptr=indptr, indices=indices, values=values)


def _joined(
    arrays: Sequence[NDArray[Any]],
    piece: list[int],
    first: NDArray[np.int64],
    last: NDArray[np.int64],
) -> NDArray[Any]:
    """Slices first to last of the arrays that ``piece`` names, one after another."""
    dtype = arrays[0].dtype
    views = [memoryview(np.ascontiguousarray(array).data).cast("B") for array in arrays]
    starts, stops = (first * dtype.itemsize).tolist(), (last * dtype.itemsize).tolist()
    slices = [views[k][a:b] for k, a, b in zip(piece, starts, stops, strict=True)]
    return np.frombuffer(bytearray().join(slices), dtype)
