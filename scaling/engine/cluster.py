"""The ordered map on the workers of a Dask cluster.

The function of a map is pickled once, into a folder that client and workers share, and
each worker process loads it once; a task is its argument. Nothing is scattered, so that
the scheduler holds no more than the tasks under way and no worker holds what others
need. Workers keep nothing between tasks: what is lost with one is done again by another,
and results are taken in order, each once.
"""

from __future__ import annotations

import asyncio
import pickle
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent import futures
from concurrent.futures import CancelledError
from functools import lru_cache
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from tigon.scaling.engine.threads import ThreadEngine
from tigon.scaling.memory import reuse_freed
from tigon.storage.errors import InputError, TigonError
from tigon.storage.reading.sharing import use_cpus

if TYPE_CHECKING:
    from distributed import Client

Task = TypeVar("Task")
Result = TypeVar("Result")

RETRIES = 2
"""How often a task that raised is tried again."""

_RESUBMISSIONS = 2
"""How often a task is submitted again after the workers that ran it were lost."""

_SMALL_BYTES = 1 << 18
"""Arguments up to this size travel with the task; larger ones lie in the folder."""

_PATIENCE_S = 300.0
"""How long to wait when there is no worker at all."""

_LOOK_EVERY_S = 5.0
"""How often to look after the scheduler and the workers while a task takes long."""

_BROKEN_S, _MOST_BROKEN = 0.5, 20
"""Pause after a connection broke while a result was fetched, and how often that may be."""

_AGAIN = "run again, a job with --resume"
"""The way out when the cluster could not go on; fits of estimators start from the beginning."""


class ClusterError(TigonError):
    """The cluster cannot go on: what was computed so far is in the checkpoint."""


class ClusterEngine(ThreadEngine):
    """A thread engine whose ordered map runs on the workers of a Dask cluster.

    Parameters
    ----------
    client
        Connected to the scheduler.
    folder
        An existing folder that this process and all workers see under the same path.
    n_threads
        Threads of this process, for what is done here: folding and updates.
    window
        Tasks in flight of maps that run here.
    needed
        What else workers must see.
    prepare
        Called once on each worker that there is, to load what tasks need before the first one.

    Raises
    ------
    InputError
        There is no worker, or one does not see the folder, has another version, or lacks
        what tasks need.

    Notes
    -----
    A task may run more than once, and must be a pure function of its argument, apart
    from files whose bytes it always writes the same.
    """

    def __init__(
        self,
        client: Client,
        folder: Path,
        n_threads: int,
        window: int | None = None,
        needed: Sequence[Path] = (),
        prepare: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(n_threads, window)
        _drives.set()
        check_workers(client, folder, needed, prepare)
        self._client: Any = client  # whose methods have no types
        self._folder = folder
        self._local = ThreadEngine(n_threads, window)
        # Of this engine alone: workers remember functions by name, and live longer.
        self._name, self._n_maps = uuid4().hex, 0

    @property
    def local(self) -> ThreadEngine:
        """The engine whose tasks run in this process and share its memory."""
        return self._local

    @property
    def window(self) -> int:
        """Tasks in flight unless a call says otherwise: two for each thread of a worker."""
        return 2 * max(1, sum(map(int, self._client.nthreads().values())))

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
            A pure function of its task that can be pickled.
        tasks
            Taken one by one as the window allows.
        window
            At most this many tasks in flight, or groups of them.
        together
            So many consecutive tasks are sent as one, fewer towards the end, and their results
            come back as one: a round trip costs milliseconds. Results are those of single tasks.

        Raises
        ------
        TigonError
            What a task raised; or the cluster was lost.
        """
        if together > 1:
            grouped = _grouped(tasks, together, window or self.window)
            groups = self.ordered_map(_Together(fn), grouped, window)
            yield from chain.from_iterable(groups)
            return
        self._n_maps += 1
        name = f"map-{self._name}-{self._n_maps}"
        path = _written(self._folder / f"{name}.pkl", _pickled(fn))
        flying: deque[_Flight] = deque()
        most = ask_at = 0
        try:
            for n, task in enumerate(tasks):
                if n == ask_at:  # workers come and go, and to ask is a round trip of its own
                    most = window or self.window
                    ask_at += most
                told = f"{getattr(fn, '__name__', type(fn).__name__)}({task})"
                flying.append(_Flight(self._client, path, f"{name}-{n}", task, told))
                if len(flying) >= most:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            for flight in flying:
                flight.cancel()
            path.unlink(missing_ok=True)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._local.__exit__(kind, error, trace)
        super().__exit__(kind, error, trace)


class _Together(Generic[Task, Result]):
    """A function of several tasks: one after the other, on the same worker."""

    def __init__(self, fn: Callable[[Task], Result]) -> None:
        self._fn = fn
        self.__name__ = str(getattr(fn, "__name__", type(fn).__name__))

    def __call__(self, tasks: Sequence[Task]) -> list[Result]:
        return [self._fn(task) for task in tasks]


class _Group(list[Task]):
    """Tasks that are sent as one, named as each of them is."""

    def __str__(self) -> str:
        return ", ".join(map(str, self))


def _grouped(tasks: Iterable[Task], size: int, window: int) -> Iterator[_Group[Task]]:
    """Consecutive tasks, ``size`` at a time.

    Where it is known how many there are, a group takes no more than a share of those that are left
    for each of ``window`` places, so that all workers have some at the end.
    """
    left = len(tasks) if isinstance(tasks, Sized) else sys.maxsize
    source = iter(tasks)
    while group := _Group(islice(source, max(1, min(size, left // window)))):
        yield group
        left -= len(group)


class _Flight:
    """One task under way."""

    def __init__(self, client: Any, fn: Path, key: str, task: Any, told: str) -> None:
        self._client, self._fn, self._key, self._told = client, fn, key, told
        packed = pickle.dumps(task, pickle.HIGHEST_PROTOCOL)
        self._file: Path | None = None
        self._argument: bytes | Path = packed
        if len(packed) > _SMALL_BYTES:
            self._argument = self._file = _written(fn.with_name(f"{key}.pkl"), packed)
        self._n_submitted = 0
        self._future = self._submit()

    def _submit(self) -> Any:
        self._n_submitted += 1
        key = f"{self._key}-{self._n_submitted}"
        return self._client.submit(
            _run, self._fn, self._argument, key=key, pure=False, retries=RETRIES
        )

    def result(self) -> Any:
        """Wait for it, and submit it again when all workers that ran it were lost."""
        from distributed import KilledWorker
        from distributed.comm.core import CommClosedError

        n_broken = 0
        while True:
            try:
                found = self._wait()
            except CommClosedError as error:
                # Of this process's own connection, while it asked for the result: a worker
                # went away, or the scheduler, which the client may not have seen yet.
                n_broken += 1
                time.sleep(_BROKEN_S)
                if n_broken > _MOST_BROKEN or not _is_connected(self._client):
                    raise _lost(self._client) from error
            except (KilledWorker, CancelledError, asyncio.CancelledError) as error:
                if not _is_connected(self._client):
                    raise _lost(self._client) from error
                if self._n_submitted > _RESUBMISSIONS:
                    raise ClusterError(
                        f"the task {self._told} was lost with its worker {self._n_submitted} "
                        f"times ({error}): a worker may need more memory; see the logs of the "
                        f"workers, and {_AGAIN}"
                    ) from error
                self._future = self._submit()
            except TigonError:
                raise
            except Exception as error:
                raise ClusterError(
                    f"the task {self._told} failed {RETRIES + 1} times on the workers "
                    f"({type(error).__name__}: {error}): mend that, and {_AGAIN}"
                ) from error
            else:
                self._forget()
                return found

    def _wait(self) -> Any:
        """The result, as soon as it is there; CancelledError when the scheduler is gone."""
        # Not gathered in this thread: when the worker that holds the result goes away, Dask
        # waits for another to compute it again, without end.
        found = self._client.gather(self._future, direct=True, asynchronous=True)
        coming = asyncio.run_coroutine_threadsafe(found, self._client.loop.asyncio_loop)
        try:
            self._look_after(coming)
            return coming.result()
        finally:
            coming.cancel()

    def _look_after(self, coming: futures.Future[Any]) -> None:
        """Wait for a result while there are a scheduler and workers."""
        idle = 0.0
        # Not result(timeout): its error could be taken for a task's own.
        while not futures.wait([coming], _LOOK_EVERY_S).done:
            if not _is_connected(self._client):
                raise CancelledError
            idle = 0.0 if self._client.nthreads() else idle + _LOOK_EVERY_S
            if idle >= _PATIENCE_S:
                raise ClusterError(
                    f"there has been no worker for {idle:.0f} s: start some, and {_AGAIN}"
                )

    def cancel(self) -> None:
        """It is not wanted any more."""
        self._future.cancel()
        self._forget()

    def _forget(self) -> None:
        self._future.release()
        if self._file is not None:
            self._file.unlink(missing_ok=True)


_drives = threading.Event()
"""Set in a process that has had an engine."""


@lru_cache(maxsize=2)  # what a function holds, each of them holds
def _loaded(path: str) -> Callable[[Any], Any]:
    """The function of a map; a worker process reads it once."""
    from distributed import get_worker

    reuse_freed()
    # A node may have a worker for each of its processors: none decodes on those of the others.
    # A worker within the driver's process is left alone, as its user's atlases are opened here.
    if not _drives.is_set():
        use_cpus(get_worker().state.nthreads)
    fn: Callable[[Any], Any] = pickle.loads(Path(path).read_bytes())
    return fn


def _run(fn: Path, argument: bytes | Path) -> Any:
    """What a worker does."""
    packed = argument if isinstance(argument, bytes) else argument.read_bytes()
    return _loaded(str(fn))(pickle.loads(packed))


def _pickled(fn: Any) -> bytes:
    from distributed.protocol import pickle as by_value

    dumps: Any = by_value.dumps  # of functions inside functions, too
    try:
        packed: bytes = dumps(fn)
    except TigonError:
        raise
    except Exception as error:
        raise InputError(
            f"the data cannot be sent to workers ({type(error).__name__}: {error}): they need what "
            "another process can open; write an atlas of them with tigon.write_atlas, or leave "
            "out the client"
        ) from error
    return packed


def _written(path: Path, content: bytes) -> Path:
    """Write a file whole: a worker may look at any time."""
    aside = path.with_suffix(".partial")
    aside.write_bytes(content)
    return aside.replace(path)


def _is_connected(client: Any) -> bool:
    return bool(client.status == "running")


def _lost(client: Any) -> ClusterError:
    return ClusterError(
        f"the scheduler at {_address(client)} is gone: start it again, and {_AGAIN}"
    )


def _address(client: Any) -> str:
    return str(client.scheduler.address) if client.scheduler else "an unknown address"


def _seen(
    places: Sequence[Path], prepare: Callable[[], None] | None = None
) -> tuple[list[Path], str]:
    """What of some places a worker does not see, and its version of Tigon."""
    from importlib.metadata import version

    if prepare is not None:
        prepare()
    return [place for place in places if not place.exists()], version("tigon")


def check_workers(
    client: Any,
    folder: Path,
    needed: Sequence[Path] = (),
    prepare: Callable[[], None] | None = None,
) -> None:
    """Refuse a cluster that cannot do the work, and let its workers ``prepare`` for it.

    Raises
    ------
    InputError
        There is no worker, or one does not see what it needs, cannot import it, or has
        another version.
    """
    token = _written(folder / f"token-{uuid4().hex}", b"")
    places = [token, *needed]
    try:
        answers: dict[str, tuple[list[Path], str]] = client.run(_seen, places, prepare)
        _, own = _seen(places)
    except ModuleNotFoundError as error:
        raise InputError(
            f"a worker cannot import Tigon ({error}): install it there, the same version as here"
        ) from error
    finally:
        token.unlink()
    if not answers:
        raise InputError(
            f"the scheduler at {_address(client)} has no workers: at least one is needed; start "
            "some first"
        )
    for worker, (unseen, version) in sorted(answers.items()):
        if unseen:
            place = folder if unseen[0] == token else unseen[0]
            raise InputError(
                f"the worker {worker} does not see {place}: it must be on a file system that all "
                "workers share; choose another place (scratch in Python, --out otherwise)"
            )
        if version != own:
            raise InputError(
                f"the worker {worker} has Tigon {version} and this process {own}: results would "
                "depend on who computes them; install the same version on all"
            )
