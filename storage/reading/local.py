"""Objects that are files of a folder."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.reading.objects import Body, Coalescing, Identity, changed

# Requests that keep to the caches of a core; small gaps cost less to read than to skip.
_COALESCING = Coalescing(gap_bytes=16 << 10, request_bytes=1 << 20)


@dataclass(frozen=True)
class LocalObjects:
    """Files under a folder, opened for each read.

    Attributes
    ----------
    folder
        Where they lie.
    where
        The folder as the user named it.
    """

    folder: Path
    where: str

    fetchers = None
    coalescing = _COALESCING

    def read(self, key: str, start: int, stop: int | None, known: Identity | None) -> Body:
        # Descriptors, as a file object costs as much as the reading of a chunk.
        file = os.open(f"{self.folder}/{key}", os.O_RDONLY)
        try:
            identity = _identity(os.fstat(file))
            if known is not None and identity != known:
                raise changed(self.where, key)
            data = np.empty((identity.size if stop is None else stop) - start, np.uint8)
            _announce(file, start, len(data))
            self._fill(file, start, data, key)
        finally:
            os.close(file)
        return Body(data, identity)

    def read_end(self, key: str, n_bytes: int) -> Body:
        size = (self.folder / key).stat().st_size
        if size < n_bytes:
            raise _short(self.where, key)
        return self.read(key, size - n_bytes, size, None)

    def close(self) -> None:
        """Nothing is held open."""

    def _fill(self, file: int, start: int, data: NDArray[np.uint8], key: str) -> None:
        left = data.data
        while left.nbytes:
            n_read = os.preadv(file, [left], start)
            if not n_read:
                raise _short(self.where, key)
            start, left = start + n_read, left[n_read:]


def _announce(file: int, start: int, n_bytes: int) -> None:
    """Have the disk asked for a whole range at once, not for one stretch after another."""
    if hasattr(os, "posix_fadvise"):  # not on every system
        os.posix_fadvise(file, start, n_bytes, os.POSIX_FADV_WILLNEED)


def _identity(status: os.stat_result) -> Identity:
    return Identity(f"{status.st_mtime_ns}-{status.st_ino}", status.st_size)


def _short(where: str, key: str) -> InputError:
    return InputError(
        f"{where}: the file {key} is cut short: the atlas is damaged; copy it again or ingest it "
        "again"
    )
