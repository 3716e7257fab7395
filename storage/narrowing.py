"""Rows that are counts as they stand, put into narrow types a strip at a time.

Most files hold sorted whole numbers in wide types, and all that is to be done is
to make sure of it and to narrow them. The checks of a strip are over
before it leaves the cache of the processor: together they cost about one pass over memory. Anything
that would change or refuse an entry is left to the careful way.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.sources.matrices.matrix import SparseRows

_STRIP = 1 << 18
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
    columns = _Narrowing(rows.indices, indices, n_columns - 1)
    counts = _Narrowing(rows.values, values, int(np.iinfo(values).max))
    for start in range(0, len(rows.indices), _STRIP):
        strip = slice(start, start + _STRIP)
        if not columns.take(strip) or not counts.take(strip) or not counts.narrow[strip].all():
            return None
    narrow = SparseRows(rows.indptr, columns.narrow, counts.narrow)
    return narrow if is_sorted(narrow) else None


def is_sorted(rows: SparseRows) -> bool:
    """Whether the columns ascend strictly in every row."""
    ascends = rows.indices[1:] > rows.indices[:-1]
    if ascends.all():
        return True
    starts = rows.indptr[1:-1]
    # A fall from one row to the next is in order; empty rows repeat a start.
    ascends[starts[(starts > 0) & (starts < len(rows.indices))] - 1] = True
    return bool(ascends.all())


class _Narrowing:
    """An array on its way into a narrow type; as it is where it has that type already."""

    def __init__(self, wide: NDArray[Any], dtype: np.dtype[Any], largest: int) -> None:
        self.narrow = wide if wide.dtype == dtype else np.empty(len(wide), dtype)
        self._wide, self._largest = wide, largest

    def take(self, strip: slice) -> bool:
        """Narrow a strip; False where a number is no whole number from 0 to the largest."""
        wide, narrow = self._wide[strip], self.narrow[strip]
        if wide.dtype.kind == "f":
            return self._take_floats(wide, narrow)
        largest = self._largest
        if wide.dtype.kind == "i":
            # Seen as unsigned, negative numbers are larger than any of the others.
            largest = min(largest, int(np.iinfo(wide.dtype).max))
            wide = wide.view(wide.dtype.str.replace("i", "u"))
        if wide.dtype.kind != "u" or wide.max() > largest:
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
