"""Types of options, refused in the words in which their values are."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any

from tigon.storage.errors import InputError


def check_whole(name: str, value: Any, *, word: str = "") -> None:
    """Refuse what is not a whole number.

    Parameters
    ----------
    name, value
        The option and what was given for it; NumPy's integers will do.
    word
        What else could be given.

    Raises
    ------
    InputError
        It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        instead = f" or {word!r}" if word else ""
        raise InputError(f"{name} is {value!r}: it is a whole number; set an integer{instead}")


def check_number(name: str, value: Any) -> None:
    """Refuse what is not a number; ranges tell of those that are not finite.

    Raises
    ------
    InputError
        It is none.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InputError(f"{name} is {value!r}: it is a number; set one without quotes")


def check_switch(name: str, value: Any) -> None:
    """Refuse what is neither True nor False; NumPy's will do.

    Raises
    ------
    InputError
        It is neither.
    """
    # Imported here, as the command line has no use for it while it shows its help.
    import numpy as np

    if not isinstance(value, bool | np.bool_):
        raise InputError(f"{name} is {value!r}: it is True or False; set one without quotes")
