"""What is read once and kept as long as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from typing import Generic, TypeVar

Value = TypeVar("Value")


class BoundedCache(Generic[Value]):
    """Values by key, each loaded by the first thread that asks while others wait for it.

    Parameters
    ----------
    limit_bytes
        What was used longest ago is forgotten beyond this.
    size
        Bytes of a value.
    """

    def __init__(self, limit_bytes: int, size: Callable[[Value], int]) -> None:
        self._limit, self._size = limit_bytes, size
        self._lock = threading.Lock()
        self._kept: OrderedDict[Hashable, Future[Value]] = OrderedDict()
        self._n_bytes = 0

    def get(self, key: Hashable, load: Callable[[], Value]) -> Value:
        """The value of ``key``; of ``load`` where it is not there."""
        with self._lock:
            kept = self._kept.get(key)
            mine: Future[Value] | None = None
            if kept is None:
                kept = mine = self._kept[key] = Future()
            self._kept.move_to_end(key)
        if mine is not None:
            self._load(key, mine, load)
        return kept.result()

    def __contains__(self, key: Hashable) -> bool:
        with self._lock:
            return key in self._kept

    def _load(self, key: Hashable, future: Future[Value], load: Callable[[], Value]) -> None:
        try:
            value = load()
        except BaseException as error:
            with self._lock:
                del self._kept[key]
            future.set_exception(error)
            return
        with self._lock:
            self._n_bytes += self._size(value)
            future.set_result(value)
            self._forget()

    def _forget(self) -> None:
        for key in list(self._kept):
            if self._n_bytes <= self._limit or len(self._kept) == 1:
                return
            if self._kept[key].done():
                self._n_bytes -= self._size(self._kept.pop(key).result())
