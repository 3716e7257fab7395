"""Matrices with a row per cell that are read a run of rows at a time.

Loadings are solved a run of cells at a time; a file of rows is where they land, without
being held in memory. Rows that come in another order go there by way of
:mod:`tigon.storage.scattering`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.raw import write_array_at


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
