"""Outputs are written aside and take their name when they are whole.

``out`` is written as ``.<name>.tigon-partial-<host>-<pid>`` beside it and renamed
at the end, so a reader finds the old output, the new one or none, never half of
one. An old folder and a new one exchange their names in one step where the system can
do that (``tigon.storage.exchange``): no moment is then without either. Who writes
``out`` holds its lock: there is one writer at a time, and what lies beside ``out`` when
the lock is free was left by a killed process; the next call for the same ``out``
removes it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tigon.storage.errors import InputError, NoSpaceError, OutputExistsError
from tigon.storage.exchange import exchange
from tigon.storage.lock import FileLock, host_name
from tigon.storage.space import free_bytes, is_out_of_space, tell_mib

_STORE_MARKS = ("zarr.json", ".zgroup", ".zmetadata")


@contextmanager
def published(out: str | Path, *, overwrite: bool = False) -> Iterator[Path]:
    """Write a file or folder aside and publish it under ``out`` at the end.

    Parameters
    ----------
    out
        The file or folder to make.
    overwrite
        Replace an output that is already there, once the new one is complete.

    Yields
    ------
    Path
        Where to create the file or folder. It becomes ``out`` when the block
        ends, and is removed when the block raises.

    Raises
    ------
    OutputExistsError
        ``out`` exists and ``overwrite`` is False, at the start or at the end;
        or another process or thread is writing it.
    InputError
        The folder of ``out`` does not exist or takes no files, or what is there is not
        something that Tigon would write.
    NoSpaceError
        The disk is full.

    Examples
    --------
    >>> with published("report.html", overwrite=True) as aside:  # doctest: +SKIP
    ...     aside.write_text("<html>...")
    """
    out, partial = _absolute(out), place_aside(out)
    with _sole_writer(out):
        _check(out, overwrite=overwrite)
        _clear_leftovers(out)
        try:
            yield partial
            _replace(partial, out, overwrite=overwrite)
        except OSError as error:
            raise _no_space(error, out, partial) or error from error
        finally:
            remove(partial)


def place_aside(out: str | Path) -> Path:
    """Where this process writes ``out`` before it is published."""
    return _aside(_absolute(out), "partial")


def remove(path: Path) -> None:
    """Remove a file, link or folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _absolute(out: str | Path) -> Path:
    return Path(os.path.abspath(out))  # noqa: PTH100 (resolve would follow a link named as output)


@contextmanager
def _sole_writer(out: Path) -> Iterator[None]:
    """Hold the lock of ``out``."""
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist: make it first")
    try:
        lock = FileLock.take(out.with_name(f".tigon-lock-{out.name}"))
    except FileNotFoundError as error:  # /proc and its like, whose files are the system's own
        raise InputError(f"the folder {out.parent} takes no files: choose another place") from error
    if lock is None:
        raise OutputExistsError(
            f"{out} is being written by another process or thread: one writer at a time; wait for "
            "it, or choose another name"
        )
    try:
        yield
    finally:
        lock.release()


def _aside(out: Path, role: str) -> Path:
    return out.with_name(f".{out.name}.tigon-{role}-{host_name()}-{os.getpid()}")


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse an output that :func:`published` would refuse, before any work is done.

    Raises
    ------
    OutputExistsError, InputError
        As for :func:`published`.
    """
    with _sole_writer(out):
        _check(out, overwrite=overwrite)


def _check(out: Path, *, overwrite: bool) -> None:
    _restore_interrupted(out)
    _check_existing(out, overwrite=overwrite)


def _check_existing(out: Path, *, overwrite: bool) -> None:
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise OutputExistsError(f"{out} exists: choose another name, or give --overwrite")
    if out.is_dir() and not _is_store(out):
        raise InputError(
            f"{out} is a folder that Tigon did not write (no Zarr metadata in it): "
            "--overwrite replaces Zarr stores only; choose another name"
        )


def _is_store(folder: Path) -> bool:
    return any((folder / mark).exists() for mark in _STORE_MARKS) or not any(folder.iterdir())


def _replace(partial: Path, out: Path, *, overwrite: bool) -> None:
    """Rename ``partial`` to ``out``; an old folder takes its place, a file is replaced."""
    _check_existing(out, overwrite=overwrite)  # something may have appeared meanwhile
    if partial.is_dir() and out.is_file():
        raise InputError(
            f"{out} is a file and the output is a folder: --overwrite replaces like with like; "
            "choose another name"
        )
    if not os.path.lexists(out) or (out.is_file() and partial.is_file()):
        partial.replace(out)
        return
    if exchange(partial, out):
        return  # what was published before is aside now, where :func:`published` removes it
    old = _aside(out, "old")
    out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        old.rename(out)
        raise
    _discard(old, out)


def _restore_interrupted(out: Path) -> None:
    """Put back an old output whose replacement was killed between the two renames."""
    for old in _leftovers(out, "old"):
        if os.path.lexists(out):
            _discard(old, out)
        else:
            old.rename(out)


def _discard(old: Path, out: Path) -> None:
    """Remove an old output under a name that nobody puts back, should this be killed midway."""
    partial = _aside(out, "partial")
    remove(partial)
    old.rename(partial)
    remove(partial)


def _clear_leftovers(out: Path) -> None:
    for partial in _leftovers(out, "partial"):
        remove(partial)


def _leftovers(out: Path, role: str) -> list[Path]:
    """What killed processes left beside ``out``; to be asked for by its sole writer."""
    prefix = f".{out.name}.tigon-{role}-"
    return [path for path in out.parent.iterdir() if path.name.startswith(prefix)]


def _no_space(error: OSError, out: Path, partial: Path) -> NoSpaceError | None:
    if not is_out_of_space(error):
        return None
    written, left = tell_mib(_size(partial)), tell_mib(free_bytes(out.parent))
    return NoSpaceError(
        f"no space left to write {out}: more than the {written} written so far are needed and "
        f"{left} are left; make room or choose another disk"
    )


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob("*")
    total = 0
    for file in files:
        with suppress(OSError):
            total += file.lstat().st_size
    return total
