"""How a command ends when it cannot go on.

===========================  ====================================  =========
what happened                what is said                          exit code
===========================  ====================================  =========
input, options or machine    one line: "error: ..."                2
Ctrl-C                       "interrupted; nothing was written"    130
anything else                a request to report it                1
===========================  ====================================  =========
"""

from __future__ import annotations

import errno
import signal
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

import typer
from rich.console import Console
from rich.text import Text

from tigon.kernels.interrupts import put_off
from tigon.storage.errors import TigonError

_WAYS_OUT = {
    errno.EACCES: "get access to it, or choose another place",
    errno.EPERM: "get access to it, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.ENOSPC: "make room, or choose another disk (TMPDIR for temporary files)",
    errno.EDQUOT: "make room, or choose another disk (TMPDIR for temporary files)",
    errno.EFBIG: "make room, or choose another disk (TMPDIR for temporary files)",
    errno.EMFILE: "allow more open files (ulimit -n)",
}


@contextmanager
def explained(console: Console, *, verbose: bool) -> Iterator[None]:
    """End the command with one line and an exit code instead of a traceback.

    Raises
    ------
    typer.Exit
        In place of everything that the block raises.
    """
    with _noting_interrupts() as interrupts:
        try:
            yield
        except (typer.Exit, BrokenPipeError):
            # Whoever read our output may have left: typer ends quietly.
            raise
        except KeyboardInterrupt as error:
            raise _interrupted(console, str(error)) from None
        except Exception as error:
            if interrupts:
                raise _interrupted(console) from None
            raise _failed(console, error, verbose=verbose) from None


def _interrupted(console: Console, message: str = "") -> typer.Exit:
    say(console, message or "interrupted; nothing was written", "bold yellow")
    return typer.Exit(130)


def _failed(console: Console, error: Exception, *, verbose: bool) -> typer.Exit:
    message = _explain(error)
    if verbose:
        say(console, "".join(traceback.format_exception(error)).rstrip(), "dim")
    if message is None:
        say(console, _ask_for_report(error, verbose=verbose), "bold red")
        return typer.Exit(1)
    say(console, f"error: {message}", "bold red")
    return typer.Exit(2)


@contextmanager
def _noting_interrupts() -> Iterator[list[int]]:
    """The Ctrl-Cs so far: some libraries turn the exception into one of their own."""
    seen: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if put_off(number, frame):
            return
        seen.append(number)
        signal.default_int_handler(number, frame)

    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        # Somebody else's to handle, or ignored as in a shell's background job.
        yield seen
        return
    signal.signal(signal.SIGINT, note)
    try:
        yield seen
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def say(console: Console, message: str, style: str) -> None:
    """One message on stderr, its part before the first colon in ``style``, never wrapped."""
    head, colon, rest = message.partition(": ")
    text = Text(head + colon, style=style) if colon else Text(message, style=style)
    console.print(text.append(rest, style="default"), soft_wrap=True, highlight=False)


def _explain(error: Exception) -> str | None:
    """A user's words for ``error``; None where it is not the user's to mend."""
    if isinstance(error, TigonError):
        return " ".join(str(error).splitlines())
    if isinstance(error, OSError) and error.errno in _WAYS_OUT:
        where = f"{error.filename}: " if error.filename else ""
        reason = (error.strerror or str(error)).lower()
        return f"{where}{reason}: {_WAYS_OUT[error.errno]}"
    if isinstance(error, MemoryError):
        return "the machine's memory is used up: free some, or set a smaller --memory-limit"
    return None


def _ask_for_report(error: Exception, *, verbose: bool) -> str:
    what = " ".join(f"{type(error).__name__} {error}".split())
    again = "" if verbose else " Run again with --verbose for the traceback."
    return f"unexpected error: {what[:300]}. This is a fault in Tigon: please report it.{again}"
