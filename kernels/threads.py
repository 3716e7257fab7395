"""Tiles on threads, for kernels that are called from outside.

Kernels release the GIL and never start threads themselves. Inside Tigon the engine
spreads tiles over its own threads and calls the kernels of a tile directly.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

import numpy as np

Tile = TypeVar("Tile")
Result = TypeVar("Result")

_pools: dict[int, ThreadPoolExecutor] = {}
"""The one thing that lasts between calls: starting threads costs more than a tile."""


def available_threads() -> int:
    """Processors that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def map_tiles(
    fn: Callable[[Tile], Result], tiles: Sequence[Tile], n_threads: int | None
) -> list[Result]:
    """``fn`` of every tile, in order; the calling thread takes its share.

    Parameters
    ----------
    fn
        A pure function that releases the GIL.
    tiles
        Cut without regard to threads, so that results do not depend on these.
    n_threads
        Threads to use; all available ones by default.

    Raises
    ------
    TypeError, ValueError
        ``n_threads`` is not a whole number, or below 1.
    """
    wanted = available_threads() if n_threads is None else n_threads
    if isinstance(wanted, bool) or not isinstance(wanted, int | np.integer):
        raise TypeError(f"n_threads is {wanted!r}: a whole number is needed; omit it for all")
    if wanted < 1:
        raise ValueError(f"n_threads is {wanted}: at least 1 thread is needed; omit it for all")
    helpers = max(0, min(wanted, len(tiles)) - 1)
    return share(fn, tiles, _pool(wanted - 1) if helpers else None, helpers)


def share(
    fn: Callable[[Tile], Result],
    tiles: Iterable[Tile],
    pool: ThreadPoolExecutor | None,
    n_helpers: int,
    window: int | None = None,
) -> list[Result]:
    """``fn`` of every tile, in order, on the calling thread and some of a pool.

    One task is submitted for each helper, not for each tile: a tile may take less
    time than a submission. After an error no other tile is begun, and those under way
    end before it is raised.

    Parameters
    ----------
    fn
        A pure function that releases the GIL.
    tiles
        Taken one by one, by whichever thread has nothing to do.
    pool, n_helpers
        Threads that take part beside this one.
    window
        A tile is begun only if the oldest that is under way is one of so many before it: no
        more wait to be put in order. None if they may be any number.
    """
    results: dict[int, Result] = {}
    given = _InTurn(tiles, window)

    def work() -> None:
        try:
            for i, tile in given:
                results[i] = fn(tile)
                del tile  # with all that it holds, while this thread waits for another
                given.end(i)
        except BaseException:
            given.stop()
            raise

    helpers = []
    if pool:
        for _ in range(n_helpers):
            helpers.append(_Helper(work))
            pool.submit(helpers[-1].run)
    try:
        work()
    finally:
        given.stop()  # nobody may wait for a tile that never comes
        for helper in helpers:
            helper.join()
    for helper in helpers:
        if helper.error is not None:
            raise helper.error
    return [results[i] for i in range(len(results))]


class _InTurn(Generic[Tile]):
    """Numbers tiles and gives each to one of the threads that ask.

    Parameters
    ----------
    tiles
        Taken while no other thread takes one: any iterable will do.
    window
        As for :func:`share`.
    """

    def __init__(self, tiles: Iterable[Tile], window: int | None) -> None:
        self._rest = iter(tiles)
        self._window = window
        self._under_way: list[int] = []  # ascending
        self._ended = threading.Condition()
        self._n_given = 0
        self._stopped = False

    def __iter__(self) -> Iterator[tuple[int, Tile]]:
        while True:
            with self._ended:
                self._ended.wait_for(self._may_begin)
                if self._stopped:
                    return
                try:
                    taken = [next(self._rest)]
                except StopIteration:
                    return
                number = self._n_given
                self._under_way.append(number)
                self._n_given += 1
            yield number, taken.pop()  # of which nothing is held here

    def _may_begin(self) -> bool:
        if self._stopped or self._window is None or not self._under_way:
            return True
        return self._n_given - self._under_way[0] < self._window

    def end(self, number: int) -> None:
        """A tile is done."""
        with self._ended:
            self._under_way.remove(number)
            self._ended.notify_all()

    def stop(self) -> None:
        """Give no more."""
        with self._ended:
            self._stopped = True
            self._ended.notify_all()


class _Helper:
    """A thread's part in work that others do as well, of which it may find nothing left.

    Parameters
    ----------
    work
        Returns when nothing is left.

    Notes
    -----
    A mini-batch is shared out several times in some milliseconds: waiting for futures,
    or cancelling them, would take a tenth of that.
    """

    def __init__(self, work: Callable[[], None]) -> None:
        self._work: Callable[[], None] | None = work
        self._begun, self._running = threading.Lock(), threading.Lock()
        self._running.acquire()
        self.error: BaseException | None = None

    def run(self) -> None:
        """Take part, unless nobody waits any more."""
        work = self._work
        if work is None or not self._begun.acquire(blocking=False):
            return
        try:
            work()
        except BaseException as error:  # raised where the work is waited for
            self.error = error
        finally:
            self._running.release()

    def join(self) -> None:
        """Wait until it has ended; if it has not begun, it never will."""
        if self._begun.acquire(blocking=False):
            self._work = None  # with all that it holds
        else:
            self._running.acquire()


def _pool(n_threads: int) -> ThreadPoolExecutor:
    """A pool that lives as long as the process: starting threads costs more than a tile."""
    if n_threads not in _pools:
        _pools[n_threads] = ThreadPoolExecutor(n_threads, thread_name_prefix="tigon-kernel")
    return _pools[n_threads]


def _forget() -> None:
    """A forked child has none of its parent's threads."""
    _pools.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
