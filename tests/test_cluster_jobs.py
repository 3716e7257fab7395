"""Whole jobs on a cluster: the bytes of threads, also after the worst that can happen."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Timer
from typing import Any

import pytest
from atlases import planted
from builders import write_h5ad
from command_line import refused, start
from faulty_server import Fault, serve

import tigon
from tigon.scaling.job import job_place
from tigon.storage.errors import InputError, TigonError
from tigon.storage.runs.run import Run

distributed = pytest.importorskip("distributed")

OPTIONS: dict[str, Any] = dict(
    batch_key="batch",
    n_components=4,
    n_epochs=2,
    n_genes=80,
    minibatch_size=40,
    minibatches_per_task=2,
    staleness=3,
    umap=False,
    report=False,
    n_threads=1,
)


class Counting(distributed.diagnostics.plugin.SchedulerPlugin):  # type: ignore[misc]
    """Counts tasks by the worker that did them."""

    name = "counting"

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()

    def transition(self, key: Any, start: str, finish: str, *told: Any, **more: Any) -> None:
        if finish == "memory" and str(key).startswith("map-"):
            self.done[more["worker"]] += 1


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("atlas") / "atlas.zarr"
    tigon.write_atlas(tigon.open(planted(n=1600, m=90, k=4, d=3).adata), place)
    return place


@pytest.fixture(scope="module")
def whole(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of one thread, which nothing disturbed."""
    return tigon.integrate(atlas, out=tmp_path_factory.mktemp("whole") / "run.zarr", **OPTIONS)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit=2**31
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def assert_same(one: Run, other: Run) -> None:
    for part in ("W", "A", "B"):
        assert getattr(one, part).tobytes() == getattr(other, part).tobytes(), part
    assert {name: V.tobytes() for name, V in one.V.items()} == {
        name: V.tobytes() for name, V in other.V.items()
    }
    a, b = one.to_anndata(), other.to_anndata()
    for name in ("X_inmf", "X_inmf_aligned"):
        assert a.obsm[name].tobytes() == b.obsm[name].tobytes()


def tasks_known(client: Any) -> int:
    known: int = client.run_on_scheduler(lambda dask_scheduler: len(dask_scheduler.tasks))
    return known


def test_two_threads_give_the_bytes_of_one(atlas: Path, whole: Run, out: Path) -> None:
    assert len(whole.history["step"]) >= 40
    assert_same(tigon.integrate(atlas, out=out, **OPTIONS | {"n_threads": 2}), whole)


# The smallest last: the tests after it need no more, and processes cost the machine.
@pytest.mark.parametrize("n_workers", [4, 2, 1])
def test_workers_give_the_bytes_of_threads(
    atlas: Path, whole: Run, cluster: Any, client: Any, out: Path, n_workers: int
) -> None:
    cluster.scale(n_workers)
    while len(client.nthreads()) != n_workers:
        time.sleep(0.05)
    client.register_plugin(Counting())
    assert_same(tigon.integrate(atlas, out=out, client=client, **OPTIONS), whole)
    done = client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.plugins["counting"].done)
    client.unregister_scheduler_plugin("counting")
    assert len(done) == n_workers
    assert min(done.values()) >= 2
    assert sum(done.values()) >= 40
    assert [path.name for path in out.parent.iterdir()] == ["run.zarr"]
    for _ in range(100):
        if not tasks_known(client):
            break
    assert tasks_known(client) == 0


def test_fitting_with_a_client_records_its_schedule(
    atlas: Path, client: Any, tmp_path: Path
) -> None:
    options: dict[str, Any] = dict(n_components=4, n_epochs=1, n_genes=80, minibatch_size=20)
    here = tigon.OnlineINMF(**options, minibatches_per_task=4, staleness=7)
    there = tigon.OnlineINMF(**options)
    here.fit(atlas, batch_key="batch")
    there.fit(atlas, batch_key="batch", client=client, scratch=tmp_path)
    assert here.W_.tobytes() == there.W_.tobytes()
    assert here.objective_ == there.objective_
    assert list(tmp_path.iterdir()) == []


def test_what_workers_cannot_open_is_refused(client: Any, out: Path) -> None:
    counts = planted(n=600, m=90, k=4).adata
    with pytest.raises(InputError, match=r"cannot be sent to another process.*`tigon ingest`"):
        tigon.integrate(counts, out=out, client=client, **OPTIONS)
    with pytest.raises(InputError, match=r"cannot be sent to another process.*`tigon ingest`"):
        tigon.OnlineINMF(4).fit(counts, batch_key="batch", client=client)
    assert list(out.parent.iterdir()) == []


def test_workers_of_the_command_line(atlas: Path, out: Path) -> None:
    options = ["--batch-key", "batch", "-k", "4", "--n-epochs", "1", "--n-genes", "80"]
    command = ["integrate", atlas, *options, "--no-umap", "--no-report", "--out", out]
    small = refused(out.parent, *command, "--workers", "2", "--memory-limit", "10MiB")
    assert re.search(r"memory limit of 10.0 MiB is too small: .* set --memory-limit \d+MiB", small)
    assert "choose one of them" in refused(
        out.parent, *command, "--workers", "2", "--scheduler", "tcp://127.0.0.1:9"
    )
    assert "cannot be sent to another process" in refused(
        out.parent, "integrate", counts_file(out), *command[2:], "--workers", "1"
    )
    process = start(*command, "--workers", "1", "--minibatches-per-task", "2", folder=out.parent)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    chosen = Run.open(out).config["inmf"]
    assert (chosen["minibatches_per_task"], chosen["staleness"]) == (2, 7)


def counts_file(out: Path) -> Path:
    """Counts that Tigon did not write."""
    return write_h5ad(planted(n=600, m=90, k=4, d=3).adata, out.with_name("a.h5ad"))


KILLED = """
import os, signal
import tigon
from tigon.scaling.inmf import checkpoint
checkpoint.EVERY_SECONDS = 0
def progress(stage, done, total, **figures):
    if stage == "epoch 2" and done > total / 2:
        os.kill(os.getpid(), signal.SIGKILL)
tigon.integrate({atlas!r}, out={out!r}, scheduler={address!r}, progress=progress, **{options!r})
"""


def test_the_client_is_killed(
    atlas: Path, whole: Run, cluster: Any, client: Any, out: Path
) -> None:
    address = cluster.scheduler_address
    code = KILLED.format(atlas=str(atlas), out=str(out), address=address, options=OPTIONS)
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert killed.returncode == -9, killed.stderr
    assert next(job_place(out, out.parent).glob("*/checkpoint.npz")).is_file()
    told: set[str] = set()

    def note(stage: str, done: int, total: int, **figures: float) -> None:
        told.add(stage)

    assert_same(
        tigon.integrate(atlas, out=out, client=client, resume=True, progress=note, **OPTIONS), whole
    )
    assert not told & {"reading cells", "packing cells", "epoch 1"}
    assert [path.name for path in out.parent.iterdir()] == ["run.zarr"]


def deadly(mark: Path) -> None:
    """On a worker: it is killed when the genes of a bucket are written and the counts are not."""
    import os
    import signal

    from tigon.storage.packs.writer import BucketWriter

    whole = BucketWriter._write

    def fatal(self: BucketWriter, bucket: Any, array: int, pieces: Any) -> Any:
        if array == 1:
            assert bucket.number % 2 == 0, "it begins with the counts"
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(self, bucket, array, pieces)

    BucketWriter._write = fatal  # type: ignore[method-assign]


def test_a_worker_is_killed_while_it_writes_the_pack(
    atlas: Path, whole: Run, client: Any, out: Path
) -> None:
    mark = out.with_name("killed")
    client.run(deadly, mark)
    run = tigon.integrate(atlas, out=out, client=client, **OPTIONS)
    assert mark.exists()
    assert_same(run, whole)


SCHEDULER = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    with LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


def test_the_scheduler_is_killed(atlas: Path, whole: Run, out: Path, tmp_path: Path) -> None:
    script = tmp_path / "scheduler.py"
    script.write_text(SCHEDULER)
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        address = process.stdout.readline().strip()

        def progress(stage: str, done: int, total: int, **figures: float) -> None:
            if stage == "epoch 2":
                process.kill()

        with pytest.raises(TigonError, match=r"the scheduler at .* is gone: .* --resume"):
            tigon.integrate(
                atlas, out=out, scheduler=address, resume=True, progress=progress, **OPTIONS
            )
    assert job_place(out, out.parent).is_dir()
    assert_same(tigon.integrate(atlas, out=out, resume=True, **OPTIONS), whole)


def quick() -> None:
    """Give up on requests after two seconds or so."""
    from tigon.storage.reading.policy import RequestPolicy
    from tigon.storage.sources import zarr_store

    zarr_store.POLICY = RequestPolicy(n_retries=4, backoff_s=0.05, stall_s=1.0, retry_s=2.0)


def patient() -> None:
    """Ask again for longer than the store is gone."""
    from tigon.storage.reading.policy import RequestPolicy
    from tigon.storage.sources import zarr_store

    zarr_store.POLICY = RequestPolicy(n_retries=100, longest_backoff_s=1.0, retry_s=110.0)


def at_first(stage: str, act: Callable[[], None]) -> Callable[..., None]:
    """Do something when a job first tells of a stage."""
    done: list[str] = []

    def progress(told: str, *counts: int, **figures: float) -> None:
        if told == stage and not done:
            done.append(told)
            act()

    return progress


def test_the_store_is_gone_for_some_seconds(
    atlas: Path, whole: Run, client: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serve(atlas.parent) as server:
        server.fault = Fault("503", path="/c/")
        Timer(1.0, lambda: setattr(server, "fault", None)).start()
        run = tigon.integrate(f"{server.url}/atlas.zarr", out=out, client=client, **OPTIONS)
        assert server.log
    assert_same(run, whole)


def test_the_store_is_gone_for_half_a_minute(
    atlas: Path, whole: Run, client: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While workers hold tasks that read it; nobody has to go on with anything."""
    from tigon.storage.sources import zarr_store

    monkeypatch.setattr(zarr_store, "POLICY", zarr_store.POLICY)
    patient()
    client.run(patient)
    refused_from: list[int] = []
    with serve(atlas.parent) as server:

        def back() -> None:
            refused_from.append(len(server.log))
            server.fault = None

        def gone() -> None:
            server.fault = Fault("503", path="/c/")
            refused_from.append(len(server.log))
            Timer(30.0, back).start()

        url, told = f"{server.url}/atlas.zarr", at_first("reading cells", gone)
        run = tigon.integrate(url, out=out, client=client, progress=told, **OPTIONS)
    began, ended = refused_from  # both have been: the job did not end before the store was back
    assert ended - began > 10
    assert_same(run, whole)


def test_the_store_is_gone_for_good(
    atlas: Path, whole: Run, client: Any, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tigon.storage.sources import zarr_store

    monkeypatch.setattr(zarr_store, "POLICY", zarr_store.POLICY)
    quick()
    client.run(quick)
    with serve(atlas.parent) as server:
        url = f"{server.url}/atlas.zarr"

        def gone() -> None:
            server.fault = Fault("503", path="/c/")

        progress = at_first("reading cells", gone)
        with pytest.raises(TigonError, match="503"):
            tigon.integrate(url, out=out, client=client, resume=True, progress=progress, **OPTIONS)
        assert job_place(out, out.parent).is_dir()
        server.fault = None
        assert_same(tigon.integrate(url, out=out, client=client, resume=True, **OPTIONS), whole)
