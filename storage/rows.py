"""Matrices with a row per cell that are read a run of rows at a time.

Loadings are solved in the pack's shuffled order but belong to the atlas's
order; a file of rows, written in any order, is where they land in between,
without being held in memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.raw import read_at, write_array_at, write_slices_at

_GAP_BYTES = 2048
"""Up to this much between two rows is read and written with them: less than a call costs."""

_SPAN_BYTES = 2**20
"""At most this much is read and written together."""


class RowReader(Protocol):
    """A matrix (cells x columns) that need not be in memory."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``; several threads may ask at once."""
        ...


@dataclass(frozen=True, slots=True)
class ArrayRows:
    """A matrix in memory, read like one that is not."""

    array: NDArray[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the matrix."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of its values."""
        return self.array.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``."""
        return self.array[start:stop]


class RowFile:
    """Rows of ``width`` float32 numbers on disk.

    Parameters
    ----------
    path
        File to create; all rows are zero until written.
    shape
        (n_rows, width).
    keep
        Take a file of that size that is there already as it is.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, path: Path, shape: tuple[int, int], *, keep: bool = False) -> None:
        self.path = path
        self.shape = shape
        self._row_bytes = shape[1] * self.dtype.itemsize
        n_bytes = shape[0] * self._row_bytes
        if keep and path.is_file() and path.stat().st_size == n_bytes:
            return
        with path.open("wb") as file:
            file.truncate(n_bytes)

    def write_at(self, positions: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Write ``rows`` (len(positions), width) at distinct ``positions``, in any order.

        By one thread at a time: rows that lie between those of ``positions``, and near them,
        are read and written back as they are.
        """
        if not rows.size:
            return
        order = np.argsort(positions, kind="stable")
        positions, rows = positions[order], np.ascontiguousarray(rows[order], np.float32)
        starts = self._spans(positions)
        stops = np.append(starts[1:], len(positions))
        gaps = np.append(0, np.cumsum(np.diff(positions) != 1))
        whole = gaps[stops - 1] == gaps[starts]
        offsets = (positions[starts[whole]] * self._row_bytes).tolist()
        with self.path.open("r+b", buffering=0) as file:
            number = file.fileno()
            write_slices_at(number, rows, starts[whole], stops[whole], offsets)
            for start, stop in zip(starts[~whole].tolist(), stops[~whole].tolist(), strict=True):
                self._patch(number, positions[start:stop], rows[start:stop])

    def _spans(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where in ascending positions rows begin that are written together."""
        part = positions // max(1, _SPAN_BYTES // self._row_bytes)
        far = np.diff(positions) * self._row_bytes > _GAP_BYTES + self._row_bytes
        return np.flatnonzero(np.append(True, far | (np.diff(part) > 0)))

    def _patch(self, number: int, positions: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
        """Write rows at ascending positions, and what is between them as it is there."""
        first, last = int(positions[0]), int(positions[-1])
        between = np.empty((last + 1 - first, self.shape[1]), np.float32)
        n_read = read_at(number, between.reshape(-1).view(np.uint8), first * self._row_bytes)
        self._check_read(n_read, between.nbytes, first, last + 1)
        between[positions - first] = rows
        write_array_at(number, between, first * self._row_bytes)

    def write(self, start: int, rows: NDArray[np.float32]) -> None:
        """Write consecutive rows from ``start`` on."""
        with self.path.open("r+b", buffering=0) as file:
            consecutive = np.ascontiguousarray(rows, np.float32)
            write_array_at(file.fileno(), consecutive, start * self._row_bytes)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop``, shape (stop - start, width)."""
        width = self.shape[1]
        flat = np.fromfile(
            self.path,
            self.dtype,
            count=(stop - start) * width,
            offset=start * self._row_bytes,
        )
        self._check_read(flat.nbytes, (stop - start) * self._row_bytes, start, stop)
        return flat.reshape(-1, width)

    def _check_read(self, n_read: int, n_bytes: int, start: int, stop: int) -> None:
        if n_read != n_bytes:
            raise InputError(
                f"rows {start} to {stop} cannot be read from {self.path}: it holds "
                f"{self.shape[0]}; the file was cut short, run again"
            )
