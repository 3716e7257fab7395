"""Finding entries that are not finite, wherever they stand."""

from __future__ import annotations

import numpy as np
import pytest

from tigon.kernels.cpu.scanning import all_finite, largest_size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [0, 1, 15, 16, 17, 31, 32, 33, 70])
def test_one_bad_entry_is_found_at_any_place(dtype: type, n: int) -> None:
    values = np.full(n, np.finfo(dtype).max, dtype)
    values[::2] *= -1
    assert all_finite(values)
    for bad in (np.nan, np.inf, -np.inf):
        for i in range(n):
            spoilt = values.copy()
            spoilt[i] = bad
            assert not all_finite(spoilt)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("n", [1, 15, 16, 17, 31, 32, 33, 70])
def test_the_largest_entry_is_found_at_any_place(dtype: type, n: int) -> None:
    for i in range(n):
        for largest in (3.5, -3.5):
            values = np.linspace(-2, 2, n).astype(dtype)
            values[i] = largest
            assert largest_size(values) == 3.5
    assert largest_size(np.zeros(0, dtype)) == 0
