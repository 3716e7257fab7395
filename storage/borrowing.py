"""Using whatever the caller has as an atlas, and closing only what was opened here."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from typing import Any

from tigon.storage.atlas import Atlas
from tigon.storage.errors import InputError
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
        How to open it. For an open atlas ``scratch`` is not needed, and the
        others must be as they are by default, or None.

    Raises
    ------
    InputError
        An option of opening was given for an atlas that is open.
    """
    if isinstance(source, Atlas):
        _refuse_opening(opening)
        yield source
        return
    with open_atlas(source, **opening) as atlas:
        yield atlas


def _refuse_opening(opening: Mapping[str, Any]) -> None:
    defaults = signature(open_atlas).parameters
    for name, value in opening.items():
        if name != "scratch" and value is not None and value != defaults[name].default:
            raise InputError(
                f"{name}={value!r} was given for an atlas that is open already: options of "
                "opening belong to tigon.open"
            )
