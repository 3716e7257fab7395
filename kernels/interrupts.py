"""Ctrl-C while the compiler is at work: its locks are never left behind.

Numba and llvmlite guard themselves with locks that are written in Python. An exception
between taking one and the block that gives it back leaves it taken for good, and the next
thread that needs a kernel waits without end. So an interrupt that arrives there is put off
for some milliseconds.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_PLACES = ("/llvmlite/", "/numba/core/compiler_lock.py")
"""Where locks are taken and given back, and where objects are made that only then are whole."""

_TAKING = {"__enter__", "__exit__", "acquire", "release"}

_AGAIN_S = 0.01


@contextmanager
def careful_interrupts() -> Iterator[None]:
    """Ctrl-C raises KeyboardInterrupt as ever, but not while a lock changes hands.

    Notes
    -----
    Does nothing in other threads than the main one, or where somebody else handles SIGINT.
    """
    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield
        return
    signal.signal(signal.SIGINT, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def put_off(number: int, frame: FrameType | None) -> bool:
    """For a handler of signals: whether this one must wait, and was sent once more.

    Parameters
    ----------
    number, frame
        As a handler gets them.
    """
    if not _takes_lock(frame):
        return False
    again = threading.Timer(_AGAIN_S, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
    return True


def _interrupt(number: int, frame: FrameType | None) -> None:
    if not put_off(number, frame):
        signal.default_int_handler(number, frame)


def _takes_lock(frame: FrameType | None) -> bool:
    """Whether code is about to take a lock of the compiler, or to give it back."""
    innermost = True
    while frame is not None:
        name = frame.f_code.co_filename.replace("\\", "/")
        if any(place in name for place in _PLACES) and (
            innermost or frame.f_code.co_name in _TAKING
        ):
            return True
        frame, innermost = frame.f_back, False
    return False
