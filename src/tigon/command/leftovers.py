"""What a failed command may leave although it cleaned up behind itself.

Zarr writes on a thread of its own. When a command is interrupted, or one of
several writes fails, the others may still be under way and make their folders
anew after these were removed. They are over when the process ends.
"""

from __future__ import annotations

import atexit
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path


@contextmanager
def nothing_left(out: str) -> Iterator[None]:
    """Remove what is left of an unfinished ``out``, when the process ends, if the block fails.

    Parameters
    ----------
    out
        The output, written aside as ``tigon.storage.publish`` says.

    Raises
    ------
    KeyboardInterrupt
        Saying so, where the block was interrupted after ``out`` was complete.

    Notes
    -----
    To be entered before Zarr is imported: handlers run in reverse order, and
    Zarr's own, which ends its thread, must come first.
    """
    from tigon.storage.publish import place_aside, remove

    place = Path(out)
    sweep = partial(remove, place_aside(out))
    atexit.register(sweep)
    before = _identity(place)
    try:
        yield
    except BaseException as error:
        atexit.register(_hush)
        if isinstance(error, KeyboardInterrupt) and _identity(place) != before:
            message = f"interrupted; {out} is complete, what goes with it is not"
            raise KeyboardInterrupt(message) from None
        raise
    atexit.unregister(sweep)


def _identity(place: Path) -> tuple[int, int] | None:
    """Tells an output from one that replaces it; None where there is none."""
    if not place.exists():
        return None
    found = place.stat()
    return found.st_ino, found.st_mtime_ns


def _hush() -> None:
    """Keep the writes that are cut off from complaining after the last word was said."""
    logging.getLogger("asyncio").setLevel(logging.CRITICAL + 1)
    warnings.simplefilter("ignore")
