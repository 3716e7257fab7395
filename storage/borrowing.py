"""Using whatever the caller has as an atlas, and closing only what was opened here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tigon.storage.atlas import Atlas
from tigon.storage.opening import open_atlas


@contextmanager
def borrowed_atlas(source: Any, **opening: Any) -> Iterator[Atlas]:
    """An atlas for the length of a block.

    Parameters
    ----------
    source
        An open atlas, which stays open; or anything that
        :func:`tigon.storage.open_atlas` opens, which is closed at the end.
    **opening
        How to open it.
    """
    if isinstance(source, Atlas):
        yield source
        return
    with open_atlas(source, **opening) as atlas:
        yield atlas
