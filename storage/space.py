"""Room on a disk: what is left of it, and whether a write failed for want of it."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from tigon.storage.errors import TigonError

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
