"""Where rows begin among the entries of a matrix, for any rows, from what is in memory.

``indptr`` takes 8 bytes a row; the lengths of rows take 2 or 4 and give the same
numbers, from the nearest of the offsets that are kept for every 1024th row.
"""

from __future__ import annotations

from functools import partial

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.reading.caching import BoundedCache
from tigon.storage.sources.matrices.matrix import Array
from tigon.storage.sources.matrices.offsets import STRIDE, Offsets

_PIECE = 1 << 16
_LIMIT_BYTES = 32 << 20


class RowStarts:
    """Lengths of rows, read a piece at a time and kept while there is room.

    Parameters
    ----------
    where
        The file, for messages.
    indptr
        int, shape (n_rows + 1,).
    offsets
        Of the same matrix.

    Notes
    -----
    Keeps at most 32 MiB, or one piece: 65,536 rows or a chunk of ``indptr``.
    """

    def __init__(self, where: str, indptr: Array, offsets: Offsets) -> None:
        self._where, self._indptr, self._offsets = where, indptr, offsets
        self._n_rows = indptr.shape[0] - 1
        chunks = getattr(indptr, "chunks", None) or (_PIECE,)
        # Whole chunks, so that none is decoded for several pieces.
        self._piece = max(_PIECE, -(-int(chunks[0]) // STRIDE) * STRIDE)
        self._cache = BoundedCache[NDArray[np.unsignedinteger]](
            _LIMIT_BYTES, lambda lengths: lengths.nbytes
        )

    def of(self, start: int, stop: int) -> NDArray[np.int64]:
        """Entries before each row from ``start`` to ``stop``, both included."""
        first = start // STRIDE
        lengths = self._lengths(first * STRIDE, stop)
        starts = np.empty(len(lengths) + 1, np.int64)
        starts[0] = 0
        np.cumsum(lengths, dtype=np.int64, out=starts[1:])
        starts += self._offsets.values[first]
        return starts[start - first * STRIDE :]

    def knows(self, start: int, stop: int) -> bool:
        """Whether :meth:`of` has all it needs."""
        numbers = range(start // self._piece, -(-stop // self._piece))
        return all(number in self._cache for number in numbers)

    def _lengths(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        pieces = []
        for number in range(start // self._piece, -(-stop // self._piece)):
            lengths = self._cache.get(number, partial(self._load, number))
            first = number * self._piece
            pieces.append(lengths[max(0, start - first) : stop - first])
        return pieces[0] if len(pieces) == 1 else np.concatenate([np.empty(0, np.uint16), *pieces])

    def _load(self, number: int) -> NDArray[np.unsignedinteger]:
        start = number * self._piece
        stop = min(start + self._piece, self._n_rows)
        starts = np.asarray(self._indptr[start : stop + 1], dtype=np.int64)
        if len(starts) != stop + 1 - start:
            raise broken(
                self._where, f"indptr gave {len(starts):,} of {stop + 1 - start:,} numbers"
            )
        lengths = np.diff(starts)
        if starts[0] < 0 or (lengths < 0).any():
            raise broken(self._where, f"indptr falls in rows {start:,} to {stop:,}")
        kept = self._offsets.values[start // STRIDE :]
        found = starts[::STRIDE]
        if (found != kept[: len(found)]).any() or (stop == self._n_rows and starts[-1] != kept[-1]):
            raise broken(
                self._where, f"indptr disagrees with its summary in rows {start:,} to {stop:,}"
            )
        return lengths.astype(np.uint16 if lengths.max(initial=0) < 1 << 16 else np.uint32)


def broken(where: str, problem: str) -> InputError:
    """The error of a matrix whose arrays do not go together."""
    return InputError(
        f"{where}: the sparse matrix contradicts itself ({problem}): the file is damaged or cut "
        "short; write it again"
    )
