"""Arrays as bare bytes in files.

``ndarray.tofile`` keeps to itself why a write failed, and ``os.pwrite`` may stop
midway without a word; what is written here is written whole, or an ``OSError``
says by its number that the disk is full.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError


@dataclass(frozen=True, slots=True)
class FileArray:
    """A one-dimensional array in a raw file, read by slices."""

    path: Path
    shape: tuple[int]
    dtype: np.dtype[Any]

    def __getitem__(self, selection: slice) -> NDArray[Any]:
        start, stop, _ = selection.indices(self.shape[0])
        count = max(0, stop - start)
        array = np.fromfile(self.path, self.dtype, count=count, offset=start * self.dtype.itemsize)
        if len(array) != count:
            raise InputError(
                f"{self.path} ends early (entry {start + len(array):,} of {stop:,}): an "
                "intermediate file was cut short or replaced; run again to rebuild it"
            )
        return array


def read_at(number: int, buffer: NDArray[np.uint8], offset: int) -> int:
    """Fill ``buffer`` from a byte of an open file on; returns the bytes read, fewer at its end."""
    left = buffer.data
    while left.nbytes:
        n_read = os.preadv(number, [left], offset)
        if n_read == 0:
            break
        left, offset = left[n_read:], offset + n_read
    return len(buffer) - left.nbytes


def write_array(file: BinaryIO, array: NDArray[Any]) -> None:
    """Append ``array`` to a buffered file."""
    file.write(_as_bytes(array))


def write_array_at(number: int, array: NDArray[Any], offset: int) -> None:
    """Write ``array`` from byte ``offset`` of the file with this descriptor on."""
    left = _as_bytes(array)
    while left.nbytes:
        n_written = os.pwrite(number, left, offset)
        left, offset = left[n_written:], offset + n_written


def _as_bytes(array: NDArray[Any]) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data
