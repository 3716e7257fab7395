"""Publishing a store to a bucket, which has no rename.

The store is written to a scratch folder and uploaded, its root metadata last: what
lacks ``zarr.json`` at its top does not open, so that nobody reads half of one.
``.tigon-upload`` marks a prefix from the first object to the last; where an upload
was cut off, the next one to the same place finds the mark, writes everything again
and removes what does not belong. A prefix without mark or store is not ours, and
is left alone. Two uploads to one place at a time are not kept apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tigon.storage.errors import InputError, OutputExistsError
from tigon.storage.objects import open_objects
from tigon.storage.ordered import ordered
from tigon.storage.progress import Progress, silent
from tigon.storage.scratch import Scratch, writing_scratch

if TYPE_CHECKING:
    from obstore.store import ObjectStore

ROOT = "zarr.json"
MARK = ".tigon-upload"
_UPLOADS = 4
"""Objects at once; each is sent in parts side by side."""


@contextmanager
def uploaded(
    url: str,
    *,
    overwrite: bool = False,
    scratch: Path | None = None,
    progress: Progress = silent,
) -> Iterator[Path]:
    """Write a store to a scratch folder and upload it at the end.

    Parameters
    ----------
    url
        Where to, as ``s3://bucket/atlas.zarr``; ``tigon.storage.objects`` says which
        environment variables hold credentials.
    overwrite
        Replace a store that is there. It no longer opens while the new one is uploaded.
    scratch
        Folder for the store until it is uploaded; None for the system's temporary one.
    progress
        Called after every object, with their number.

    Yields
    ------
    Path
        Where to create the store.

    Raises
    ------
    OutputExistsError
        There is a store and ``overwrite`` is False.
    InputError
        There is something else, or the bucket cannot be reached or written to.
    NoSpaceError
        The disk of ``scratch`` is full.
    """
    with _told(url):
        bucket = open_objects(url)
        _check(bucket, url, overwrite=overwrite)
    folder = Scratch(scratch)
    try:
        with writing_scratch(folder, f"for {url} until it is uploaded"):
            aside = folder.folder / "store"
            yield aside
        with _told(url):
            _check(bucket, url, overwrite=overwrite)
            _upload(bucket, aside, progress)
    finally:
        folder.close()


def _check(bucket: ObjectStore, url: str, *, overwrite: bool) -> None:
    there = _names(bucket)
    if not there or MARK in there:
        return
    if ROOT not in there:
        raise InputError(
            f"{url} holds {len(there):,} objects and is no Zarr store ({there[0]} is among "
            "them): what Tigon did not write is not replaced; choose another name"
        )
    if not overwrite:
        raise OutputExistsError(f"{url} exists: choose another name, or give --overwrite")


def _upload(bucket: ObjectStore, folder: Path, progress: Progress) -> None:
    names = sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()
    )
    bucket.put(MARK, b"an upload has begun, and has not ended")
    if ROOT in _names(bucket):
        bucket.delete(ROOT)

    def send(name: str) -> None:
        bucket.put(name, folder / name)

    others = [name for name in names if name != ROOT]
    with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="tigon-upload") as pool:
        for done, _ in enumerate(ordered(pool, send, others, 2 * _UPLOADS), 1):
            progress("uploading objects", done, len(names))
    left = set(_names(bucket)) - {*names, MARK}
    if left:
        bucket.delete(sorted(left))
    send(ROOT)
    bucket.delete(MARK)
    progress("uploading objects", len(names), len(names))


def _names(bucket: ObjectStore) -> list[str]:
    return sorted(entry["path"] for batch in bucket.list() for entry in batch)


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Say which bucket failed, and why, in a line."""
    from obstore.exceptions import BaseError

    try:
        yield
    except BaseError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{url} cannot be written ({reason}): check its name, the network and the "
            "credentials in the environment, and run again"
        ) from error
