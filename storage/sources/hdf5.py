"""Opening HDF5 files, and saying plainly why one does not open."""

from __future__ import annotations

from pathlib import Path

import h5py

from tigon.storage.errors import InputError

# Room for a row of tall chunks of a dense matrix, so that each is decoded once.
_CHUNK_CACHE_BYTES = 16 << 20


def open_hdf5(path: Path) -> h5py.File:
    """Open ``path`` for reading.

    Raises
    ------
    InputError
        It is not an HDF5 file, or is cut short.
    """
    if not h5py.is_hdf5(path):
        raise InputError(
            f"{path} is not an HDF5 file, whatever its name says ({_beginning(path)}): "
            "check that it was copied or downloaded whole"
        )
    try:
        return h5py.File(path, "r", rdcc_nbytes=_CHUNK_CACHE_BYTES)
    except OSError as error:
        reason = "cut short" if "truncated" in str(error) else "damaged"
        raise InputError(
            f"{path} cannot be opened, it is {reason} ({str(error).splitlines()[0]}): "
            "copy or download it again"
        ) from error


def _beginning(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(16)
    return f"it begins with {start!r}" if start else "it is empty"
