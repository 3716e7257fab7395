"""The iNMF family on threads and workers: each member gives the bytes of one thread."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import psutil
import pytest

import tigon

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from unshared_planted import planted_unshared  # after the folder of the benchmarks is known

distributed = pytest.importorskip("distributed")

ONLINE: dict[str, Any] = dict(
    n_genes="all", n_epochs=1, minibatch_size=100, minibatches_per_task=2, staleness=1
)
MEMBERS: dict[str, Callable[..., tigon.OnlineINMF]] = {
    "batch": lambda **more: tigon.INMF(3, n_genes="all", n_epochs=3, **more),
    "polish": lambda **more: tigon.OnlineINMF(3, polish=2, **ONLINE, **more),
    "UINMF": lambda **more: tigon.UINMF(3, n_unshared="all", **ONLINE, **more),
    "batch UINMF": lambda **more: tigon.UINMF(
        3, n_genes="all", n_unshared="all", solver="batch", n_epochs=3, **more
    ),
    "consensus": lambda **more: tigon.OnlineINMF(3, n_starts=2, **ONLINE, **more),
}


@pytest.fixture(scope="module")
def atlas(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More cells than one task of an iteration takes, of which some genes are not shared."""
    parts = planted_unshared(n=500, n_shared=16, n_own=8, k=3, d=3, depth=300).parts
    place = tmp_path_factory.mktemp("atlas") / "atlas.zarr"
    tigon.write_atlas(tigon.open(parts, join="outer"), place)
    return place


@pytest.fixture(scope="module")
def alone(atlas: Path) -> Callable[[str], tigon.OnlineINMF]:
    """A member's fit on one thread."""
    return cache(lambda name: MEMBERS[name](n_threads=1).fit(atlas, batch_key="batch"))


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=2**31
    ) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def client(cluster: Any) -> Iterator[Any]:
    with distributed.Client(cluster, set_as_default=False) as client:
        yield client


def assert_same(one: tigon.OnlineINMF, other: tigon.OnlineINMF) -> None:
    assert one.W_.tobytes() == other.W_.tobytes()
    for part in ("V_", "A_", "B_"):
        a, b = getattr(one, part), getattr(other, part)
        assert {name: found.tobytes() for name, found in a.items()} == {
            name: found.tobytes() for name, found in b.items()
        }, part
    assert one.objective_ == other.objective_
    for column, values in one.history_.items():
        assert values.tobytes() == other.history_[column].tobytes(), column
    if one.stability_ is not None:
        assert one.stability_.tobytes() == other.stability_.tobytes()
        assert one.start_objectives_.tobytes() == other.start_objectives_.tobytes()


@pytest.mark.parametrize("name", MEMBERS)
def test_two_threads(atlas: Path, alone: Callable[[str], tigon.OnlineINMF], name: str) -> None:
    assert_same(MEMBERS[name](n_threads=2).fit(atlas, batch_key="batch"), alone(name))


def test_a_worker_is_killed_within_an_iteration(
    atlas: Path, alone: Callable[[str], tigon.OnlineINMF], client: Any, tmp_path: Path
) -> None:
    victims: list[int] = []

    def progress(stage: str, done: int, total: int, **figures: float) -> None:
        if stage == "iteration 2" and done < total and not victims:
            victims.append(min(client.run(os.getpid).values()))
            os.kill(victims[0], signal.SIGKILL)

    model = MEMBERS["batch UINMF"](progress=progress)
    model.fit(atlas, batch_key="batch", client=client, scratch=tmp_path)
    assert_same(model, alone("batch UINMF"))
    (victim,) = victims
    assert not psutil.pid_exists(victim)


@pytest.mark.parametrize("name", MEMBERS)
@pytest.mark.parametrize("n_workers", [2, 1])
def test_workers(
    atlas: Path,
    alone: Callable[[str], tigon.OnlineINMF],
    cluster: Any,
    client: Any,
    tmp_path: Path,
    name: str,
    n_workers: int,
) -> None:
    cluster.scale(n_workers)
    while len(client.nthreads()) != n_workers:
        time.sleep(0.05)
    model = MEMBERS[name]().fit(atlas, batch_key="batch", client=client, scratch=tmp_path)
    assert_same(model, alone(name))
    assert list(tmp_path.iterdir()) == []
