"""Rows that are counts as they stand, put into narrow types a strip at a time.

Most files hold sorted whole numbers in wide types, and all that is to be done is
to make sure of it and to narrow them. The checks of a strip are over
before it leaves the cache of the processor: together they cost about one pass over memory. Anything
that would change or refuse an entry is left to the careful way.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.sources.matrices.matrix import SparseRows

_STRIP = 1 << 17
"""Entries. Shorter strips are quicker on one thread but keep others waiting: every step
takes and gives back the interpreter's lock."""


def narrowed(
    rows: SparseRows, n_columns: int, indices: np.dtype[Any], values: np.dtype[Any]
) -> SparseRows | None:
    """The rows in the types asked for, if they change in nothing else.

    Parameters
    ----------
    rows
        Rows as stored.
    n_columns
        Columns that there are.
    indices, values
        Types to become, unsigned.

    Returns
    -------
    SparseRows or None
        None unless every column is in range, every value a whole number above
        zero that fits, and columns ascend strictly in every row.
    """
    if values.kind != "u" or not len(rows.indices):
        return None
    columns, counts = _Narrowing(rows.indices, indices), _Narrowing(rows.values, values)
    n_falls = 0
    for strip in _strips(len(rows.indices)):
        if not columns.take(strip) or not counts.take(strip) or not counts.narrow[strip].min():
            return None
        n_falls += _falls(columns.narrow, strip)
    narrow = SparseRows(rows.indptr, columns.narrow, counts.narrow)
    if n_falls != _falls_between_rows(narrow) or not _last_columns_below(n_columns, narrow):
        return None
    return narrow


def is_sorted(rows: SparseRows) -> bool:
    """Whether the columns ascend strictly in every row."""
    n_falls = sum(_falls(rows.indices, strip) for strip in _strips(len(rows.indices)))
    return n_falls == _falls_between_rows(rows)


def _strips(n_entries: int) -> Iterator[slice]:
    for start in range(0, n_entries, _STRIP):
        yield slice(start, min(start + _STRIP, n_entries))


def _falls(columns: NDArray[Any], strip: slice) -> int:
    """How many columns of a strip are not above the one before them."""
    own = columns[max(strip.start, 1) : strip.stop]
    before = columns[max(strip.start, 1) - 1 : strip.stop - 1]
    return int(np.count_nonzero(own <= before))


def _falls_between_rows(rows: SparseRows) -> int:
    """How many rows begin with a column that is not above the one before: those are in order."""
    starts = rows.indptr[1:-1]
    # Empty rows repeat a start.
    first = starts[(starts < len(rows.indices)) & (np.diff(starts, prepend=0) > 0)]
    return int(np.count_nonzero(rows.indices[first] <= rows.indices[first - 1]))


def _last_columns_below(n_columns: int, rows: SparseRows) -> bool:
    """Whether columns, which ascend in every row, are in range."""
    stops = rows.indptr[1:][np.diff(rows.indptr) > 0]
    return bool((rows.indices[stops - 1] < n_columns).all())


class _Narrowing:
    """An array on its way into a narrow type; as it is where it has that type already."""

    def __init__(self, wide: NDArray[Any], dtype: np.dtype[Any]) -> None:
        self.narrow = wide if wide.dtype == dtype else np.empty(len(wide), dtype)
        self._wide, self._largest = wide, int(np.iinfo(dtype).max)

    def take(self, strip: slice) -> bool:
        """Narrow a strip; False where a number is no whole number that the type holds."""
        wide, narrow = self._wide[strip], self.narrow[strip]
        if wide.dtype.kind == "f":
            return self._take_floats(wide, narrow)
        largest = self._largest
        if wide.dtype.kind == "i":
            # Seen as unsigned, negative numbers are larger than any of the others.
            largest = min(largest, int(np.iinfo(wide.dtype).max))
            wide = wide.view(wide.dtype.str.replace("i", "u"))
        if wide.dtype.kind != "u":
            return False
        if largest < np.iinfo(wide.dtype).max and wide.max() > largest:
            return False
        if self.narrow is not self._wide:
            np.copyto(narrow, wide, casting="unsafe")
        return True

    def _take_floats(self, wide: NDArray[Any], narrow: NDArray[Any]) -> bool:
        # As floats above 2^24 are sparse, the largest itself may have no equal.
        if not wide.max() < self._largest:
            return False
        with np.errstate(invalid="ignore"):
            np.copyto(narrow, wide, casting="unsafe")
        # Neither a fraction, nor NaN, nor a negative number comes back the same.
        return bool((narrow.astype(wide.dtype) == wide).all())
