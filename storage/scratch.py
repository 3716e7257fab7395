"""A folder for intermediate files, removed when its owner is closed.

What a killed process left is removed by the next process: a folder whose lock
can be taken has no owner.
"""

from __future__ import annotations

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tigon.storage.errors import NoSpaceError
from tigon.storage.lock import FileLock
from tigon.storage.space import free_bytes, is_out_of_space, tell_mib

_PREFIX = "tigon-scratch-"
_LOCK = "tigon-lock"


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
        self.folder, lock = _make_locked(parent)
        self._finalizer = weakref.finalize(self, _remove, self.folder, lock)

    def close(self) -> None:
        """Remove the folder and what is in it."""
        self._finalizer()


@contextmanager
def writing_scratch(
    scratch: Scratch, purpose: str, needed_bytes: int | None = None
) -> Iterator[None]:
    """Remove the folder when the block fails; say so plainly when the disk is full.

    Parameters
    ----------
    scratch
        Where the block writes.
    purpose
        What for, as "to turn a.h5ad into rows".
    needed_bytes
        About how much it needs, where that is known.

    Raises
    ------
    NoSpaceError
        The disk is full.
    """
    try:
        yield
    except OSError as error:
        parent = scratch.folder.parent
        left = tell_mib(free_bytes(parent))
        scratch.close()
        if not is_out_of_space(error):
            raise
        need = "" if needed_bytes is None else f"it needs about {tell_mib(needed_bytes)} and "
        raise NoSpaceError(
            f"no space left in {parent} {purpose}: {need}{left} are left; make room there, or use "
            "another disk (--out, or scratch in Python, says which)"
        ) from error
    except BaseException:
        scratch.close()
        raise


def _make_locked(parent: Path) -> tuple[Path, FileLock]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        # Before it is locked, another process may take it for a leftover and remove it.
        with suppress(FileNotFoundError):
            lock = FileLock.take(folder / _LOCK)
            if lock is not None:
                return folder, lock


def _remove(folder: Path, lock: FileLock) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.release()
    # NFS keeps an open file, and so the folder, until it is closed.
    with suppress(OSError):
        folder.rmdir()


def _clear_leftovers(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # removed by another meanwhile, or another user's
            lock = FileLock.take(folder / _LOCK)
            if lock is not None:
                _remove(folder, lock)
