"""Locks that end with their owner, so that what the dead left can be told from live work.

The operating system frees a lock (``flock``) when its process ends, on any host or in any
container that shares the file system; process numbers mean something on one host only.
Where a file system has no locks, the file names its owner, who is taken for alive unless
this host knows better.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress
from pathlib import Path
from typing import Self

_TAKEN = (errno.EAGAIN, errno.EACCES)
_FLAGS = os.O_RDWR | os.O_CLOEXEC


class FileLock:
    """A lock held from :meth:`take` to :meth:`release`, or to the end of the process.

    Parameters
    ----------
    path
        The file that is locked.
    number
        Its open descriptor.
    """

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        self._number = number

    @classmethod
    def take(cls, path: Path) -> Self | None:
        """Take the lock without waiting; None where another process or thread holds it.

        Raises
        ------
        OSError
            The file cannot be made, or its folder is gone.
        """
        while True:
            number, is_new = _open(path)
            try:
                taken = _lock(number, is_new=is_new)
            except BaseException:
                os.close(number)
                raise
            if taken and _is_at(number, path):
                return cls(path, number)
            os.close(number)
            if not taken:
                return None
            # Its last owner removed the file after it was opened here: once more.

    def release(self) -> None:
        """Remove the file and give the lock back."""
        # Removed while locked, and only if it is still the same file: see `take`.
        if _is_at(self._number, self._path):
            with suppress(OSError):
                self._path.unlink()
        os.close(self._number)


def host_name() -> str:
    """Name of this machine or container."""
    return os.uname().nodename


def _open(path: Path) -> tuple[int, bool]:
    """The descriptor, and whether the file is new."""
    while True:
        with suppress(FileExistsError):
            return os.open(path, _FLAGS | os.O_CREAT | os.O_EXCL, 0o666), True
        with suppress(FileNotFoundError):
            return os.open(path, _FLAGS), False


def _lock(number: int, *, is_new: bool) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in _TAKEN and _claim(number, is_new=is_new)
    return True


def _claim(number: int, *, is_new: bool) -> bool:
    """Write into the file whose it is, unless it belongs to one who may be alive."""
    if not is_new and not _is_of_the_dead(os.pread(number, 1024, 0).decode(errors="replace")):
        return False
    os.ftruncate(number, 0)
    os.pwrite(number, f"{host_name()} {os.getpid()}".encode(), 0)
    return True


def _is_of_the_dead(owner: str) -> bool:
    host, _, pid = owner.rpartition(" ")
    return host == host_name() and pid.isdigit() and not _process_is_alive(int(pid))


def _process_is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_at(number: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(number), path.stat())
    except OSError:
        return False
