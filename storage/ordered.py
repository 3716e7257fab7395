"""Results in the order of their tasks, a few tasks ahead of whoever takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ordered(
    pool: Executor, fn: Callable[[Task], Result], tasks: Iterable[Task], window: int
) -> Generator[Result]:
    """Yield ``fn(task)`` in task order, with at most ``window`` tasks under way or waiting.

    Tasks that have not begun are cancelled when one fails or the caller stops: close the
    generator to stop early.
    """
    waiting: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            waiting.append(pool.submit(fn, task))
            if len(waiting) >= window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()
