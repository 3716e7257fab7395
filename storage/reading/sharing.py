"""Things that one process makes once for all that use them, and ends with the last user."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Shared(Generic[Thing]):
    """Things by key, each counted by its users.

    Parameters
    ----------
    make
        Makes the thing of a key.
    end
        Ends a thing that nobody uses any more.
    """

    def __init__(self, make: Callable[[Hashable], Thing], end: Callable[[Thing], None]) -> None:
        self._make, self._end = make, end
        self._lock = threading.Lock()
        self._things: dict[Hashable, tuple[Thing, int]] = {}

    def acquire(self, key: Hashable) -> Thing:
        """The thing of ``key``, made where there is none."""
        with self._lock:
            thing, n_users = self._things.get(key) or (self._make(key), 0)
            self._things[key] = thing, n_users + 1
            return thing

    def release(self, key: Hashable) -> None:
        """One user less."""
        with self._lock:
            thing, n_users = self._things.pop(key)
            if n_users > 1:
                self._things[key] = thing, n_users - 1
                return
        self._end(thing)


_most_cpus = sys.maxsize


def use_cpus(n: int) -> None:
    """Let what is opened from now on take at most ``n`` processors of this process's."""
    global _most_cpus
    _most_cpus = n


def available_cpus() -> int:
    """Processors that this process may use."""
    has_affinity = hasattr(os, "sched_getaffinity")
    found = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(found, _most_cpus)


def _end_pool(pool: ThreadPoolExecutor) -> None:
    pool.shutdown(wait=True, cancel_futures=True)


def _make_fetchers(key: Hashable) -> ThreadPoolExecutor:
    assert isinstance(key, tuple)
    return ThreadPoolExecutor(key[1], thread_name_prefix="tigon-fetch")


def _make_decoders(key: Hashable) -> ThreadPoolExecutor:
    assert isinstance(key, int)
    return ThreadPoolExecutor(key, thread_name_prefix="tigon-decode")


FETCHERS = Shared(_make_fetchers, _end_pool)
"""Threads by (host, requests in flight): as many as there may be requests."""

DECODERS = Shared(_make_decoders, _end_pool)
"""Threads by their number, which help the threads that read."""
