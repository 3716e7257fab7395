"""Checksums of files by stretch, so that damage is found, and where it is.

CRC-32 of every 8 MiB: the cut is fixed, so the sums depend on the bytes alone and not on
how they were written, and stretches can be checked on several threads.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from tigon.storage.packs.joining import joined_sum
from tigon.storage.raw import read_at

STRETCH_BYTES = 8 * 2**20


class Piece(NamedTuple):
    """CRC-32 of some bytes of one stretch, and how many they are."""

    crc32: int
    n_bytes: int


class SummedFile:
    """A file that is written from some byte on, front to back, and summed meanwhile.

    Parameters
    ----------
    file
        Open for writing.
    start
        Where to begin.
    """

    def __init__(self, file: BinaryIO, start: int = 0) -> None:
        file.seek(start)
        self._file = file
        self._done: list[Piece] = []
        self._sum = self._n_summed = 0
        self._n_left = STRETCH_BYTES - start % STRETCH_BYTES

    def writelines(self, pieces: Iterable[bytes | memoryview]) -> None:
        """Append several pieces."""
        for piece in pieces:
            self.write(piece)

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        left = memoryview(data)
        self._file.write(left)
        while left:
            part = left[: self._n_left - self._n_summed]
            self._sum = zlib.crc32(part, self._sum)
            self._n_summed += len(part)
            left = left[len(part) :]
            if self._n_summed == self._n_left:
                self._end_stretch()

    def finish(self) -> list[Piece]:
        """Sums of what was written, cut where stretches end."""
        if self._n_summed:
            self._end_stretch()
        return self._done

    def _end_stretch(self) -> None:
        self._done.append(Piece(self._sum, self._n_summed))
        self._sum = self._n_summed = 0
        self._n_left = STRETCH_BYTES


def sums_of_stretches(pieces: Iterable[Piece]) -> list[int]:
    """CRC-32 of every stretch of a file, the last of which may be shorter.

    Parameters
    ----------
    pieces
        Of all of the file, in order, none reaching from one stretch into the next.
    """
    sums: list[int] = []
    end = 0
    for crc32, n_bytes in pieces:
        if end % STRETCH_BYTES:
            sums[-1] = joined_sum(sums[-1], crc32, n_bytes)
        else:
            sums.append(crc32)
        end += n_bytes
    return sums


def sum_of_stretch(number: int, stretch: int) -> int:
    """CRC-32 of one stretch of an open file."""
    buffer = np.empty(STRETCH_BYTES, np.uint8)
    n_read = read_at(number, buffer, stretch * STRETCH_BYTES)
    return zlib.crc32(buffer[:n_read].data)


def open_to_read(path: Path) -> int:
    """A descriptor: what it names stays readable when the file is removed or renamed."""
    return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
