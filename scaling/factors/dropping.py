"""Factors left out of alignment and of all that follows from it.

Symbols: H (n x k) the loadings, of which the columns of the dropped factors are not
looked at. Loadings, metagenes and statistics keep all factors under their numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.checking import check_whole
from tigon.storage.errors import InputError
from tigon.storage.rows import RowReader


@dataclass(frozen=True, slots=True)
class KeptColumns:
    """Rows of which only some columns are read.

    Attributes
    ----------
    rows
        All columns, shape (n, k).
    kept
        Columns that are read, ascending, int64.
    """

    rows: RowReader
    kept: NDArray[np.int64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of what is read."""
        return (self.rows.shape[0], len(self.kept))

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        return self.rows.dtype

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Rows ``start`` to ``stop``."""
        return np.ascontiguousarray(self.rows.read(start, stop)[:, self.kept])


def kept_factors(n_components: int, dropped: Sequence[int]) -> NDArray[np.int64]:
    """Numbers of the factors that are not dropped, ascending, int64."""
    return np.setdiff1d(np.arange(n_components), np.asarray(dropped, np.int64))


def without_factors(loadings: RowReader, dropped: Sequence[int]) -> RowReader:
    """Loadings (n, k) without the columns of the factors in ``dropped``."""
    if not dropped:
        return loadings
    return KeptColumns(loadings, kept_factors(loadings.shape[1], dropped))


def factor_number(loadings: RowReader, column: int) -> int:
    """Number of the factor whose loadings are in a column."""
    return int(loadings.kept[column]) if isinstance(loadings, KeptColumns) else column


def checked_factors(dropped: Any, n_components: int) -> tuple[int, ...]:
    """Numbers of factors to drop, ascending.

    Raises
    ------
    InputError
        They are no list of whole numbers, one is there twice or is the number of no
        factor, or none would be left.
    """
    if isinstance(dropped, str) or not isinstance(dropped, Sequence | np.ndarray):
        raise InputError(
            f"drop_factors is {dropped!r}: it is a list of the numbers of factors; for instance "
            "[3, 7]"
        )
    for number in dropped:
        check_whole("a factor to drop", number)
    numbers = sorted(int(number) for number in dropped)
    for number in numbers:
        if not 0 <= number < n_components:
            raise InputError(
                f"factor {number} cannot be dropped: there are {n_components}, numbered from 0 to "
                f"{n_components - 1}; `tigon factors` lists them"
            )
        if numbers.count(number) > 1:
            raise InputError(f"factor {number} is to be dropped twice: name each factor once")
    if numbers and len(numbers) == n_components:
        raise InputError(
            f"all {n_components} factors are to be dropped: at least one is needed to compare "
            "cells by; keep one"
        )
    return tuple(numbers)
