"""A folder for intermediate files, removed when its owner is closed.

What a killed process left is removed by the next process.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tigon.storage.publish import NoSpaceError, process_is_alive

_PREFIX = "tigon-scratch-"


class Scratch:
    """A temporary folder under ``parent``, or under the system's own folder for these.

    Parameters
    ----------
    parent
        Where to make it; None for the system's temporary folder.
    """

    def __init__(self, parent: Path | None) -> None:
        parent = parent or Path(tempfile.gettempdir())
        parent.mkdir(parents=True, exist_ok=True)
        _clear_leftovers(parent)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
        self._finalizer = weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def close(self) -> None:
        """Remove the folder and what is in it."""
        self._finalizer()


@contextmanager
def writing_scratch(scratch: Scratch, where: str, needed_bytes: int) -> Iterator[None]:
    """Remove the folder when the block fails; say so plainly when the disk is full."""
    try:
        yield
    except OSError as error:
        left = shutil.disk_usage(scratch.folder.parent).free
        scratch.close()
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NoSpaceError(
            f"no space left in {scratch.folder.parent} to turn {where} into rows: it needs about "
            f"{needed_bytes / 2**20:,.0f} MiB and {left / 2**20:,.0f} MiB are left; make room "
            "there, or use another disk (--out, or scratch in Python, says which)"
        ) from error
    except BaseException:
        scratch.close()
        raise


def _clear_leftovers(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not process_is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
