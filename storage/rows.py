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
from tigon.storage.raw import write_array_at, write_slices_at


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
        """Write ``rows`` (len(positions), width) at distinct ``positions``, in any order."""
        order = np.argsort(positions, kind="stable")
        positions, rows = positions[order], np.ascontiguousarray(rows[order], np.float32)
        starts = np.flatnonzero(np.diff(positions, prepend=-2) != 1)
        stops = np.append(starts[1:], len(positions))
        offsets = (positions[starts] * self._row_bytes).tolist()
        with self.path.open("r+b", buffering=0) as file:
            write_slices_at(file.fileno(), rows, starts, stops, offsets)

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
        if len(flat) != (stop - start) * width:
            raise InputError(
                f"rows {start} to {stop} cannot be read from {self.path}: it holds "
                f"{self.shape[0]}; the file was cut short, run again"
            )
        return flat.reshape(-1, width)
