"""The folder of a job under way: what an interrupted one goes on from.

It lies beside the output, under a hidden name, and is locked by the process that works in
it. ``job.json`` says what the job is, so that another one is never continued by mistake:
every option that decides the result, the digest of the counts and the versions of what
computes. What takes long is kept as soon as it is whole. The folder goes when the run is
published, or when the job ends in another way before it has kept a minute's work; after
more than that, or where the job was to be kept however short, it is removed only when someone
asks for it.

Work lies in a folder of a name that no other job had: tasks of a dead job that a cluster
has not ended yet cannot write into the files of the next one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.identity import Identity
from tigon.storage.errors import InputError, NoSpaceError, OutputExistsError
from tigon.storage.lock import FileLock
from tigon.storage.publish import remove
from tigon.storage.space import free_bytes, is_out_of_space, tell_mib

log = logging.getLogger("tigon")

WORTH_S = 60.0
"""Work that took longer is kept when a job is interrupted."""

_JOB = "job.json"
_LOCK = "tigon-lock"
_KEEP = "keep-always"
"""A file that says that the job was to be kept however short."""
_FORMAT = 5
_STEPS = {
    "prepared.npz": "the first pass",
    "sums-*.npz": "the sums of some passes",
    "components.npz": "the components",
    "pack/pack.json": "packing",
    "checkpoint.npz": "some training",
    "batch/checkpoint.npz": "some training",
    "solution.npz": "all loadings",
    "fit-*.npz": "some fits",
}
"""What is kept, in the order in which it is made."""
_OF_STARTS = (
    *("start-*/checkpoint.npz", "start-*/batch/checkpoint.npz"),
    *("consensus/checkpoint.npz", "consensus.npz"),
)
"""What several starts keep beside it."""


class Job:
    """The folder of one job, held by this process until :meth:`close`.

    Parameters
    ----------
    place
        The folder.
    lock
        Held.
    folder
        Where the work lies.
    can_be_kept
        Whether what is there may serve another process: it is of no use where it cannot be
        told whether the counts are still the same.
    keep_always
        Keep work however little it is.
    """

    def __init__(
        self, place: Path, lock: FileLock, folder: Path, *, can_be_kept: bool, keep_always: bool
    ) -> None:
        self.place, self.folder = place, folder
        self._lock = lock
        self.can_be_kept, self._keep_always = can_be_kept, keep_always

    @classmethod
    def open(
        cls, place: Path, out: Path, identity: Identity, *, resume: bool, restart: bool
    ) -> Self:
        """Begin a job, or go on with an interrupted one.

        Parameters
        ----------
        place
            Its folder, see :func:`job_place`.
        out
            The output, for messages.
        identity
            What the job is.
        resume
            Go on with what is there; where nothing is, begin.
        restart
            Discard what is there.

        Raises
        ------
        InputError
            There is an interrupted job that is kept and neither was asked for, or it is not the
            same job.
        OutputExistsError
            Another process is at work in the folder.
        """
        _check_wishes(identity, resume=resume, restart=restart)
        lock = _locked(place, out)
        try:
            was = None if restart else _told(place)
            if was is not None:
                _check_same(place, out, identity, was, resume=resume)
            if was is None or not resume:
                was = _begun(place, identity)
            if resume:
                (place / _KEEP).touch()
        except BaseException:
            lock.release()
            with suppress(OSError):
                place.rmdir()
            raise
        folder = place / str(was["folder"])
        return cls(
            place,
            lock,
            folder,
            can_be_kept=identity.atlas is not None,
            keep_always=resume,
        )

    @contextmanager
    def working(self, out: Path, purpose: str) -> Iterator[None]:
        """Do the work; the folder goes when the block ends, or stays for the next process.

        Raises
        ------
        NoSpaceError
            The disk is full.
        """
        try:
            yield
        except BaseException as error:
            left = tell_mib(free_bytes(self.place.parent))
            kept = self.close()
            if kept:
                log.warning("the job of %s stopped, its work (%s) is kept: %s", out, kept, _WAYS)
            if kept and isinstance(error, KeyboardInterrupt):
                message = f"interrupted; the work so far ({kept}) is kept: {_WAYS}"
                raise KeyboardInterrupt(message) from None
            if not isinstance(error, OSError) or not is_out_of_space(error):
                raise
            if isinstance(error, NoSpaceError):
                raise
            raise NoSpaceError(
                f"no space left in {self.place.parent} {purpose}: {left} are left; make room "
                "there, or use another disk (--out, or scratch in Python, says which)"
            ) from error
        self._remove()

    def close(self) -> str:
        """End without a result; returns what is kept, "" where nothing is."""
        kept = _kept(self.folder)
        is_long = self._keep_always or _seconds(self.place, self.folder) >= WORTH_S
        if kept and self.can_be_kept and is_long:
            self._lock.release()
            return kept
        self._remove()
        return ""

    def save(self, name: str, **arrays: NDArray[Any]) -> None:
        """Keep arrays under a name, whole or not at all."""
        if not self.can_be_kept:
            return
        aside = self.folder / f"{name}.partial"
        with aside.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        aside.replace(self.folder / name)

    def load(self, name: str) -> dict[str, NDArray[Any]] | None:
        """Arrays that were kept; None where there are none that can be read."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return dict(arrays)
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            log.warning("%s cannot be read (%s): this part is done again", path, error)
            return None

    def _remove(self) -> None:
        # The description first: without one there is nothing to go on from.
        (self.place / _JOB).unlink(missing_ok=True)
        for path in list(self.place.iterdir()):
            if path.name != _LOCK:
                remove(path)
        self._lock.release()
        with suppress(OSError):  # another process waits to begin
            self.place.rmdir()


_WAYS = "--resume goes on from there, --restart discards it"


def job_place(out: Path, scratch: Path) -> Path:
    """Folder of the job that makes ``out``, in ``scratch``."""
    out = out.absolute()
    if scratch.absolute() == out.parent:
        return out.with_name(f".{out.name}.tigon-job")
    mark = hashlib.blake2b(str(out).encode(), digest_size=4).hexdigest()
    return scratch.absolute() / f".{out.name}.{mark}.tigon-job"


def _check_wishes(identity: Identity, *, resume: bool, restart: bool) -> None:
    if resume and restart:
        raise InputError("both --resume and --restart were given: choose one")
    if resume and identity.atlas is None:
        raise InputError(
            "--resume needs counts of which can be told whether they are the same as before: make "
            "an atlas of them with `tigon ingest`, or leave out --resume"
        )


def _locked(place: Path, out: Path) -> FileLock:
    while True:
        place.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # removed by its owner meanwhile
            lock = FileLock.take(place / _LOCK)
            if lock is None:
                raise OutputExistsError(
                    f"{out} is being made by another process: wait for it, or choose another name"
                )
            return lock


def _told(place: Path) -> dict[str, Any] | None:
    """What an earlier job said of itself; None where nothing that can be read."""
    try:
        told: dict[str, Any] = json.loads((place / _JOB).read_text())
    except (OSError, ValueError):
        return None
    return told


def _check_same(
    place: Path, out: Path, identity: Identity, was: Mapping[str, Any], *, resume: bool
) -> None:
    folder = place / str(was.get("folder"))
    if not resume:
        is_long = (place / _KEEP).exists() or _seconds(place, folder) >= WORTH_S
        if _kept(folder) and was.get("atlas") and is_long:
            raise InputError(
                f"a job of {out} was interrupted, its work ({_kept(folder)}) is in {place}: {_WAYS}"
            )
        return
    if was.get("format") != _FORMAT:
        raise InputError(
            f"the interrupted job in {place} is of another version of Tigon: --restart discards it"
        )
    differences = identity.differences(was)
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise InputError(
            f"the interrupted job of {out} is another one: {'; '.join(differences[:3])}{more}; "
            "give what it was begun with, or --restart to discard it"
        )


def _begun(place: Path, identity: Identity) -> dict[str, Any]:
    for path in list(place.iterdir()):
        if path.name != _LOCK:
            remove(path)
    told = {"format": _FORMAT, "folder": f"work-{uuid4().hex}", **identity.as_json()}
    (place / told["folder"]).mkdir()
    aside = place / f"{_JOB}.partial"
    aside.write_text(json.dumps(told, indent=1))
    aside.replace(place / _JOB)
    return told


def _kept(folder: Path) -> str:
    """The last step whose outcome is there, in words."""
    there = [told for name, told in _STEPS.items() if any(folder.glob(name))]
    return there[-1] if there else ""


def _seconds(place: Path, folder: Path) -> float:
    """How long it took to make what is kept."""
    names = (*_STEPS, *_OF_STARTS)
    made = [path.stat().st_mtime for name in names for path in folder.glob(name)]
    with suppress(OSError):
        return max(made, default=0.0) - (place / _JOB).stat().st_mtime
    return 0.0
