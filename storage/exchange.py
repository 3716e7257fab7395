"""Two names exchanged in one step, so that at no moment either is without what it names."""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_NOT_HERE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
"""The kernel or the file system (NFS is one) does not exchange names."""


def exchange(one: Path, other: Path) -> bool:
    """Let two names of one file system change places; False where that cannot be done.

    Parameters
    ----------
    one, other
        Files or folders that are there.

    Raises
    ------
    OSError
        One of them is not there, or the folder cannot be written.

    Notes
    -----
    ``renameat2`` of Linux; elsewhere always False.
    """
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if renameat2 is None:
        return False
    names = (_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other))
    if renameat2(*names, _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NOT_HERE:
        return False
    raise OSError(number, os.strerror(number), str(one), None, str(other))
