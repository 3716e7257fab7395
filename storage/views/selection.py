"""Cells or genes by name, by position or by mask, as positions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.storage.errors import InputError


def positions_of(
    asked: Any, size: int, names: Callable[[], pd.Index[Any]], what: str
) -> NDArray[np.int64] | None:
    """The positions that a selection asks for, in its order.

    Parameters
    ----------
    asked
        None for all; names; positions (whole numbers); a slice; or a mask, bool,
        shape (size,). A pandas Series counts by its values, not by its index.
    size
        How many there are.
    names
        Gives their names, where names were asked for.
    what
        "cell" or "gene", for messages.

    Returns
    -------
    ndarray or None
        int64, each position once; None for all.

    Raises
    ------
    InputError
        One is not there or is asked for twice, or nothing is asked for.
    """
    if asked is None:
        return None
    found = _positions(asked, size, names, what)
    if not len(found):
        raise InputError(f"no {what} is asked for: at least one is needed; leave it out for all")
    _check_once(found, size, what)
    return found


def _positions(
    asked: Any, size: int, names: Callable[[], pd.Index[Any]], what: str
) -> NDArray[np.int64]:
    if isinstance(asked, slice):
        return np.arange(*asked.indices(size), dtype=np.int64)
    wanted = np.atleast_1d(np.asarray(asked))
    if wanted.ndim != 1:
        raise InputError(f"the {what}s asked for have shape {wanted.shape}: a list is needed")
    if wanted.dtype == np.bool_:
        if len(wanted) != size:
            raise InputError(f"the mask has {len(wanted):,} {what}s: there are {size:,}")
        return np.flatnonzero(wanted).astype(np.int64)
    if wanted.dtype.kind in "iu":
        wrong = (wanted < 0) | (wanted >= size)
        if wrong.any():
            raise InputError(
                f"{what} {wanted[wrong][0]} is asked for: positions are 0 to {size - 1:,}"
            )
        return wanted.astype(np.int64)
    if not len(wanted):
        return np.empty(0, np.int64)
    if wanted.dtype.kind in "OUT":
        return _named(wanted, names(), what)
    raise InputError(
        f"the {what}s asked for are of type {wanted.dtype}: names, positions or a mask are needed"
    )


def _named(wanted: NDArray[Any], names: pd.Index[Any], what: str) -> NDArray[np.int64]:
    found = names.get_indexer(pd.Index(wanted, dtype=object))
    missing = wanted[found < 0]
    if len(missing):
        raise InputError(
            f"{len(missing):,} of {len(wanted):,} {what}s are not in the atlas (first: "
            f"{str(missing[0])!r}): names are those of atlas.{_TABLES[what]}.index"
        )
    return np.asarray(found, np.int64)


_TABLES = {"cell": "obs", "gene": "var"}


def _check_once(found: NDArray[np.int64], size: int, what: str) -> None:
    seen = np.zeros(size, np.bool_)
    seen[found] = True
    if seen.sum() == len(found):
        return
    values, counts = np.unique(found, return_counts=True)
    position = values[counts.argmax()]
    raise InputError(
        f"{what} {position} is asked for {counts.max()} times: each may be asked for once"
    )


def runs_in_order(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions in any order as runs of consecutive ones, (n_runs, 2)."""
    starts = np.flatnonzero(np.diff(positions, prepend=positions[:1] - 2) != 1)
    lasts = np.append(starts[1:], len(positions)) - 1
    return np.stack([positions[starts], positions[lasts] + 1], axis=1)
