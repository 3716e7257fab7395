"""Memory used again: never while somebody has the array that was in it."""

from __future__ import annotations

import numpy as np
import pytest

from tigon.storage.recycling import Recycled

DTYPE = np.dtype(np.uint16)


def place(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_is_used_again_once_an_array_and_its_views_are_gone() -> None:
    memory = Recycled()
    first = memory.empty(100, DTYPE)
    assert (first.shape, first.dtype, first.flags.writeable) == ((100,), DTYPE, True)
    first[:] = 7
    where, view = place(first), first[10:20].reshape(2, 5)
    del first
    other = memory.empty(100, DTYPE)
    other[:] = 8
    assert place(other) != where
    assert (view == 7).all()
    del view
    assert place(memory.empty(90, DTYPE)) == where


def test_a_buffer_of_an_array_keeps_its_memory() -> None:
    memory = Recycled()
    array = memory.empty(10, DTYPE)
    array[:] = 3
    buffer = memoryview(array)
    del array
    memory.empty(10, DTYPE)[:] = 4
    assert buffer.tolist() == [3] * 10


def test_the_smallest_block_that_fits_is_taken_and_other_types_have_their_own() -> None:
    memory = Recycled()
    small, large = memory.empty(100, DTYPE), memory.empty(1000, DTYPE)
    wheres = place(small), place(large)
    del large, small
    # All at once: where the other was alive the memory of its own was not free.
    taken = memory.empty(80, DTYPE), memory.empty(500, DTYPE)
    assert (place(taken[0]), place(taken[1])) == wheres
    floats = memory.empty(20, np.dtype(np.float32))
    assert floats.dtype == np.float32
    assert place(floats) not in wheres


def test_what_fits_nowhere_takes_the_place_of_the_largest() -> None:
    memory = Recycled()
    blocks = [memory.empty(n, DTYPE) for n in (10, 20, 30)]
    smallest = place(blocks[0])
    del blocks
    large = memory.empty(5000, DTYPE)
    rest = [memory.empty(10, DTYPE) for _ in range(2)]
    assert smallest in map(place, rest)
    assert len(memory._free[DTYPE]) == 0
    del large, rest
    assert sum(len(block) >= 5000 for block in memory._free[DTYPE]) == 1


@pytest.mark.parametrize("n_kept", [0, 2])
def test_no_more_blocks_wait_than_are_kept(n_kept: int) -> None:
    memory = Recycled(n_kept)
    arrays = [memory.empty(10, DTYPE) for _ in range(5)]
    del arrays
    assert len(memory._free[DTYPE]) == n_kept


def test_an_array_may_be_empty() -> None:
    assert Recycled().empty(0, DTYPE).shape == (0,)
