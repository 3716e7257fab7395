"""What is asked for ahead is asked for once, and only while rows are read in turn."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any

import numpy as np
import pytest

from tigon.storage.reading.ahead import LIMIT_BYTES, Expected, Order
from tigon.storage.reading.caching import BoundedCache
from tigon.storage.reading.objects import Body, Identity
from tigon.storage.reading.planning import Request


class AtOnce(Executor):
    """Does work when it is given."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **options: Any) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result(fn(*args, **options))
        return future


class Counted:
    """Objects of nothing that count what is asked for."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()

    def read(self, key: str, *_: object) -> Body:
        self.asked[key] += 1
        return Body(np.empty(0, np.uint8), Identity("", 0))


def request(number: int) -> Request:
    return Request(0, str(number), 0, 10, (), None)


def test_rows_read_in_turn_tell_what_follows() -> None:
    order = Order(100)
    assert order.next_after(0, 10) == []
    assert order.next_after(10, 20) == [(20, 30), (30, 40)]
    assert order.next_after(20, 30) == [(40, 50)]
    assert order.next_after(30, 40) == [(50, 60)]


def test_threads_that_take_turns_out_of_turn() -> None:
    order = Order(1000)
    assert order.next_after(0, 10) == []
    told = [order.next_after(at, at + 10) for at in (10, 30, 20, 40)]
    assert told == [[(20, 30), (30, 40)], [(40, 50), (50, 60)], [], [(60, 70)]]


def test_the_end_is_kept_to() -> None:
    order = Order(35)
    order.next_after(0, 10)
    assert order.next_after(10, 20) == [(20, 30), (30, 35)]
    assert order.next_after(20, 30) == []
    assert order.next_after(30, 35) == []


def test_scattered_rows_tell_nothing() -> None:
    order = Order(1000)
    assert [order.next_after(at, at + 10) for at in (500, 20, 700)] == [None] * 3


def test_a_second_stream_is_told_as_the_first() -> None:
    order = Order(40)
    streams = [[order.next_after(at, at + 10) for at in range(0, 40, 10)] for _ in range(2)]
    assert streams[0] == streams[1]


def test_what_is_expected_is_claimed_once() -> None:
    objects = Counted()
    expected = Expected(objects, AtOnce())  # type: ignore[arg-type]
    expected.announce(b"next")
    expected.expect(b"next", [request(1), request(2)], [10, 10])
    assert expected.claim(request(1)) is not None
    assert expected.claim(request(1)) is None
    assert objects.asked == {"1": 1, "2": 1}


def test_a_reading_that_began_is_not_expected_any_more() -> None:
    objects = Counted()
    expected = Expected(objects, AtOnce())  # type: ignore[arg-type]
    expected.announce(b"next")
    expected.begin(b"next")
    expected.expect(b"next", [request(1)], [10])
    assert not objects.asked


def test_a_reading_that_overtook_the_one_that_tells_of_it_is_not_expected() -> None:
    objects = Counted()
    expected = Expected(objects, AtOnce())  # type: ignore[arg-type]
    expected.begin(b"next")
    expected.announce(b"next")
    expected.expect(b"next", [request(1)], [10])
    assert not objects.asked


def test_no_more_is_expected_than_there_is_room_for() -> None:
    objects = Counted()
    expected = Expected(objects, AtOnce())  # type: ignore[arg-type]
    half = LIMIT_BYTES // 2
    for name in (b"next", b"after"):
        expected.announce(name)
    expected.expect(b"next", [request(1), request(2), request(3)], [half, half, half])
    assert objects.asked == {"1": 1, "2": 1}
    expected.forget()
    expected.announce(b"after")
    expected.expect(b"after", [request(4)], [half])
    assert expected.claim(request(1)) is None
    assert expected.claim(request(4)) is not None


def test_a_value_is_loaded_once_by_many_threads() -> None:
    cache = BoundedCache[int](100, lambda value: value)
    together, loads = threading.Barrier(4), []

    def load() -> int:
        loads.append(1)
        return 7

    def get() -> None:
        together.wait()
        assert cache.get("a", load) == 7

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(loads) == 1


def test_what_was_used_longest_ago_is_forgotten() -> None:
    cache = BoundedCache[int](100, lambda value: value)
    for key in ("a", "b"):
        cache.get(key, lambda: 40)
    cache.get("a", lambda: 1)
    cache.get("c", lambda: 40)
    assert [key in cache for key in "abc"] == [True, False, True]


def test_a_failure_is_not_kept() -> None:
    cache = BoundedCache[int](100, lambda value: value)

    def fail() -> int:
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        cache.get("a", fail)
    assert cache.get("a", lambda: 3) == 3
