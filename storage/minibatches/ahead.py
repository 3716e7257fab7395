"""Doing tasks ahead of whoever takes their results."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Executor, Future
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def ahead(
    pool: Executor, fn: Callable[[Task], Result], tasks: Iterable[Task], n_ahead: int
) -> Generator[Result]:
    """Yield ``fn(task)`` in the order of the tasks, later ones begun meanwhile.

    Parameters
    ----------
    pool
        Where ``fn`` is called.
    fn
        A pure function of its task.
    tasks
        Taken one by one, by the thread that takes the results.
    n_ahead
        At most this many results are under way or waiting while one is in use.

    Notes
    -----
    The first error of ``fn`` is raised in place of its result. However the generator
    ends (at the last result, by an error, closed or dropped), what has not begun by
    then is cancelled; the pool's owner waits for what has.
    """
    flying: deque[Future[Result]] = deque()
    try:
        for task in tasks:
            flying.append(pool.submit(fn, task))
            if len(flying) > n_ahead:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        for future in flying:
            future.cancel()
