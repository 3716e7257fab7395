"""AnnData in Zarr, version 2 or 3, on disk or behind a URL."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.storage.errors import InputError
from tigon.storage.sources.anndata_layout import Layout, open_layout
from tigon.storage.sources.source import Choice, Source
from tigon.storage.sources.tigon_atlas import is_tigon_atlas, open_tigon_atlas

if TYPE_CHECKING:
    import zarr

_SCHEMES = ("http://", "https://", "s3://", "s3a://", "gs://", "az://", "abfs://", "file://")


def open_zarr(target: str | Path, name: str, choice: Choice) -> Source:
    """Open a folder or URL; its matrix is read when asked for.

    Raises
    ------
    InputError
        There is no AnnData in Zarr.
    """
    root = _open_group(target)
    # Zarr is safe to use from several threads.
    layout = Layout(
        root=root, where=str(target), name=name, lock=nullcontext(), close=root.store.close
    )
    if choice.layer is None and not choice.raw and is_tigon_atlas(layout):
        return open_tigon_atlas(layout)
    return open_layout(layout, choice)


def _open_group(target: str | Path) -> zarr.Group:
    import zarr

    try:
        return zarr.open_group(_store(target), mode="r")
    except Exception as error:  # of Zarr, the file system, or a server
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"{target} cannot be opened as Zarr ({reason}): check that it is a whole AnnData "
            "store, with zarr.json or .zgroup at its top"
        ) from error


def _store(target: str | Path) -> Any:
    """A local path as it is; a URL as an object store."""
    if isinstance(target, Path):
        return str(target)
    from obstore.store import from_url
    from zarr.storage import ObjectStore

    if not target.startswith(_SCHEMES):
        raise InputError(f"{target}: URLs begin with {', '.join(_SCHEMES)}")
    options: Any = {"allow_http": True} if target.startswith("http://") else {}
    return ObjectStore(from_url(target, client_options=options), read_only=True)
