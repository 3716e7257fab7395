"""From what a user names to a source."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from tigon.storage.errors import InputError
from tigon.storage.sources.source import Choice, Source

if TYPE_CHECKING:
    from anndata import AnnData

SUPPORTED = (
    "AnnData .h5ad or .zarr, 10x .h5, a 10x directory with matrix.mtx, the URL of a .zarr, "
    "or an AnnData in memory"
)
_ZARR_MARKS = ("zarr.json", ".zgroup", ".zattrs", ".zmetadata")


def is_anndata(target: object) -> TypeGuard[AnnData]:
    """Whether ``target`` is an AnnData, without importing anndata for others."""
    anndata = sys.modules.get("anndata")
    return anndata is not None and isinstance(target, anndata.AnnData)


def open_source(target: Any, name: str, choice: Choice) -> Source:
    """Open a path, URL or AnnData as the dataset ``name``.

    Raises
    ------
    InputError
        There is nothing at ``target``, or nothing of a kind that Tigon reads.
    """
    if is_anndata(target):
        from tigon.storage.sources.memory import open_memory

        return open_memory(target, name, choice)
    if not isinstance(target, str | Path):
        raise InputError(f"cannot read a {type(target).__name__}: Tigon reads {SUPPORTED}")
    return replace(_open_stored(target, name, choice), selection=_tell_choice(choice))


def _tell_choice(choice: Choice) -> str:
    return "raw" if choice.raw else "X" if choice.layer is None else f"layers/{choice.layer}"


def _open_stored(target: str | Path, name: str, choice: Choice) -> Source:
    """Open a path or URL."""
    if is_url(target):
        from tigon.storage.sources.zarr_store import open_zarr

        return open_zarr(str(target), name, choice)
    path = Path(target).expanduser()
    if not path.exists():
        raise InputError(f"there is no file {path}: check the name and the folder")
    return _open_folder(path, name, choice) if path.is_dir() else _open_file(path, name, choice)


def is_url(target: str | Path) -> bool:
    """Whether ``target`` names a store behind a URL."""
    return isinstance(target, str) and "://" in target


def source_name(target: Any, number: int) -> str:
    """The name of a source: its file's without the ending, or adata0, adata1, ..."""
    if not isinstance(target, str | Path):
        return f"adata{number}"
    name = str(target).rstrip("/").split("/")[-1]
    if name in ("", ".", ".."):
        name = Path(target).resolve().name
    if name in ("matrix.mtx", "matrix.mtx.gz"):
        name = Path(target).resolve().parent.name
    for ending in (".gz", ".mtx", ".h5ad", ".hdf5", ".h5", ".zarr"):
        name = name.removesuffix(ending)
    return name or f"source{number}"


def _open_folder(folder: Path, name: str, choice: Choice) -> Source:
    from tigon.storage.sources.tenx_mtx import find_matrix, open_tenx_mtx
    from tigon.storage.sources.zarr_store import open_zarr

    if any((folder / mark).exists() for mark in _ZARR_MARKS):
        return open_zarr(folder, name, choice)
    matrix = find_matrix(folder)
    if matrix is not None:
        return open_tenx_mtx(matrix, name, choice)
    if folder.suffix == ".zarr":
        raise InputError(
            f"{folder} is not a Zarr store, whatever its name says (no zarr.json or .zgroup at its "
            "top): check that it was copied whole"
        )
    raise InputError(
        f"{folder} is a folder without a Zarr store or a 10x matrix.mtx: Tigon reads {SUPPORTED}"
    )


def _open_file(path: Path, name: str, choice: Choice) -> Source:
    if path.suffix in (".h5ad", ".h5", ".hdf5"):
        return _open_hdf5(path, name, choice)
    if path.name.endswith(("matrix.mtx", "matrix.mtx.gz")):
        from tigon.storage.sources.tenx_mtx import open_tenx_mtx

        return open_tenx_mtx(path, name, choice)
    raise InputError(f"{path} is a file of a kind that Tigon does not read: it reads {SUPPORTED}")


def _open_hdf5(path: Path, name: str, choice: Choice) -> Source:
    """AnnData or 10x, by what is in the file rather than by its name."""
    from tigon.storage.sources.h5ad import open_h5ad
    from tigon.storage.sources.hdf5 import open_hdf5
    from tigon.storage.sources.tenx_h5 import is_tenx_h5, open_tenx_h5

    with open_hdf5(path) as file:
        tenx = is_tenx_h5(file)
        anndata = "obs" in file and "var" in file
    if tenx and not anndata:
        return open_tenx_h5(path, name, choice)
    if not anndata and path.suffix != ".h5ad":
        raise InputError(
            f"{path} is an HDF5 file without a 10x matrix or an AnnData: Tigon reads {SUPPORTED}"
        )
    return open_h5ad(path, name, choice)
