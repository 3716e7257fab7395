"""Room on a disk and in memory: what is left, and what a limit is."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path
from typing import Any

from tigon.storage.errors import InputError, TigonError

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_out_of_space(error: OSError) -> bool:
    """Whether a write failed because the disk, a quota or the limit of a file is reached."""
    if isinstance(error, TigonError):
        return False  # told already
    # HDF5 reports a full disk in words only.
    return error.errno in _NUMBERS or "No space left" in str(error)


def free_bytes(folder: Path) -> int:
    """Bytes left on the disk of ``folder``."""
    return shutil.disk_usage(folder).free


def tell_mib(n_bytes: int) -> str:
    """A size as text, in MiB."""
    return f"{n_bytes / 2**20:,.0f} MiB"


def check_limit(memory_limit: Any) -> None:
    """Refuse a memory limit that is no number of bytes; None is none.

    Raises
    ------
    InputError
        It is text, or below 1.
    """
    if isinstance(memory_limit, str):
        raise InputError(
            f"memory_limit={memory_limit!r}: here it is a number of bytes; 2 << 30 is 2 GiB"
        )
    if memory_limit is not None and memory_limit < 1:
        raise InputError(f"memory_limit={memory_limit}: it is at least 1; leave it out for none")
