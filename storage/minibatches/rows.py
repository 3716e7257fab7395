"""Rows of counts taken from several pieces in any order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.storage.recycling import Empty
from tigon.storage.slices import copy_slices
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

    def take(self, rows: NDArray[np.int64], empty: Empty = np.empty) -> SparseRows:
        """Some rows, in the order asked for; copies.

        Parameters
        ----------
        rows
            Their numbers.
        empty
            Makes the arrays of the copies.
        """
        piece, first, last = self.piece[rows], self.first[rows], self.last[rows]
        indptr = np.zeros(len(rows) + 1, np.int64)
        np.cumsum(last - first, out=indptr[1:])
        indices = empty(int(indptr[-1]), self.pieces[0].indices.dtype)
        values = empty(int(indptr[-1]), self.pieces[0].values.dtype)
        for k, source in enumerate(self.pieces):
            (of_it,) = np.nonzero(piece == k)
            cuts, places = (first[of_it], last[of_it]), indptr[of_it]
            copy_slices(np.ascontiguousarray(source.indices), *cuts, indices, places)
            copy_slices(np.ascontiguousarray(source.values), *cuts, values, places)
        return SparseRows(indptr=indptr, indices=indices, values=values)
