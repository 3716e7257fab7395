"""Atlases that tasks open for themselves, wherever they run.

A task carries the place of an atlas and the digest of its content, never the
atlas: each process opens it once, when its first task needs it.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

from tigon.storage.errors import InputError
from tigon.storage.opening import open_atlas

if TYPE_CHECKING:
    from tigon.storage.atlas import Atlas

_KEPT = 4
_lock = threading.Lock()


class AtlasReference(Protocol):
    """What gives an atlas in the process that asks."""

    def get(self) -> Atlas:
        """The atlas, open."""
        ...


@dataclass(frozen=True, slots=True)
class Place:
    """An atlas of Tigon's, by its place; pickles to a few hundred bytes.

    Attributes
    ----------
    path
        Absolute path or URL.
    digest
        Name of its content; None where that is not known.
    shape
        Cells and genes.
    """

    path: str
    digest: str | None
    shape: tuple[int, int]

    def get(self) -> Atlas:
        """The atlas, opened once in a process.

        Raises
        ------
        InputError
            It is not there, or no longer what it was.
        """
        with _lock:
            # By process: what is inherited by a fork must not be used.
            return _opened(self, os.getpid(), _version(self.path))


@dataclass(frozen=True, slots=True, eq=False)
class Held:
    """An atlas that only the process that opened it can read."""

    atlas: Atlas

    def get(self) -> Atlas:
        """The atlas itself; it must still be open."""
        return self.atlas

    def __reduce__(self) -> NoReturn:
        where = self.atlas.path or "an atlas of several sources, or one in memory,"
        raise InputError(
            f"{where} cannot be sent to another process: only an atlas that Tigon wrote "
            "can be opened there again; make one with `tigon ingest`, or use threads"
        )


def reference(atlas: Atlas) -> AtlasReference:
    """How tasks get at an atlas."""
    path = atlas.path
    # The type of entries of other files depends on how they were opened; of Tigon's
    # own, the place says all.
    if path is None or atlas.n_nonzeros is None:
        return Held(atlas)
    where = path if "://" in path else str(Path(path).expanduser().absolute())
    return Place(where, atlas.digest, atlas.shape)


def _version(path: str) -> tuple[int, int] | None:
    """What tells a store on a disk from the one of the same content that it replaced."""
    if "://" in path:
        return None
    with suppress(OSError):
        found = Path(path, "X/zarr.json").stat()
        return found.st_mtime_ns, found.st_ino
    return None


@lru_cache(maxsize=_KEPT)
def _opened(place: Place, process: int, version: tuple[int, int] | None) -> Atlas:
    atlas = open_atlas(place.path)
    found: Any = (atlas.digest, atlas.shape)
    if found != (place.digest, place.shape):
        atlas.close()
        raise InputError(
            f"{place.path} is another atlas than when the work was planned "
            f"({atlas.n_cells:,} x {atlas.n_genes:,}, digest {found[0]}): plan it again"
        )
    return atlas
