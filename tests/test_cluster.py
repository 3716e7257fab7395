"""The ordered map on the workers of a Dask cluster gives what threads give."""

from __future__ import annotations

import asyncio
import mmap
import pickle
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
from numpy.typing import NDArray

from tigon.scaling.engine import Cluster, ClusterEngine, ThreadEngine
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.reading.sharing import available_cpus

distributed = pytest.importorskip("distributed")

MIB = 2**20


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two workers of one thread."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=2**30
    ) as cluster:
        yield cluster


@pytest.fixture
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


@pytest.fixture
def engine(client: Any, tmp_path: Path) -> Iterator[ClusterEngine]:
    with ClusterEngine(client, tmp_path, 1) as engine:
        yield engine


def known_to_scheduler(client: Any) -> dict[str, int]:
    def count(dask_scheduler: Any) -> dict[str, int]:
        wanted = [state.wants_what for state in dask_scheduler.clients.values()]
        return {"tasks": len(dask_scheduler.tasks), "futures": sum(map(len, wanted))}

    found: dict[str, int] = client.run_on_scheduler(count)
    return found


def settled(client: Any) -> dict[str, int]:
    """What the scheduler knows once it has taken in what clients released."""
    for _ in range(100):
        known = known_to_scheduler(client)
        if not any(known.values()):
            break
    return known


@dataclass(frozen=True)
class Scaled:
    """A function with arrays of its own."""

    by: NDArray[np.float64]

    def __call__(self, task: NDArray[np.float64]) -> NDArray[np.float64]:
        return task * self.by


@pytest.mark.parametrize("window", [1, 3, None])
def test_results_come_in_order(engine: ClusterEngine, client: Any, window: int | None) -> None:
    by = np.arange(5.0)
    found = list(engine.ordered_map(Scaled(by), (np.full(5, i) for i in range(40)), window))
    np.testing.assert_array_equal(found, [np.full(5, i) * by for i in range(40)])
    assert settled(client) == {"tasks": 0, "futures": 0}


def test_workers_decode_on_no_more_processors_than_they_have_threads(
    engine: ClusterEngine,
) -> None:
    assert set(engine.ordered_map(lambda _: available_cpus(), range(8))) == {1}


def test_a_worker_in_this_process_leaves_it_its_processors(tmp_path: Path) -> None:
    before = available_cpus()
    with (
        distributed.Client(processes=False, n_workers=1, threads_per_worker=1) as client,
        ClusterEngine(client, tmp_path, 1) as engine,
    ):
        assert list(engine.ordered_map(abs, [-1])) == [1]
    assert available_cpus() == before


def faults_of(n_arrays: int) -> int:
    """Pages that the system was asked for while so many arrays of 8 MiB came and went."""
    import resource

    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n_arrays):
        np.ones(2**20)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(sys.platform != "linux", reason="the C library is not GNU's")
def test_workers_use_freed_memory_again(engine: ClusterEngine) -> None:
    (faults,) = engine.ordered_map(faults_of, [50])
    assert faults < 50 * 2**23 // mmap.PAGESIZE // 10


@pytest.mark.parametrize("n", [0, 3, 40])
def test_tasks_travel_together_and_results_are_single(
    engine: ClusterEngine, client: Any, tmp_path: Path, n: int
) -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[int]:
        for i in range(n):
            drawn.append(i)
            yield -i

    found = engine.ordered_map(abs, tasks(), 2, together=4)
    first = next(found, None)
    assert first == (0 if n else None)
    assert len(drawn) == min(n, 2 * 4)
    assert [first, *found][: n or 1] == (list(range(n)) or [None])
    assert settled(client) == {"tasks": 0, "futures": 0}
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("n", "sizes"),
    [(0, []), (3, [1, 1, 1]), (17, [4, 4, 4, 2, 1, 1, 1]), (20, [4, 4, 4, 4, 2, 1, 1])],
)
def test_fewer_tasks_travel_together_towards_the_end(
    engine: ClusterEngine, client: Any, monkeypatch: pytest.MonkeyPatch, n: int, sizes: list[int]
) -> None:
    sent: list[str] = []
    submit = client.submit

    def counted(fn: Any, *args: Any, **options: Any) -> Any:
        sent.append(args[1])
        return submit(fn, *args, **options)

    monkeypatch.setattr(client, "submit", counted)
    assert list(engine.ordered_map(abs, range(n), 2, together=4)) == list(range(n))
    assert [len(pickle.loads(argument)) for argument in sent] == sizes


def test_no_more_than_the_window_is_drawn(engine: ClusterEngine) -> None:
    drawn, taken, ahead = 0, 0, []

    def tasks() -> Iterator[int]:
        nonlocal drawn
        for i in range(30):
            drawn += 1
            ahead.append(drawn - taken)
            yield i

    for _ in engine.ordered_map(abs, tasks(), 4):
        taken += 1
    assert max(ahead) == 4


def test_large_tasks_and_functions_go_through_the_folder(
    engine: ClusterEngine, client: Any, tmp_path: Path
) -> None:
    large = np.random.default_rng(0).random(2**17)
    found = engine.ordered_map(Scaled(large), [large, large + 1])
    np.testing.assert_array_equal(next(found), large * large)
    sizes = [path.stat().st_size for path in tmp_path.iterdir()]
    assert sorted(size >= large.nbytes for size in sizes) == [True, True]
    np.testing.assert_array_equal(next(found), (large + 1) * large)
    assert list(found) == []
    assert list(tmp_path.iterdir()) == []


def test_a_map_that_is_left_leaves_nothing(
    engine: ClusterEngine, client: Any, tmp_path: Path
) -> None:
    for result in engine.ordered_map(abs, range(-1000, 0), 6):
        if result == 990:
            break
    assert settled(client) == {"tasks": 0, "futures": 0}
    assert list(tmp_path.iterdir()) == []


def test_maps_within_maps_and_here(engine: ClusterEngine) -> None:
    assert engine.local is not engine
    assert type(engine.local) is ThreadEngine
    seen = []

    def here(i: int) -> int:
        seen.append(i)
        return i

    total = sum(sum(engine.local.ordered_map(here, range(i))) for i in engine.ordered_map(abs, [3]))
    assert (total, seen) == (3, [0, 1, 2])


def test_workers_import_little(engine: ClusterEngine, client: Any) -> None:
    import tigon.scaling.inmf.tasks

    def loaded(module: str) -> list[str]:
        __import__(module)
        slow = ("anndata", "sklearn", "umap", "matplotlib", "xarray", "torch")
        return [name for name in slow if name in sys.modules]

    assert list(engine.ordered_map(loaded, [tigon.scaling.inmf.tasks.__name__])) == [[]]


def test_a_folder_that_workers_do_not_see_is_refused(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tigon.scaling.engine import cluster as module

    monkeypatch.setattr(module, "_seen", lambda places, *_: (places, "0"))
    with pytest.raises(InputError, match=rf"does not see {tmp_path}: .* share; choose another"):
        ClusterEngine(client, tmp_path, 1)


def test_an_atlas_that_workers_do_not_see_is_refused(client: Any, tmp_path: Path) -> None:
    absent = tmp_path / "atlas.zarr"
    with pytest.raises(InputError, match=rf"does not see {absent}"):
        ClusterEngine(client, tmp_path, 1, needed=[absent])
    assert list(tmp_path.iterdir()) == []


def test_another_version_is_refused(
    client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tigon.scaling.engine import cluster as module

    def seen(places: list[Path], *_: Any) -> tuple[list[Path], str]:
        import os

        return [], f"version of {os.getpid()}"

    monkeypatch.setattr(module, "_seen", seen)
    with pytest.raises(InputError, match=r"has Tigon version of .* install the same version"):
        ClusterEngine(client, tmp_path, 1)


def test_workers_prepare_or_are_refused(client: Any, tmp_path: Path) -> None:
    def prepare() -> None:
        sys.modules["prepared"] = sys

    def absent() -> None:
        import absent  # noqa: F401

    with ClusterEngine(client, tmp_path, 1, prepare=prepare):
        assert all(client.run(lambda: "prepared" in sys.modules).values())
    with pytest.raises(InputError, match=r"cannot import Tigon \(No module named 'absent'\)"):
        ClusterEngine(client, tmp_path, 1, prepare=absent)
    assert list(tmp_path.iterdir()) == []


def test_a_cluster_without_workers_is_refused(tmp_path: Path) -> None:
    with (
        distributed.LocalCluster(
            n_workers=0, dashboard_address=":0", processes=False, protocol="tcp"
        ) as empty,
        distributed.Client(empty, set_as_default=False) as client,
        pytest.raises(InputError, match="has no workers: at least one is needed"),
    ):
        ClusterEngine(client, tmp_path, 1)


def test_workers_that_are_too_small_are_refused(client: Any) -> None:
    chosen = Cluster(client=client)
    with chosen.connect(600 * MIB, 400 * MIB) as same:
        assert same is client
    with pytest.raises(MemoryLimitError, match=r"1024 MiB for 1 threads: its tasks need 1025 MiB"):
        chosen.connect(625 * MIB, 400 * MIB).__enter__()


def test_the_scheduler_is_found_by_its_address(client: Any) -> None:
    with Cluster(scheduler=client.scheduler.address).connect(1, 1) as other:
        assert other.submit(abs, -1).result() == 1


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense", "tcp://127.0.0.1:"])
def test_an_address_where_nothing_is(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    def tell(stage: str, done: int, total: int, **_: float) -> None:
        told.append(stage)

    monkeypatch.setattr("tigon.scaling.engine.connecting.CONNECT_S", 1)
    with pytest.raises(InputError, match=r"cannot be reached .* `dask scheduler` tells"):
        Cluster(scheduler=address).connect(1, 1, tell).__enter__()
    # Where nothing answers, the message above comes long after.
    assert told == [f"waiting for the scheduler {address}, 1 s at most (scheduler)"]


def test_one_cluster_at_most() -> None:
    with pytest.raises(InputError, match="more than one of client, scheduler and workers"):
        Cluster(scheduler="tcp://a:1", n_workers=2)
    for n_workers in (0, -1, 1.5):
        with pytest.raises(InputError, match="workers is"):
            Cluster(n_workers=n_workers)  # type: ignore[arg-type]
    assert not Cluster().is_used
    assert Cluster(n_workers=1).is_used


def test_what_is_no_client_that_can_be_used_is_refused(cluster: Any) -> None:
    with pytest.raises(InputError, match=r"client is a str: a distributed\.Client is needed"):
        Cluster(client=cast("Any", "tcp://127.0.0.1:8786"))
    with distributed.Client(cluster, set_as_default=False) as closed:
        pass
    with pytest.raises(InputError, match="client is closed: connect it"):
        Cluster(client=closed)

    async def refused() -> None:
        connected = distributed.Client(cluster.scheduler_address, asynchronous=True)
        async with connected as client:
            with pytest.raises(InputError, match="client is asynchronous"):
                Cluster(client=client)

    asyncio.run(refused())


def test_what_cannot_be_sent_is_refused(engine: ClusterEngine, tmp_path: Path) -> None:
    lock = threading.Lock()
    with pytest.raises(InputError, match=r"cannot be sent to workers \(TypeError: .*write_atlas"):
        list(engine.ordered_map(lambda task: (task, lock), [1]))
    assert not list(tmp_path.glob("map-*"))
