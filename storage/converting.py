"""From one profile to another: an atlas is written anew, and what lies beside it kept."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tigon.storage import layout
from tigon.storage.atlas import Atlas
from tigon.storage.digest import noted_digest
from tigon.storage.ingest import write_atlas
from tigon.storage.objects import is_bucket, open_objects
from tigon.storage.opening import open_atlas
from tigon.storage.progress import Progress, silent

if TYPE_CHECKING:
    import zarr

_WRITTEN_ANEW = ("X", "obs", "var", f"uns/{layout.UNS}")
_METADATA = "zarr.json"


def convert_atlas(
    source: str | Path,
    out: str | Path,
    *,
    profile: str,
    overwrite: bool = False,
    progress: Progress = silent,
    **options: Any,
) -> Atlas:
    """Write an atlas in another profile, and open it.

    Parameters
    ----------
    source
        Path or URL of an atlas, or of an AnnData file that is not Tigon's: then its
        counts and tables are ingested, and nothing else of it is kept.
    out
        Where to, as for :func:`tigon.storage.ingest.write_atlas`.
    profile
        "local" or "network".
    overwrite, progress, **options
        As for :func:`tigon.storage.ingest.write_atlas`.

    Returns
    -------
    Atlas
        The new store, opened.

    Raises
    ------
    InputError
        ``source`` cannot be read, or its counts are not those whose digest was noted.
    OutputExistsError, NoSpaceError, MemoryLimitError
        As for :func:`tigon.storage.ingest.write_atlas`.

    Notes
    -----
    One pass over the counts, memory as for writing an atlas. ``obsm``, ``layers``,
    ``uns`` and the like are copied object by object, as they are stored.
    """
    source = _place(str(source))
    with open_atlas(source, allow_non_integer=True) as atlas:
        own = atlas.n_nonzeros is not None
        return write_atlas(
            atlas,
            out,
            profile=profile,
            overwrite=overwrite,
            progress=progress,
            beside=(lambda root: copy_beside(source, root)) if own else None,
            expected_digest=noted_digest(source) if own else None,
            **options,
        )


def _place(source: str) -> str:
    """The path of a folder, however it is named; other places as they are."""
    if source.startswith("file://"):
        return url2pathname(urlsplit(source).path)
    return source if "://" in source else str(Path(source).expanduser())


def copy_beside(source: str, root: zarr.Group) -> None:
    """Copy into ``root`` all that an atlas holds beside its counts and tables.

    Notes
    -----
    Holds one object at a time. A plain web server does not list what it has: what
    is beside the counts is then left out, and named in a warning.
    """
    target = Path(cast("Any", root.store).root)
    if "://" not in source:
        folder = Path(source)
        names = (
            path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
        )
        for name in _beside(names):
            _write(target / name, (folder / name).read_bytes())
    elif is_bucket(source):
        bucket = open_objects(source)
        for name in _beside(entry["path"] for batch in bucket.list() for entry in batch):
            _write(target / name, bytes(bucket.get(name).bytes()))
    else:
        logging.getLogger("tigon").warning(
            "%s does not list its files: only counts and tables are converted; copy the "
            "atlas to a disk first to keep obsm, layers and uns",
            source,
        )


def _beside(names: Iterable[str]) -> list[str]:
    """Objects that are neither written anew nor metadata of a group that is."""
    anew = tuple(f"{name}/" for name in _WRITTEN_ANEW)
    return sorted(
        name
        for name in names
        if not name.startswith(anew) and name not in (_METADATA, f"uns/{_METADATA}")
    )


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
