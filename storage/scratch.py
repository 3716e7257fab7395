"""A folder for intermediate files, removed when its owner is closed.

What a killed process left is removed by the next process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tigon.storage.errors import NoSpaceError
from tigon.storage.publish import process_is_alive
from tigon.storage.space import free_bytes, is_out_of_space, tell_mib

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


def _clear_leftovers(parent: Path) -> None:
    for folder in parent.glob(f"{_PREFIX}*-*"):
        pid = folder.name.removeprefix(_PREFIX).split("-")[0]
        if pid.isdigit() and not process_is_alive(int(pid)):
            shutil.rmtree(folder, ignore_errors=True)
