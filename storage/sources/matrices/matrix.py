"""The contract of a source's matrix: runs of rows, as they are stored.

Rows come unchecked; ``tigon.storage.counts`` turns them into counts. A row is
a cell in every format, whichever way round the file keeps them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError, TigonError
from tigon.storage.recycling import Empty


@dataclass(frozen=True, slots=True)
class SparseRows:
    """Rows as stored, in compressed sparse form.

    Attributes
    ----------
    indptr
        int64, shape (n_rows + 1,); begins with 0 and does not fall.
    indices
        Columns, any integer type, shape (n_entries,); in any order, unchecked.
    values
        Any numeric type, shape (n_entries,); unchecked.
    """

    indptr: NDArray[np.int64]
    indices: NDArray[np.integer]
    values: NDArray[np.number]


Runs = Sequence[tuple[int, int]]
"""Runs of rows, each from ``start`` to ``stop``, in any order; rows may be in several."""


class Array(Protocol):
    """What NumPy, h5py and Zarr arrays have in common."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> Any: ...

    def __getitem__(self, selection: Any, /) -> Any: ...


class Matrix(Protocol):
    """A matrix of which runs of rows can be read, by several threads at once."""

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        ...

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values as stored."""
        ...

    @property
    def entry_bytes(self) -> int:
        """Bytes of one entry as read."""
        ...

    def read(self, start: int, stop: int) -> SparseRows:
        """Rows ``start`` to ``stop``."""
        ...

    def read_runs(self, runs: Runs, empty: Empty = np.empty) -> SparseRows:
        """Rows of several runs, at least one, none of them empty, in the order given.

        ``empty`` makes the arrays that entries are read into, where these are not made by
        the library that reads.
        """
        ...

    def most_entries(self, n_rows: int) -> int:
        """No run of ``n_rows`` rows has more entries than this."""
        ...


def joined(pieces: Sequence[SparseRows]) -> SparseRows:
    """Rows of one or more pieces, one after another; copies where there are several."""
    if len(pieces) == 1:
        return pieces[0]
    before = np.cumsum([0, *(len(piece.indices) for piece in pieces)])
    indptr = [piece.indptr[1:] + n for piece, n in zip(pieces, before[:-1], strict=True)]
    return SparseRows(
        indptr=np.concatenate([np.zeros(1, np.int64), *indptr]),
        indices=np.concatenate([piece.indices for piece in pieces]),
        values=np.concatenate([piece.values for piece in pieces]),
    )


Lock = AbstractContextManager[Any]
"""Held while a file is read; one that does nothing where the library needs none."""


@contextmanager
def reading(where: str, start: int, stop: int) -> Iterator[None]:
    """Say where in which file a read failed."""
    try:
        yield
    except (TigonError, MemoryError):
        raise
    except Exception as error:  # whatever a codec, a file system or a server comes up with
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{where}: cells {start:,} to {stop:,} cannot be read ({reason}): the file is damaged "
            "or cut short; copy or download it again"
        ) from error


def check_numeric(dtype: np.dtype[Any], where: str) -> np.dtype[Any]:
    """Refuse matrices of text, complex numbers and the like."""
    if dtype.kind not in "buif":
        raise InputError(
            f"{where}: the matrix holds values of type {dtype}: counts are whole numbers; "
            "name another matrix with --layer"
        )
    return dtype
