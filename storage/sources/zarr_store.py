"""AnnData in Zarr, version 2 or 3, on disk or behind a URL.

Zarr reads the tables and what describes the store. The sparse matrix is read by the
plans of ``tigon.storage.reading``, which need far fewer requests, where its arrays are
of a kind known there.
"""

from __future__ import annotations

import logging
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from tigon.storage.encoding import quiet_codecs
from tigon.storage.errors import InputError
from tigon.storage.reading.client import explain
from tigon.storage.reading.local import LocalObjects
from tigon.storage.reading.policy import RequestPolicy
from tigon.storage.reading.remote import RemoteObjects
from tigon.storage.reading.store import ChunkStore, open_array
from tigon.storage.sources.anndata_layout import Layout, open_layout
from tigon.storage.sources.matrices.matrix import Array
from tigon.storage.sources.source import Choice, Source
from tigon.storage.sources.tigon_atlas import is_tigon_atlas, open_tigon_atlas

if TYPE_CHECKING:
    import zarr

POLICY = RequestPolicy()
"""Limits of requests to the hosts of URLs."""


def open_zarr(target: str | Path, name: str, choice: Choice) -> Source:
    """Open a folder or URL; its matrix is read when asked for.

    Raises
    ------
    InputError
        There is no AnnData in Zarr, or a server does not give ranges of files.
    """
    objects = _objects(target)
    try:
        root = _open_group(target, objects)
        # Closing Zarr's store would end nothing: the client is this process's own.
        chunks = ChunkStore(objects)
    except BaseException:
        objects.close()
        raise
    try:
        return _open_source(root, chunks, name, choice)
    except BaseException:
        chunks.close()
        raise


def _open_source(root: zarr.Group, chunks: ChunkStore, name: str, choice: Choice) -> Source:
    layout = Layout(
        root=root,
        where=chunks.objects.where,
        name=name,
        lock=nullcontext(),  # Zarr is safe to use from several threads
        close=chunks.close,
        open_array=_Opener(chunks),
    )
    if choice.layer is None and not choice.raw and is_tigon_atlas(layout):
        return open_tigon_atlas(layout)
    return open_layout(layout, choice)


def _objects(target: str | Path) -> LocalObjects | RemoteObjects:
    if isinstance(target, Path):
        return LocalObjects(target, str(target))
    if target.startswith("file://"):
        return LocalObjects(Path(url2pathname(urlsplit(target).path)), target)
    return RemoteObjects(target, POLICY)


@quiet_codecs()  # consolidated metadata name all of them
def _open_group(target: str | Path, objects: LocalObjects | RemoteObjects) -> zarr.Group:
    import zarr
    from obstore.exceptions import BaseError
    from zarr.storage import ObjectStore

    try:
        if isinstance(objects, LocalObjects):
            return zarr.open_group(str(objects.folder), mode="r")
        group = zarr.open_group(ObjectStore(objects.client, read_only=True), mode="r")
        objects.check_ranges("zarr.json")
    except InputError:
        raise
    except BaseError as error:  # nobody answers, or not with a store
        raise explain(error, str(target), "the store") from error
    except Exception as error:  # of Zarr or the file system
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if isinstance(error, zarr.errors.GroupNotFoundError):  # tells of its own objects
            reason = "no group is there"
        raise InputError(
            f"{target} cannot be opened as Zarr ({reason}): check that it is a whole AnnData "
            "store, with zarr.json or .zgroup at its top"
        ) from error
    return group


class _Opener:
    """Opens arrays for reading by plans, and says once which are left to Zarr."""

    def __init__(self, chunks: ChunkStore) -> None:
        self._chunks = chunks
        self._has_told = False

    def __call__(self, array: Any) -> Array:
        opened = open_array(self._chunks, array)
        if opened is not None:
            return opened
        if not self._has_told:
            self._has_told = True
            logging.getLogger("tigon").info(
                "%s was written by another program and is read slowly; `tigon ingest` makes an "
                "atlas of it that is read faster",
                self._chunks.objects.where,
            )
        left_to_zarr: Array = array
        return left_to_zarr
