"""A folder in which packs are kept, to be used again.

Several processes, on several machines, may share it. A pack is written aside by the holder
of its lock and takes its name when it is whole, so whoever finds a name finds a finished
pack; what killed processes left is removed by the next one that writes here. Packs are
removed only when someone asks for it: a reader goes on with the files it has open.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tigon.storage.errors import InputError, NoSpaceError
from tigon.storage.lock import FileLock
from tigon.storage.packs.naming import PREFIX
from tigon.storage.packs.pack import Pack
from tigon.storage.publish import place_aside, remove
from tigon.storage.space import free_bytes, is_out_of_space, tell_mib

log = logging.getLogger("tigon")

_NAME = re.compile(rf"{PREFIX}[0-9a-f]{{32}}")
_ASIDE = re.compile(rf"\.({_NAME.pattern})\.tigon-")


@dataclass(frozen=True, slots=True)
class CachedPack:
    """A pack that is kept.

    Attributes
    ----------
    name
        Digest of all that it is made of.
    atlas
        What its cells are of, as it was written; "" for one that cannot be read.
    n_cells, n_genes, n_bytes
        Sizes; 0 cells and genes for one that cannot be read.
    last_used
        When a job last wrote or read it, in seconds since 1970.
    """

    name: str
    atlas: str
    n_cells: int
    n_genes: int
    n_bytes: int
    last_used: float


class PackCache:
    """Packs in a folder, by name.

    Parameters
    ----------
    folder
        Made if it is not there.

    Raises
    ------
    InputError
        It cannot be made, or is no folder.
    """

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"packs cannot be kept in {folder} ({error.strerror}): a folder is needed; "
                "choose another with --cache"
            ) from error
        self.folder = folder

    @property
    def is_writable(self) -> bool:
        """Whether packs can be added: others' may be used from a folder that is read-only."""
        return os.access(self.folder, os.W_OK | os.X_OK)

    def find(self, name: str) -> Pack | None:
        """The pack of that name, opened; None where there is none.

        Raises
        ------
        InputError
            It is damaged, as far as lengths tell; :meth:`Pack.check` reads it through.
        """
        folder = self.folder / name
        if not folder.is_dir():
            return None
        try:
            pack = Pack(folder)
        except InputError:
            if folder.is_dir():
                raise
            return None  # cleared meanwhile
        with suppress(OSError):  # read-only, or removed meanwhile
            os.utime(folder / "pack.json")
        return pack

    @contextmanager
    def sole_writer(self, name: str) -> Iterator[bool]:
        """Hold the lock of a name; yields False, at once, where another has it."""
        lock = FileLock.take(self._lock(name))
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Where to write a pack, which takes its name when the block ends.

        To be entered by the :meth:`sole_writer`; what is there under the name is replaced.

        Raises
        ------
        NoSpaceError
            The disk is full. Nothing is left behind.
        """
        self._clear_leftovers(name)
        place = self.folder / name
        aside = place_aside(place)
        try:
            yield aside
            self._discard(place)
            aside.rename(place)
        except OSError as error:
            if not is_out_of_space(error):
                raise
            raise NoSpaceError(
                f"no space left in {self.folder} for a pack ({tell_mib(free_bytes(self.folder))} "
                "are left): make room (`tigon cache list`), or choose another folder with --cache"
            ) from error
        finally:
            remove(aside)

    def packs(self) -> list[CachedPack]:
        """All packs that are kept, the one that was used last first."""
        found = [_describe(path) for path in self.folder.iterdir() if _NAME.fullmatch(path.name)]
        return sorted(found, key=lambda pack: (-pack.last_used, pack.name))

    def named(self, beginning: str) -> str:
        """The one pack whose name, or its digits, begin so.

        Raises
        ------
        InputError
            There is none, or more than one.
        """
        names = [pack.name for pack in self.packs()]
        found = [
            n
            for n in names
            if beginning and n.removeprefix(PREFIX).startswith(beginning.removeprefix(PREFIX))
        ]
        if len(found) != 1:
            raise InputError(
                f"{beginning!r} names {len(found)} of the {len(names)} packs in {self.folder}: one "
                "is needed; `tigon cache list` shows their names"
            )
        return found[0]

    def clear(self, names: Sequence[str]) -> int:
        """Remove packs, and what killed writers left; returns the bytes that it freed.

        Raises
        ------
        InputError
            One of them is being written.
        """
        freed = 0
        for name in names:
            with self.sole_writer(name) as alone:
                if not alone:
                    raise InputError(
                        f"{name} is being written by another process: wait for it to end"
                    )
                freed += _size(self.folder / name)
                self._discard(self.folder / name)
        self._clear_leftovers()
        return freed

    def _lock(self, name: str) -> Path:
        return self.folder / f".tigon-lock-{name}"

    def _discard(self, place: Path) -> None:
        """Remove a pack: its name first, so that nobody finds half of one."""
        if place.is_dir():
            aside = place.with_name(f"{place_aside(place).name}-old")
            remove(aside)
            place.rename(aside)
            remove(aside)
        else:
            remove(place)  # a file under the name of a pack

    def _clear_leftovers(self, own: str = "") -> None:
        """Remove what killed processes left; ``own`` is the name whose lock is held here."""
        for path in self.folder.iterdir():
            match = _ASIDE.match(path.name)
            if match is None:
                continue
            if match[1] == own:
                remove(path)
                continue
            with self.sole_writer(match[1]) as alone:
                if alone:
                    remove(path)


def _describe(path: Path) -> CachedPack:
    n_bytes, last_used = _size(path), 0.0
    with suppress(OSError):
        last_used = (path / "pack.json").stat().st_mtime
    try:
        pack = Pack(path)
    except InputError:
        return CachedPack(path.name, "", 0, 0, n_bytes, last_used)
    pack.close()
    return CachedPack(path.name, pack.atlas, pack.n_cells, pack.n_genes, n_bytes, last_used)


def _size(folder: Path) -> int:
    total = 0
    for file in folder.glob("*"):
        with suppress(OSError):
            total += file.stat().st_size
    return total
