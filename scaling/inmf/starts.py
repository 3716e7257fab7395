"""Where the solutions of an epoch start: what cells loaded an epoch before, on disk.

One file is read and another written, so that a task may be solved twice, by two workers
or after an interruption, and find and leave the same bytes. Loadings are kept times the
sizes of the factors, which change until the cells come again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tigon.storage.rows import RowFile


@dataclass(frozen=True, slots=True)
class Starts:
    """Loadings by place in the pack.

    Attributes
    ----------
    before, now
        Files of the epoch before and of this one; no file before the first.
    """

    before: RowFile | None
    now: RowFile

    @classmethod
    def of(cls, folder: Path, epoch: int, shape: tuple[int, int]) -> Starts:
        """Files of an epoch in an existing folder; those that are there already are kept."""
        before = None if epoch == 0 else RowFile(_path(folder, epoch - 1), shape, keep=True)
        return cls(before, RowFile(_path(folder, epoch), shape, keep=True))

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Loadings of the epoch before, zeros in the first."""
        if self.before is None:
            return np.zeros((stop - start, self.now.shape[1]), np.float32)
        return self.before.read(start, stop)

    def end(self, *, finished: bool) -> None:
        """Remove what is not needed after this epoch: everything after the last one."""
        for file in (self.before, self.now if finished else None):
            if file is not None:
                file.path.unlink(missing_ok=True)


def _path(folder: Path, epoch: int) -> Path:
    return folder / f"starts.{epoch}"
