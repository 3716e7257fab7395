"""The ordered map: in order, once each, never more than the window in flight."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tigon.kernels.threads import share
from tigon.scaling.engine import ThreadEngine


@given(
    n=st.integers(0, 40),
    n_threads=st.integers(1, 5),
    window=st.integers(1, 9),
    seed=st.integers(0, 99),
)
@settings(max_examples=25, deadline=None)
def test_results_come_in_order_within_the_window(
    n: int, n_threads: int, window: int, seed: int
) -> None:
    delays = np.random.default_rng(seed).uniform(0, 0.002, n)
    lock, taken, returned, most = threading.Lock(), 0, 0, 0

    def tasks():  # type: ignore[no-untyped-def]
        nonlocal taken, most
        for i in range(n):
            with lock:
                taken += 1
                most = max(most, taken - returned)
            yield i

    def slow(i: int) -> int:
        time.sleep(delays[i])
        return i * i

    found = []
    with ThreadEngine(n_threads) as engine:
        for result in engine.ordered_map(slow, tasks(), window):
            found.append(result)
            with lock:
                returned += 1
    assert found == [i * i for i in range(n)]
    # One task more may be drawn while the consumer still holds its result.
    assert most <= window + 1


def test_a_failing_task_stops_the_map_and_cancels_the_rest() -> None:
    ran = []

    def fails(i: int) -> int:
        ran.append(i)
        if i == 3:
            raise ValueError("task 3")
        return i

    with ThreadEngine(2) as engine, pytest.raises(ValueError, match="task 3"):
        list(engine.ordered_map(fails, range(1000)))
    assert len(ran) < 20


def test_a_failing_task_of_a_list_stops_all_threads() -> None:
    for n_threads in (1, 2, 4):
        ran = []

        def fails(i: int, ran: list[int] = ran) -> None:
            ran.append(i)
            if i == 3:
                raise ValueError("task 3")
            time.sleep(0.001)

        with (
            ThreadEngine(n_threads, window=1000) as engine,
            pytest.raises(ValueError, match="task 3"),
        ):
            engine.share(fails, list(range(1000)))
        n_ran = len(ran)
        time.sleep(0.02)
        assert n_ran == len(ran) < 20


@pytest.mark.parametrize("slow", [0, 5])
def test_what_is_shared_out_is_within_a_window_of_the_oldest_under_way(slow: int) -> None:
    ran, seen, window = [], [], 4
    others_wait = threading.Event()

    def work(i: int) -> int:
        ran.append(i)
        if i == slow:
            # The other thread has done all that the window allows, and does no more.
            assert others_wait.wait(60)
            time.sleep(0.02)
            seen.append(max(ran))
        if i == slow + window - 1:
            others_wait.set()
        return i

    with ThreadEngine(2, window=window) as engine:
        assert engine.share(work, list(range(20))) == list(range(20))
    assert seen == [slow + window - 1]


def test_what_is_shared_out_is_taken_by_one_thread_at_a_time() -> None:
    taking = threading.Lock()

    def tiles() -> Iterator[int]:
        for i in range(200):
            assert taking.acquire(blocking=False)
            time.sleep(0.0001)
            taking.release()
            yield i

    with ThreadEngine(4) as engine:
        assert engine.share(lambda i: 2 * i, tiles()) == list(range(0, 400, 2))


def test_a_source_that_fails_stops_all_threads() -> None:
    def tiles() -> Iterator[int]:
        yield from range(10)
        raise ValueError("no tile 10")

    for n_threads in (1, 2, 4):
        with ThreadEngine(n_threads) as engine:
            with pytest.raises(ValueError, match="no tile 10"):
                engine.share(lambda i: i, tiles())
            assert engine.share(lambda i: i, range(3)) == [0, 1, 2]


def test_leaving_early_cancels_the_rest() -> None:
    ran = []
    with ThreadEngine(2) as engine:
        for result in engine.ordered_map(lambda i: ran.append(i) or i, range(1000)):
            if result == 5:
                break
    assert len(ran) < 30


def test_reading_ahead_may_feed_the_map() -> None:
    with ThreadEngine(1) as engine:
        total = 0
        for block in engine.read_ahead(lambda i: list(range(i)), range(20)):
            total += sum(engine.share(lambda x: x, block))
    assert total == sum(sum(range(i)) for i in range(20))


def test_what_is_shared_out_here_does_not_ask_for_the_window_of_workers() -> None:
    class OnWorkers(ThreadEngine):
        @property
        def window(self) -> int:
            raise AssertionError("a round trip to the scheduler, for every step of a fit")

    with OnWorkers(2) as engine:
        assert engine.share(lambda i: 2 * i, list(range(10))) == list(range(0, 20, 2))


def test_work_is_shared_out_though_all_threads_are_busy() -> None:
    free = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        busy = pool.submit(free.wait)
        assert share(lambda i: 2 * i, [1, 2, 3], pool, 1) == [2, 4, 6]
        assert not busy.done()
        free.set()


def test_an_error_of_another_thread_is_raised_where_work_is_shared_out() -> None:
    here, failed = threading.current_thread(), threading.Event()

    def work(i: int) -> int:
        if threading.current_thread() is here:
            assert failed.wait(60)
            return i
        failed.set()
        raise ValueError(f"tile {i}")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="tile"):
        share(work, [1, 2, 3, 4], pool, 1)
