"""What goes wrong on a cluster: the job goes on to the same bytes, or stops and resumes to them."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from tigon.scaling.engine import ClusterEngine, ClusterError

distributed = pytest.importorskip("distributed")


class Work:
    """A function that takes a while, tells who runs it, and leaves a mark for each time."""

    def __init__(self, marks: Path, seconds: float = 0.05) -> None:
        self.marks, self.seconds = marks, seconds

    def __call__(self, task: int) -> tuple[int, int]:
        mark = self.marks / f"{task}-{os.getpid()}-{time.monotonic_ns()}"
        mark.touch()
        time.sleep(self.seconds)
        self.go_wrong(task, len(list(self.marks.glob(f"{task}-*"))))
        mark.rename(mark.with_name(f"{mark.name}-done"))
        return task * task, os.getpid()

    def go_wrong(self, task: int, times: int) -> None:
        """Nothing, here."""

    def running_in(self) -> set[int]:
        """Process numbers that have a task begun and not ended."""
        names = [path.name.split("-") for path in self.marks.iterdir()]
        return {int(name[1]) for name in names if name[-1] != "done"}

    def times(self, task: int) -> int:
        """How often a task was begun."""
        return len(list(self.marks.glob(f"{task}-*")))


class TooLarge(Work):
    """Task 5 takes more memory than a worker may have, the first time."""

    def go_wrong(self, task: int, times: int) -> None:
        if task == 5 and times == 1:
            held = []
            for _ in range(60):
                held.append(np.ones(2**23))
                time.sleep(0.02)
            time.sleep(20)  # until the nanny looks


class Deadly(Work):
    """Task 5 ends its worker every time."""

    def go_wrong(self, task: int, times: int) -> None:
        if task == 5:
            os.kill(os.getpid(), signal.SIGKILL)


class Failing(Work):
    """Task 5 raises, as often as it says."""

    def __init__(self, marks: Path, n_failures: int) -> None:
        super().__init__(marks)
        self.n_failures = n_failures

    def go_wrong(self, task: int, times: int) -> None:
        if task == 5 and times <= self.n_failures:
            raise TimeoutError("the disk does not answer")


@contextmanager
def cluster_of(n_workers: int, **options: Any) -> Iterator[Any]:
    with (
        distributed.LocalCluster(
            n_workers=n_workers, threads_per_worker=1, dashboard_address=":0", **options
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with cluster_of(2, memory_limit=2**29) as client:
        yield client


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "shared").mkdir()
    (tmp_path / "marks").mkdir()
    return tmp_path


def finds(work: Work, client: Any, folder: Path, n: int = 40) -> list[tuple[int, int]]:
    with ClusterEngine(client, folder / "shared", 1) as engine:
        found = list(engine.ordered_map(work, range(n), 6))
    assert [value for value, _ in found] == [i * i for i in range(n)]
    assert list((folder / "shared").iterdir()) == []
    return found


def wait_until(so: Callable[[], bool]) -> None:
    while not so():
        time.sleep(0.01)


@contextmanager
def meanwhile(act: Callable[[], None]) -> Iterator[None]:
    """Do something beside the block, which must not end before."""
    thread = threading.Thread(target=act)
    thread.start()
    yield
    assert not thread.is_alive(), "the map was over before anything went wrong"


def killed(work: Work, chosen: Callable[[set[int]], set[int]], victims: list[int]) -> None:
    """Send kill -9 to workers that have a task running; ``victims`` says which."""
    wait_until(lambda: bool(chosen(work.running_in())))
    time.sleep(0.3)  # once everything flows
    while not (now := stopped(work, chosen(work.running_in()))):
        time.sleep(0.005)
    for pid in now:
        os.kill(pid, signal.SIGKILL)
        victims.append(pid)


def stopped(work: Work, pids: set[int]) -> set[int]:
    """Hold processes where they are; none when one had ended its task by then."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    time.sleep(0.01)  # signals arrive in their own time
    if pids <= work.running_in():
        return pids
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    return set()


def recomputed(work: Work, victims: list[int], n: int = 40) -> list[int]:
    """Tasks that a victim had begun and did not end."""
    lost = [
        int(path.name.split("-")[0])
        for path in work.marks.iterdir()
        if int(path.name.split("-")[1]) in victims and not path.name.endswith("done")
    ]
    assert all(work.times(task) >= 2 for task in lost)
    return lost


@contextmanager
def nannies_warnings() -> Iterator[list[str]]:
    """What nannies say of the memory of their workers; they live in this process."""
    told: list[str] = []

    class Listening(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            told.append(record.getMessage())

    logger, handler = logging.getLogger("distributed.nanny.memory"), Listening()
    logger.addHandler(handler)
    try:
        yield told
    finally:
        logger.removeHandler(handler)


def test_a_worker_is_killed(client: Any, folder: Path) -> None:
    work, victims = Work(folder / "marks"), list[int]()
    with meanwhile(lambda: killed(work, lambda pids: set(sorted(pids)[:1]), victims)):
        found = finds(work, client, folder)
    assert recomputed(work, victims)
    assert {pid for _, pid in found} - set(victims)


def test_all_workers_are_killed_and_come_back(client: Any, folder: Path) -> None:
    client.wait_for_workers(2)
    work, victims = Work(folder / "marks"), list[int]()
    with meanwhile(lambda: killed(work, lambda pids: pids if len(pids) == 2 else set(), victims)):
        found = finds(work, client, folder)
    assert len(victims) == 2
    assert len(recomputed(work, victims)) == 2
    assert {pid for _, pid in found} - set(victims)


def test_a_worker_over_its_memory_limit(client: Any, folder: Path) -> None:
    client.wait_for_workers(2)
    work = TooLarge(folder / "marks")
    with nannies_warnings() as told:
        finds(work, client, folder, 12)
    victim = next(
        int(path.name.split("-")[1])
        for path in work.marks.glob("5-*")
        if not path.name.endswith("done")
    )
    assert any(f"(pid={victim}) exceeded" in line for line in told)
    assert not psutil.pid_exists(victim)
    assert 5 in recomputed(work, [victim], 12)
    assert work.times(5) == 2


def test_a_task_that_fails_twice_is_tried_again(client: Any, folder: Path) -> None:
    work = Failing(folder / "marks", 2)
    finds(work, client, folder, 12)
    assert work.times(5) == 3


def test_a_task_that_fails_three_times_stops_the_map(client: Any, folder: Path) -> None:
    work = Failing(folder / "marks", 1000)
    told = r"the task Failing\(5\) failed 3 times .* \(TimeoutError: the disk does not answer\)"
    with pytest.raises(ClusterError, match=rf"{told}.*--resume"):
        finds(work, client, folder, 12)
    assert work.times(5) == 3
    assert list((folder / "shared").iterdir()) == []


def test_a_task_that_always_ends_its_worker_stops_the_map(folder: Path) -> None:
    import dask

    work = Deadly(folder / "marks", 0.01)
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        cluster_of(1) as client,
        pytest.raises(ClusterError, match=r"Deadly\(5\) was lost with its worker 3 times"),
    ):
        finds(work, client, folder, 8)
    assert work.times(5) == 3


def test_there_are_no_workers_for_too_long(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tigon.scaling.engine import cluster as module

    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    work = Work(folder / "marks")
    with cluster_of(1) as client, ClusterEngine(client, folder / "shared", 1) as engine:
        results = engine.ordered_map(work, range(100), 2)
        assert next(results)[0] == 0
        client.cluster.scale(0)
        with pytest.raises(ClusterError, match=r"no worker for 0 s: start some, .* --resume"):
            list(results)


def test_the_last_worker_goes_away_with_a_result(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tigon.scaling.engine import cluster as module

    monkeypatch.setattr(module, "_LOOK_EVERY_S", 0.1)
    monkeypatch.setattr(module, "_PATIENCE_S", 0.5)
    work = Work(folder / "marks")
    with cluster_of(1) as client, ClusterEngine(client, folder / "shared", 1) as engine:
        results = engine.ordered_map(work, range(100), 4)
        assert next(results)[0] == 0
        wait_until(lambda: not work.running_in() and work.times(3) == 1)
        client.cluster.scale(0)
        wait_until(lambda: not client.nthreads())
        with pytest.raises(ClusterError, match="no worker for"):
            list(results)
