"""Slices are copied where they belong, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from tigon.storage.slices import copy_slices


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32, np.int64])
def test_slices_lie_where_they_were_asked_for(dtype: type) -> None:
    rng = np.random.default_rng(0)
    source = rng.integers(1, 200, 500).astype(dtype)
    lengths = rng.integers(0, 9, 60)
    starts = rng.integers(0, len(source) - 9, 60)
    # Two values between any two of them, which stay as they are.
    places = np.cumsum(lengths + 2) - lengths
    onto = np.zeros(places[-1] + lengths[-1] + 2, dtype)
    expected = onto.copy()
    for start, length, place in zip(starts, lengths, places, strict=True):
        expected[place : place + length] = source[start : start + length]
    source.flags.writeable = False
    copy_slices(source, starts, starts + lengths, onto, places)
    np.testing.assert_array_equal(onto, expected)


def test_no_slice_copies_nothing() -> None:
    onto, none = np.arange(3), np.zeros(0, np.int64)
    copy_slices(np.zeros(0, np.int64), none, none, onto, none)
    np.testing.assert_array_equal(onto, np.arange(3))


@pytest.mark.parametrize(("start", "stop", "place"), [(-1, 2, 0), (3, 6, 0), (0, 3, 2), (0, 1, -1)])
def test_nothing_is_read_or_written_outside(start: int, stop: int, place: int) -> None:
    first, last, where = (np.array([each]) for each in (start, stop, place))
    with pytest.raises(ValueError, match="slice"):
        copy_slices(np.ones(5), first, last, np.ones(4), where)


def test_arrays_that_do_not_fit_are_refused() -> None:
    one, two = np.array([0]), np.array([0, 1])
    locked = np.ones(4)
    locked.flags.writeable = False
    for source, onto, places in (
        (np.ones(4, np.float32), np.ones(4), one),
        (np.ones(8)[::2], np.ones(4), one),
        (np.ones(4), locked, one),
        (np.ones(4), np.ones(4), two),
    ):
        with pytest.raises(ValueError, match=r"slices|shapes"):
            copy_slices(source, one, one + 1, onto, places)
