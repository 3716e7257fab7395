"""Which cluster a job runs on, and how it is reached."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tigon.scaling.checking import check_whole
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.progress import Progress, silent, whole_stage

if TYPE_CHECKING:
    from distributed import Client

CONNECT_S = 30
"""How long a scheduler may take to answer."""

_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "500ms",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.admin.system-monitor.gil.enabled": False,
}
"""Of processes of our own: what they tell of themselves on a dashboard, which is not there, takes
a twentieth of a processor that the tasks could have."""

# Workers spill from 60 % of their limit on, pause at 80 and are killed at 95.
_UNDISTURBED = 0.6


@dataclass(frozen=True, kw_only=True, slots=True)
class Cluster:
    """Where tasks run: one of the three, or none for the threads of this process.

    Parameters
    ----------
    client
        Connected already; stays open.
    scheduler
        Address of a scheduler, such as ``tcp://host:8786``.
    n_workers
        Worker processes to start on this machine, of one thread each.

    Raises
    ------
    InputError
        More than one was given, or there is nothing of the kind; the client is none, is
        asynchronous or was closed.
    """

    client: Client | None = None
    scheduler: str | None = None
    n_workers: int | None = None

    def __post_init__(self) -> None:
        given = [self.client, self.scheduler, self.n_workers]
        if sum(value is not None for value in given) > 1:
            raise InputError(
                "more than one of client, scheduler and workers was given: a job runs on one "
                "cluster; choose one of them"
            )
        if self.n_workers is not None:
            check_whole("workers", self.n_workers)
            if self.n_workers < 1:
                raise InputError(f"workers is {self.n_workers}: at least 1 is needed")
        if self.is_used:
            _check_installed()
        if self.client is not None:
            _check_client(self.client)

    @property
    def is_used(self) -> bool:
        """Whether tasks run elsewhere at all."""
        return not (self.client is None and self.scheduler is None and self.n_workers is None)

    @contextmanager
    def connect(
        self, task_bytes: int, base_bytes: int, progress: Progress = silent
    ) -> Iterator[Client]:
        """A client whose workers have the memory that tasks need.

        Parameters
        ----------
        task_bytes
            Of each task under way.
        base_bytes
            Of a worker process before it has any.
        progress
            Told of the scheduler that is waited for.

        Raises
        ------
        InputError
            The scheduler does not answer.
        MemoryLimitError
            A worker's limit is too small.
        """
        with self._opened(task_bytes + base_bytes, progress) as client:
            check_memory(client, task_bytes, base_bytes)
            yield client

    @contextmanager
    def _opened(self, worker_bytes: int, progress: Progress) -> Iterator[Client]:
        if self.client is not None:
            yield self.client
        elif self.scheduler is not None:
            with _reached(self.scheduler, progress) as client:
                yield client
        else:
            assert self.n_workers is not None
            with _started(self.n_workers, round(worker_bytes / _UNDISTURBED)) as client:
                yield client


@contextmanager
def _reached(address: str, progress: Progress) -> Iterator[Client]:
    from distributed import Client

    make: Any = Client
    waiting = f"waiting for the scheduler {address}, {CONNECT_S} s at most (scheduler)"
    try:
        with whole_stage(progress, waiting, 1):
            client = make(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError, TypeError, ImportError) as error:
        raise InputError(
            f"the scheduler {address} cannot be reached ({error}): it is the address that "
            "`dask scheduler` tells, such as tcp://host:8786; check it, and whether it runs"
        ) from error
    with client:
        yield client


@contextmanager
def _started(n_workers: int, limit_bytes: int) -> Iterator[Client]:
    import dask
    from distributed import Client, LocalCluster

    start: Any = LocalCluster
    connect: Any = Client
    with (
        dask.config.set(_QUIET),
        start(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            # Any free port: without one the scheduler would still take 8787 for its metrics.
            dashboard_address="127.0.0.1:0",
            scheduler_kwargs={"dashboard": False},
            memory_limit=limit_bytes,
            silence_logs=logging.ERROR,
        ) as cluster,
        connect(cluster, set_as_default=False) as client,
    ):
        yield client


def check_memory(client: Any, task_bytes: int, base_bytes: int) -> None:
    """Refuse workers that could not hold the tasks that they run at once.

    Raises
    ------
    MemoryLimitError
        One is too small; names what it needs.
    """
    workers = client.scheduler_info(n_workers=-1)["workers"]
    for address, worker in sorted(workers.items()):
        limit, n_threads = worker["memory_limit"], worker["nthreads"]
        needed = base_bytes + n_threads * task_bytes
        if limit and needed > limit:
            raise MemoryLimitError(
                f"the worker {address} may use {limit >> 20} MiB for {n_threads} threads: its "
                f"tasks need {-(-needed >> 20)} MiB; start it with a --memory-limit of that or "
                "more, or with fewer threads"
            )


def _check_installed() -> None:
    from importlib.util import find_spec

    if find_spec("distributed") is None:
        raise InputError(
            "the package distributed is not installed: a cluster needs it; install it with "
            "pip install 'tigon[dask]', or leave out --scheduler and --workers"
        )


def _check_client(client: Any) -> None:
    from distributed import Client

    if not isinstance(client, Client):
        raise InputError(
            f"client is a {type(client).__name__}: a distributed.Client is needed; make one with "
            "distributed.Client(cluster_or_address)"
        )
    found: Any = client
    if found.asynchronous:
        raise InputError(
            "client is asynchronous: results are waited for here; make it without asynchronous=True"
        )
    if found.status != "running":
        raise InputError(f"client is {found.status}: connect it to its scheduler anew")
