"""Plans of requests against brute force: each value in its place, each chunk once."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tigon.storage.reading.codecs import parse_chain
from tigon.storage.reading.executing import execute
from tigon.storage.reading.layout import ArrayLayout
from tigon.storage.reading.objects import Body, Coalescing, Identity
from tigon.storage.reading.planning import Plan, ShardIndex, cut, make_plan

BARE = parse_chain([{"name": "bytes"}], np.dtype(np.uint16))
KNOWN = Identity("tag", 1 << 20)
assert BARE is not None


class Shards:
    """Shards in memory: chunks of bare numbers with gaps between them, in any order."""

    where = "memory"
    fetchers = None

    def __init__(self, layout: ArrayLayout, coalescing: Coalescing, seed: int) -> None:
        self.layout, self.coalescing = layout, coalescing
        self.values = np.arange(layout.length, dtype=np.uint16)
        self.files: dict[str, NDArray[np.uint8]] = {}
        self.spans: dict[int, NDArray[np.int64]] = {}
        rng = np.random.default_rng(seed)
        n_chunks = -(-layout.length // layout.chunk)
        for shard in range(-(-n_chunks // layout.shard_chunks)):
            self._write(shard, n_chunks, rng)

    def _write(self, shard: int, n_chunks: int, rng: np.random.Generator) -> None:
        layout, written = self.layout, bytearray()
        spans = np.full((layout.shard_chunks, 2), -1, np.int64)
        for place in rng.permutation(layout.shard_chunks):
            number = shard * layout.shard_chunks + int(place)
            first = number * layout.chunk
            if number >= n_chunks:
                continue
            if rng.random() < 0.1:  # not stored
                self.values[first : first + layout.chunk] = layout.fill
                continue
            written += bytes(int(rng.integers(0, 40)))
            padded = np.zeros(layout.chunk, np.uint16)
            stored = self.values[first : first + layout.chunk]
            padded[: len(stored)] = stored
            spans[place] = len(written), len(written) + padded.nbytes
            written += padded.tobytes()
        self.files[layout.key(shard)] = np.frombuffer(bytes(written), np.uint8)
        self.spans[shard] = spans

    def index_of(self, _: int, shard: int) -> ShardIndex:
        return ShardIndex(self.spans[shard], KNOWN)

    def read(self, key: str, start: int, stop: int | None, known: Identity | None) -> Body:
        assert known == KNOWN
        return Body(self.files[key][start:stop], KNOWN)

    def read_end(self, key: str, n_bytes: int) -> Body:
        return Body(self.files[key][-n_bytes:], KNOWN)

    def close(self) -> None:
        """Nothing is open."""


def make_layout(length: int, chunk: int, shard_chunks: int) -> ArrayLayout:
    assert BARE is not None
    return ArrayLayout(
        name="X/data",
        dtype=np.dtype(np.uint16),
        length=length,
        chunk=chunk,
        shard_chunks=shard_chunks,
        fill=np.uint16(7),
        key_start="X/data/c/",
        chain=BARE,
        index_chain=None,
        index_bytes=16 * shard_chunks,
        index_first=False,
    )


@st.composite
def cases(draw: Any) -> tuple[Shards, NDArray[np.int64]]:
    length = draw(st.integers(1, 400))
    layout = make_layout(length, draw(st.integers(1, 30)), draw(st.integers(2, 5)))
    coalescing = Coalescing(draw(st.integers(0, 100)), draw(st.integers(1, 300)))
    places = st.integers(0, length)
    runs = draw(st.lists(st.tuples(places, places).map(sorted), min_size=1, max_size=10))
    return Shards(layout, coalescing, draw(st.integers(0, 99))), np.array(runs, np.int64)


def plan_of(shards: Shards, ranges: NDArray[np.int64], n_arrays: int = 1) -> Plan:
    layouts = [shards.layout] * n_arrays
    pieces = [cut(ranges, layout.chunk) for layout in layouts]
    n_values = int(np.diff(ranges).sum())
    return make_plan(pieces, layouts, shards.index_of, shards.coalescing, n_values)


@settings(deadline=None)
@given(case=cases())
def test_values_come_as_slices_give_them(case: tuple[Shards, NDArray[np.int64]]) -> None:
    shards, ranges = case
    plan = pickle.loads(pickle.dumps(plan_of(shards, ranges, n_arrays=2)))
    expected = np.concatenate([shards.values[start:stop] for start, stop in ranges])
    for read in execute(plan, [shards.layout] * 2, shards, None, 0):
        assert read.dtype == expected.dtype
        np.testing.assert_array_equal(read, expected)


@settings(deadline=None)
@given(case=cases())
def test_each_chunk_is_asked_for_once(case: tuple[Shards, NDArray[np.int64]]) -> None:
    shards, ranges = case
    plan = plan_of(shards, ranges)
    asked = Counter(chunk.number for request in plan.requests for chunk in request.chunks)
    asked.update(number for _, number in plan.unstored)
    chunk = shards.layout.chunk
    needed = {value // chunk for start, stop in ranges.tolist() for value in range(start, stop)}
    assert asked == Counter(needed)
    for request in plan.requests:
        for _, start, stop in request.chunks:
            assert request.start <= start < stop <= request.stop


@settings(deadline=None)
@given(case=cases())
def test_ranges_are_joined_as_far_as_they_may_be(case: tuple[Shards, NDArray[np.int64]]) -> None:
    shards, ranges = case
    plan, how = plan_of(shards, ranges), shards.coalescing
    by_key: dict[str, list[tuple[int, int, int]]] = {}
    for request in plan.requests:
        size = request.stop - request.start
        assert size <= how.request_bytes or len(request.chunks) == 1
        gaps = [b.start - a.stop for a, b in pairwise(request.chunks)]
        assert all(0 <= gap <= how.gap_bytes for gap in gaps)
        ends = (request.start, request.stop, request.chunks[0].stop)
        by_key.setdefault(request.key, []).append(ends)
    for ends in by_key.values():
        ends.sort()
        for one, next_one in pairwise(ends):
            too_far = next_one[0] - one[1] > how.gap_bytes
            too_large = next_one[2] - one[0] > how.request_bytes
            assert too_far or too_large


@given(case=cases())
@settings(deadline=None, max_examples=20)
def test_plans_are_the_same_every_time(case: tuple[Shards, NDArray[np.int64]]) -> None:
    shards, ranges = case
    one, other = plan_of(shards, ranges), plan_of(shards, ranges)
    assert (one.requests, one.unstored) == (other.requests, other.unstored)


def test_a_block_of_consecutive_chunks_is_few_requests() -> None:
    shards = Shards(make_layout(4000, 10, 100), Coalescing(1000, 1 << 20), seed=0)
    plan = plan_of(shards, np.array([[0, 4000]]))
    assert len(plan.requests) == 4  # one for each shard


def test_an_object_of_one_chunk_is_read_whole() -> None:
    layout = replace(make_layout(40, 10, 1))
    shards = Shards(layout, Coalescing(0, 100), seed=1)
    plan = plan_of(shards, np.array([[5, 25]]))
    assert [(r.key, r.start, r.stop) for r in plan.requests] == [
        (f"X/data/c/{number}", 0, None) for number in range(3)
    ]


def test_nothing_is_asked_for_of_empty_ranges() -> None:
    shards = Shards(make_layout(40, 10, 2), Coalescing(0, 100), seed=0)
    plan = plan_of(shards, np.array([[3, 3], [9, 9]]))
    assert plan.requests == ()
    assert [len(read) for read in execute(plan, [shards.layout], shards, None, 0)] == [0]


@pytest.mark.parametrize("name", ["zfpy", "transpose", "vlen-utf8", "numcodecs.delta"])
def test_chains_that_are_not_known_are_left_to_zarr(name: str) -> None:
    bare: dict[str, Any] = {"name": "bytes", "configuration": {"endian": "little"}}
    assert parse_chain([{"name": name}], np.dtype(np.uint16)) is None
    assert parse_chain([{"name": name}, bare], np.dtype(np.uint16)) is None
    assert parse_chain([bare, {"name": name}], np.dtype(np.uint16)) is None
