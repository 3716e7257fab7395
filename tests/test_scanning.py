"""Finding the lowest and the highest entry, and those that are not finite, wherever they stand."""

from __future__ import annotations

import numpy as np
import pytest

from tigon.kernels.cpu.scanning import extent


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 32, 33, 70])
def test_one_bad_entry_is_found_at_any_place(dtype: type, n: int) -> None:
    values = np.full(n, np.finfo(dtype).max, dtype)
    values[::2] *= -1
    assert np.isfinite(extent(values)).all()
    for bad in (np.nan, np.inf, -np.inf):
        for i in range(n):
            spoilt = values.copy()
            spoilt[i] = bad
            assert np.isnan(extent(spoilt)).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 32, 33, 70])
@pytest.mark.parametrize("middle", [-9, 0, 9])
def test_the_outermost_entries_are_found_at_any_place(dtype: type, n: int, middle: int) -> None:
    for i in range(n):
        for outermost in (3.5, -3.5):
            values = (middle + np.linspace(-2, 2, n)).astype(dtype)
            values[i] = middle + outermost
            assert extent(values) == (values.min(), values.max())
