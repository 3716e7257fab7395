"""Vectors of lanes, arrays on cache lines and padded rows: what the kernels stand on."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from numba.core.errors import TypingError

from tigon.kernels.cpu import lanes
from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import (
    PART_BYTES,
    absolute,
    add,
    at,
    broadcast,
    fma,
    fnma,
    load,
    maximum,
    multiply,
    put,
    store,
    subtract,
)
from tigon.kernels.cpu.panels import MOST_PARTS, padded_rows, panels_of, row_width

Array = np.ndarray

DTYPES = [np.float32, np.float64]


@njit
def _operate(a, b, c, i, shape, out):  # type: ignore[no-untyped-def]
    """Every operation on the lanes that begin at element ``i``; one row of ``out`` each."""
    x, y, z = load(a, i, shape), load(b, i, shape), load(c, i, shape)
    width = len(out) // 11
    store(out, 0, add(x, y))
    store(out, width, subtract(x, y))
    store(out, 2 * width, multiply(x, y))
    store(out, 3 * width, multiply(x, at(b, i)))
    store(out, 4 * width, fma(x, y, z))
    store(out, 5 * width, fma(at(a, i), y, z))
    store(out, 6 * width, fnma(x, y, z))
    store(out, 7 * width, fnma(at(a, i), y, z))
    store(out, 8 * width, maximum(x, y))
    store(out, 9 * width, absolute(x))
    store(out, 10 * width, broadcast(at(a, i), x))


def operate(a: Array, b: Array, c: Array, i: int, parts: int) -> Array:
    width = parts * PART_BYTES // a.itemsize
    out = np.full(11 * width, np.nan, a.dtype)
    _operate(a, b, c, i, (0,) * parts, out)
    return out.reshape(11, width)


def assert_rounded_once(found: Array, exact: list[Fraction]) -> None:
    for value, true in zip(found, exact, strict=True):
        half = Fraction(float(np.spacing(np.abs(value)))) / 2
        assert abs(Fraction(float(value)) - true) <= half


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", [1, 2, 5])
def test_every_operation_acts_on_each_lane_alone(dtype: type, parts: int) -> None:
    rng = np.random.default_rng(parts)
    a, b, c = (rng.standard_normal(60) * 10.0 ** rng.integers(-3, 4, 60) for _ in range(3))
    a, b, c = a.astype(dtype), b.astype(dtype), c.astype(dtype)
    for i in (0, 3):  # from the beginning of a cache line, and from within
        found = operate(a, b, c, i, parts)
        x, y, z = (v[i : i + found.shape[1]] for v in (a, b, c))
        expected = [x + y, x - y, x * y, x * y[0]]
        np.testing.assert_array_equal(found[:4], expected)
        fx, fy, fz = ([Fraction(float(n)) for n in v] for v in (x, y, z))
        for row, sign, left in ((4, 1, fx), (5, 1, [fx[0]] * len(fx)), (6, -1, fx)):
            exact = [n + sign * p * q for p, q, n in zip(left, fy, fz, strict=True)]
            assert_rounded_once(found[row], exact)
        exact = [n - fx[0] * q for q, n in zip(fy, fz, strict=True)]
        assert_rounded_once(found[7], exact)
        rest = [np.maximum(x, y), np.abs(x), np.full_like(x, x[0])]
        np.testing.assert_array_equal(found[8:], rest)


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_are_not_rounded_before_they_are_added(dtype: type) -> None:
    eps = np.finfo(dtype).eps
    a = np.full(8, 1 + np.sqrt(eps / 2) if dtype == np.float64 else 1 + 2.0**-12, dtype)
    found = operate(a, a, -(a * a), 0, 1)
    left = Fraction(float(a[0])) ** 2 - Fraction(float((a * a)[0]))
    assert left != 0
    np.testing.assert_array_equal(found[4], dtype(float(left)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_second_operand_stands_where_the_first_is_not_a_number(dtype: type) -> None:
    width = PART_BYTES // np.dtype(dtype).itemsize
    a, b = np.full(width, np.nan, dtype), np.arange(width, dtype=dtype)
    a[1], b[2] = np.inf, -np.inf
    found = operate(a, b, b, 0, 1)
    np.testing.assert_array_equal(found[8], np.where(np.arange(width) == 1, a, b))
    # Equal zeros of different sign: the second, so that max(0, -0.0) has one answer.
    zeros = operate(np.full(width, -0.0, dtype), np.zeros(width, dtype), b, 0, 1)
    assert not np.signbit(zeros[8]).any()


@njit
def _convert(a, out, back):  # type: ignore[no-untyped-def]
    wide = lanes.widen(load(a, 0, 2))
    store(out, 0, wide)
    store(back, 0, lanes.narrow(wide))


def test_widening_keeps_the_order_and_narrowing_takes_it_back() -> None:
    a = np.random.default_rng(0).standard_normal(16).astype(np.float32)
    out, back = np.empty(16), np.empty(16, np.float32)
    _convert(a, out, back)
    np.testing.assert_array_equal(out, a.astype(float))
    np.testing.assert_array_equal(back, a)


@njit
def _write(a, i, b):  # type: ignore[no-untyped-def]
    store(b, i, load(a, 1, 1))
    put(b, 0, at(a, 0))


@pytest.mark.parametrize("dtype", DTYPES)
def test_writes_touch_their_lanes_only(dtype: type) -> None:
    width = PART_BYTES // np.dtype(dtype).itemsize
    a, b = np.arange(1, 40, dtype=dtype), np.full(40, -1, dtype)
    _write(a, 5, b)
    expected = np.full(40, -1, dtype)
    expected[5 : 5 + width], expected[0] = a[1 : 1 + width], a[0]
    np.testing.assert_array_equal(b, expected)


@pytest.mark.parametrize("array", [np.zeros((8, 8)), np.zeros(32)[::2]], ids=["matrix", "spaced"])
def test_arrays_that_are_not_flat_are_refused(array: Array) -> None:
    @njit
    def first(a):  # type: ignore[no-untyped-def]
        return at(a, 0)

    with pytest.raises(TypingError, match="is not a flat, contiguous array"):
        first(array)


def test_a_width_known_only_at_run_time_is_refused() -> None:
    @njit
    def copy(a, n):  # type: ignore[no-untyped-def]
        store(a, 0, load(a, 0, n + 1))

    with pytest.raises(TypingError, match="parts must be known when the kernel is compiled"):
        copy(np.zeros(8), 1)


@njit
def _which(a, b):  # type: ignore[no-untyped-def]
    return lanes.which_at_most(load(a, 0, 2), load(b, 0, 2))


@pytest.mark.parametrize("dtype", DTYPES)
def test_lanes_within_a_limit_are_told_bit_by_bit(dtype: type) -> None:
    width = 2 * PART_BYTES // np.dtype(dtype).itemsize
    limit = np.ones(width, dtype)
    for value, told in ((0.5, True), (1.0, True), (1.5, False), (np.nan, False), (np.inf, False)):
        for i in range(width):
            a = np.full(width, 2.0, dtype)
            a[i] = value
            assert _which(a, limit) == told << i
    assert _which(limit, limit) == 2**width - 1


@given(n=st.integers(0, 2000), dtype=st.sampled_from([*DTYPES, np.int64, np.uint16]))
@settings(max_examples=60, deadline=None)
def test_arrays_begin_on_a_cache_line(n: int, dtype: type) -> None:
    arrays = [aligned_zeros(n, np.dtype(dtype)) for _ in range(3)]
    for array in arrays:
        assert array.ctypes.data % 64 == 0
        assert array.shape == (n,)
        assert array.dtype == dtype
        assert not array.any()
        array[:] = 1  # what is written must not show in the others


@pytest.mark.parametrize("dtype", DTYPES)
def test_panels_cover_the_factors_and_little_more(dtype: type) -> None:
    lanes_of_part = PART_BYTES // np.dtype(dtype).itemsize
    for k in range(1, 300):
        n_panels, shape = panels_of(k, dtype)
        width = row_width(k, dtype)
        assert 1 <= len(shape) <= MOST_PARTS
        assert width == n_panels * len(shape) * lanes_of_part
        # No more than a vector a panel is wasted, and no panel could be left out.
        assert k <= width < k + n_panels * lanes_of_part
        assert (n_panels - 1) * MOST_PARTS * lanes_of_part < k


@given(n=st.integers(0, 9), k=st.integers(1, 130), dtype=st.sampled_from(DTYPES))
@settings(max_examples=60, deadline=None)
def test_padded_rows_end_in_zeros(n: int, k: int, dtype: type) -> None:
    rows = np.random.default_rng(k).random((k, n)).T.astype(dtype)
    padded = padded_rows(rows)
    assert padded.shape == (n, row_width(k, dtype))
    np.testing.assert_array_equal(padded[:, :k], rows)
    assert not padded[:, k:].any()
    assert padded.ctypes.data % 64 == 0
