"""Counts that float32 would round."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tigon.storage.errors import InputError

_EXACT = 1 << 24


def refuse_rounding(values: NDArray[Any], way_out: str) -> None:
    """Refuse to make float32 of counts that it would round.

    Parameters
    ----------
    values
        Counts; those that are float32 already, or too narrow to be large, are not looked at.
    way_out
        What to do instead, for the message.

    Raises
    ------
    InputError
        A count is above 16,777,216.
    """
    wide = values.dtype.kind == "u" and values.dtype.itemsize > 2
    if wide and len(values) and (most := int(values.max())) > _EXACT:
        raise InputError(f"a count is {most:,}: float32 is exact up to {_EXACT:,}; {way_out}")
