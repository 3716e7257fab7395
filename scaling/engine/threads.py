"""The ordered map on threads of one process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType
from typing import Self, TypeVar

from tigon.kernels.interrupts import careful_interrupts
from tigon.kernels.threads import available_threads, share
from tigon.scaling.checking import check_whole
from tigon.scaling.memory import reuse_freed
from tigon.storage.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")


def threads_of(n_threads: int | None) -> int:
    """How many threads to run; all processors for None.

    Raises
    ------
    InputError
        It is no positive whole number.
    """
    if n_threads is None:
        return available_threads()
    check_whole("n_threads", n_threads)
    if n_threads < 1:
        raise InputError(f"n_threads is {n_threads}: at least 1 is needed; set --n-threads")
    return n_threads


class ThreadEngine:
    """Runs tasks on threads of one process.

    Parameters
    ----------
    n_threads
        Threads that compute. Tasks must release the GIL to gain from them.
    window
        Tasks in flight unless a call says otherwise; twice the threads by default.

    Notes
    -----
    Leaving the context cancels what has not started and waits for what has. The C library is told
    to keep what arrays leave behind for the ones to come, in all of the process.
    """

    def __init__(self, n_threads: int, window: int | None = None) -> None:
        reuse_freed()
        self.n_threads = n_threads
        self._window = window or 2 * n_threads
        self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="tigon")
        # Reading ahead must not queue behind computing, and may feed it.
        self._readers = ThreadPoolExecutor(n_threads, thread_name_prefix="tigon-read")
        self._interrupts = ExitStack()

    @property
    def window(self) -> int:
        """Tasks in flight unless a call says otherwise."""
        return self._window

    @property
    def local(self) -> ThreadEngine:
        """The engine whose tasks run in this process and share its memory: itself."""
        return self

    def ordered_map(
        self,
        fn: Callable[[Task], Result],
        tasks: Iterable[Task],
        window: int | None = None,
        together: int = 1,
    ) -> Iterator[Result]:
        """Yield ``fn(task)`` in task order, keeping at most ``window`` in flight.

        Parameters
        ----------
        fn
            A pure function of its task.
        tasks
            Taken one by one as the window allows.
        window
            At most this many tasks in flight; the engine's own by default.
        together
            Of no matter here: how many tasks may travel together where they do travel.
        """
        return _ordered(self._pool, fn, tasks, window or self.window)

    def share(self, fn: Callable[[Task], Result], tasks: Iterable[Task]) -> list[Result]:
        """As :meth:`ordered_map`, for small tasks on this process's own memory.

        The calling thread takes part, and results are held until all of them are there. No
        task is begun that comes a window or more after one under way.
        """
        n_tasks = len(tasks) if isinstance(tasks, Sized) else self.n_threads
        n_helpers = max(0, min(self.n_threads, n_tasks) - 1)
        # The window is that of these threads, whatever that of a cluster's workers is.
        return share(fn, tasks, self._pool, n_helpers, self._window)

    def read_ahead(
        self, fn: Callable[[Task], Result], tasks: Iterable[Task], window: int = 2
    ) -> Iterator[Result]:
        """As :meth:`ordered_map`, always here, for reads whose results feed other tasks."""
        return _ordered(self._readers, fn, tasks, window)

    def __enter__(self) -> Self:
        self._interrupts.enter_context(careful_interrupts())
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._readers.shutdown(wait=True, cancel_futures=True)
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._interrupts.close()


def _ordered(
    pool: ThreadPoolExecutor,
    fn: Callable[[Task], Result],
    tasks: Iterable[Task],
    window: int,
) -> Iterator[Result]:
    flying: deque[Future[Result]] = deque()
    source = iter(tasks)
    try:
        for task in source:
            flying.append(pool.submit(fn, task))
            if len(flying) >= window:
                yield flying.popleft().result()
        while flying:
            yield flying.popleft().result()
    finally:
        for future in flying:
            future.cancel()
