"""Outputs are written aside and take their name when they are whole.

``out`` is written as ``.<name>.tigon-partial-<pid>`` beside it and renamed at
the end, so a reader finds the old output, the new one or none, never half of
one. What a killed process left is removed by the next call for the same ``out``.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tigon.storage.errors import InputError, NoSpaceError, OutputExistsError
from tigon.storage.space import free_bytes, is_out_of_space, tell_mib

_STORE_MARKS = ("zarr.json", ".zgroup", ".zmetadata")
_being_written: set[Path] = set()
_lock = threading.RLock()
"""Held while names are reserved or change, so that threads find none of them in between."""


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
        ``out`` exists and ``overwrite`` is False.
    InputError
        The folder of ``out`` does not exist, or what is there is not something
        that Tigon would write.
    NoSpaceError
        The disk is full.

    Examples
    --------
    >>> with published("report.html", overwrite=True) as aside:  # doctest: +SKIP
    ...     aside.write_text("<html>...")
    """
    out, partial = _absolute(out), place_aside(out)
    with _lock:
        check_output(out, overwrite=overwrite)
        _reserve(out, partial)
    try:
        yield partial
        with _lock:
            _replace(partial, out)
    except OSError as error:
        raise _no_space(error, out, partial) or error from error
    finally:
        remove(partial)
        _being_written.discard(partial)


def place_aside(out: str | Path) -> Path:
    """Where this process writes ``out`` before it is published."""
    return _aside(_absolute(out), "partial")


def process_is_alive(pid: int) -> bool:
    """Whether a process with this number runs on this machine."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def remove(path: Path) -> None:
    """Remove a file, link or folder; nothing happens where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _absolute(out: str | Path) -> Path:
    return Path(os.path.abspath(out))  # noqa: PTH100 (resolve would follow a link named as output)


def _reserve(out: Path, partial: Path) -> None:
    if partial in _being_written:
        raise OutputExistsError(
            f"{out} is being written already: one writer at a time; wait for it"
        )
    _clear_leftovers(out)
    _being_written.add(partial)


def _aside(out: Path, role: str) -> Path:
    return out.with_name(f".{out.name}.tigon-{role}-{os.getpid()}")


def check_output(out: Path, *, overwrite: bool) -> None:
    """Refuse an output that :func:`published` would refuse, before any work is done.

    Raises
    ------
    OutputExistsError, InputError
        As for :func:`published`.
    """
    if not out.parent.is_dir():
        raise InputError(f"the folder {out.parent} does not exist: make it first")
    with _lock:
        _restore_interrupted(out)
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


def _replace(partial: Path, out: Path) -> None:
    """Rename ``partial`` to ``out``; an old folder steps aside first, a file is replaced."""
    if partial.is_dir() and out.is_file():
        raise InputError(
            f"{out} is a file and the output is a folder: --overwrite replaces like with like; "
            "choose another name"
        )
    if not os.path.lexists(out) or (out.is_file() and partial.is_file()):
        partial.replace(out)
        return
    old = _aside(out, "old")
    out.rename(old)
    try:
        partial.rename(out)
    except BaseException:
        old.rename(out)
        raise
    remove(old)


def _restore_interrupted(out: Path) -> None:
    """Put back an old output whose replacement was killed between the two renames."""
    for old in _leftovers(out, "old"):
        if os.path.lexists(out):
            remove(old)
        else:
            old.rename(out)


def _clear_leftovers(out: Path) -> None:
    for partial in _leftovers(out, "partial"):
        remove(partial)


def _leftovers(out: Path, role: str) -> list[Path]:
    """What processes that no longer run left beside ``out``."""
    prefix = f".{out.name}.tigon-{role}-"
    found = [path for path in out.parent.iterdir() if path.name.startswith(prefix)]
    return [path for path in found if _is_left_over(path, path.name.removeprefix(prefix))]


def _is_left_over(path: Path, pid: str) -> bool:
    # In a container a new process often has the number of the one that died.
    if not pid.isdigit() or path in _being_written:
        return False
    return int(pid) == os.getpid() or not process_is_alive(int(pid))


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
