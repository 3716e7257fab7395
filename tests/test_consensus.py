"""Several starts: matched, clustered, never worse than the best, the same bits."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Callable
from itertools import combinations, permutations
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from atlases import planted
from builders import write_h5ad
from command_line import refused, works

import tigon
from tigon.scaling.inmf.consensus import (
    Metagenes,
    cluster,
    matched,
    mean_metagenes,
    medians,
    unit_rows,
)
from tigon.scaling.inmf.state import Problem
from tigon.storage.errors import InputError
from tigon.storage.packs.reader import SharedReads

OPTIONS: dict[str, Any] = dict(n_components=6, n_genes=80, n_epochs=2, minibatch_size=60)
N_STARTS = 3


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    return planted(n=700, m=90, k=4).adata


@pytest.fixture(scope="module")
def several(adata: anndata.AnnData) -> tigon.OnlineINMF:
    model = tigon.OnlineINMF(**OPTIONS, n_starts=N_STARTS, n_threads=1)
    return model.fit(adata, batch_key="batch")


def noisy_starts(seed: int, n: int, k: int, m: int, noise: float) -> np.ndarray:
    """The same factors in another order in every start, of length 1."""
    rng = np.random.default_rng(seed)
    true = rng.gamma(0.3, 1.0, (k, m))
    starts = [true[rng.permutation(k)] + noise * rng.gamma(1.0, 1.0, (k, m)) for _ in range(n)]
    return np.array([unit_rows(L)[0] for L in starts])


def test_matching_is_the_best_of_all() -> None:
    one, other = noisy_starts(0, 2, 5, 12, 0.5)
    best = max(permutations(range(5)), key=lambda p: (one * other[list(p)]).sum())
    assert tuple(matched(one, other)) == best


def test_clusters_are_the_factors_that_starts_share() -> None:
    factors = noisy_starts(1, 6, 5, 60, 0.02)
    found = cluster(factors)
    chosen = factors[np.arange(6)[:, None], found.members]  # (n, k, m)
    assert (np.sort(found.members, axis=1) == np.arange(5)).all()
    for j in range(5):
        pairs = [float(chosen[a, j] @ chosen[b, j]) for a, b in combinations(range(6), 2)]
        assert min(pairs) > 0.95
        assert found.stability[j] == pytest.approx(np.mean(pairs), abs=1e-12)
    assert found.kept.all()


def test_a_factor_that_nobody_else_has_is_left_out() -> None:
    factors = noisy_starts(2, 10, 4, 60, 0.0)
    strange = np.zeros(60)
    strange[7] = 1.0
    factors[3, 2] = strange
    found = cluster(factors)
    (j,) = np.flatnonzero(found.members[3] == 2)
    assert [tuple(at) for at in np.argwhere(~found.kept)] == [(3, j)]
    assert found.stability[j] < 0.9
    assert np.delete(found.stability, j) == pytest.approx(1.0)


def test_medians_are_those_of_the_members_kept() -> None:
    rng = np.random.default_rng(3)
    n, k, d, m = 7, 3, 2, 40
    problem = Problem(np.array([30, 10]), np.ones((d, m), bool), np.ones((d, m)), 5.0)
    base = rng.gamma(0.3, 1.0, (k, m))
    orders = [rng.permutation(k) for _ in range(n)]
    starts = [
        Metagenes(
            (base[order] * (1 + s)).astype(np.float32),
            rng.gamma(0.1, 0.1, (d, k, m)).astype(np.float32),
        )
        for s, order in enumerate(orders)
    ]
    unit = [unit_rows(mean_metagenes(problem, start)) for start in starts]
    found = cluster(np.array([rows for rows, _ in unit]))
    lengths = np.array([length for _, length in unit])
    result = medians(starts, lengths, found)
    for j in range(k):
        at = [(s, found.members[s, j]) for s in range(n) if found.kept[s, j]]
        W = np.median([starts[s].W[f] / lengths[s, f] for s, f in at], axis=0)
        V = np.median([starts[s].V[1, f] / lengths[s, f] for s, f in at], axis=0)
        np.testing.assert_allclose(result.W[j], W, rtol=1e-6)
        np.testing.assert_allclose(result.V[1, j], V, rtol=1e-6, atol=1e-9)


def test_mean_metagenes_weigh_cells_and_leave_out_what_is_not_measured() -> None:
    measured = np.array([[True, True], [True, False]])
    problem = Problem(np.array([30, 10]), measured, np.ones((2, 2)), 5.0)
    V = np.array([[[4.0, 4.0]], [[8.0, 0.0]]], np.float32)
    found = mean_metagenes(problem, Metagenes(np.ones((1, 2), np.float32), V))
    np.testing.assert_allclose(found, [[1 + (30 * 4 + 10 * 8) / 40, 1 + 4]])


def test_one_start_and_factors_of_zeros_are_no_special_case() -> None:
    factors = np.zeros((1, 3, 5))
    factors[0, 0, 0] = 1.0
    found = cluster(factors)
    assert found.members.tolist() == [[0, 1, 2]]
    assert found.stability.tolist() == [1.0, 1.0, 1.0]
    assert np.isfinite(cluster(np.zeros((3, 2, 5))).stability).all()


def test_consensus_is_no_worse_than_any_start(several: tigon.OnlineINMF) -> None:
    assert several.start_objectives_.shape == (N_STARTS,)
    assert len(set(several.start_objectives_.tolist())) == N_STARTS
    assert several.objective_ <= several.start_objectives_.min()
    assert several.stability_.shape == (6,)
    assert ((several.stability_ > 0) & (several.stability_ <= 1)).all()


def test_the_best_start_is_taken_where_the_medians_end_above_it(
    adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tigon.scaling.inmf import several

    def poor(starts: list[Metagenes], *rest: Any) -> Metagenes:
        return Metagenes(np.ones_like(starts[0].W), np.zeros_like(starts[0].V))

    monkeypatch.setattr(several, "medians", poor)
    monkeypatch.setattr(several, "MAX_REFINING", 1)
    model = tigon.OnlineINMF(**OPTIONS, n_starts=2, n_threads=1).fit(adata, batch_key="batch")
    assert model.objective_ == model.start_objectives_.min()
    assert "the best is taken" in caplog.text
    # The stability of a factor is that of the cluster which its start's version is in.
    assert model.stability_.shape == (6,)


@pytest.mark.parametrize(("polish", "most"), [(0, 30), (2, 2), ("auto", 500)])
def test_medians_have_as_many_iterations_as_starts(
    adata: anndata.AnnData, monkeypatch: pytest.MonkeyPatch, polish: Any, most: int
) -> None:
    from tigon.scaling.inmf import fitting

    asked: dict[str, int] = {}

    def noted(pack: Any, folder: Path, problem: Any, state: Any, most: int, *rest: Any) -> Any:
        asked[folder.name] = most
        return descend(pack, folder, problem, state, 1, *rest)

    descend = fitting.descend
    monkeypatch.setattr(fitting, "descend", noted)
    options = OPTIONS | {"n_epochs": 1, "polish": polish}
    tigon.OnlineINMF(**options, n_starts=2, n_threads=1).fit(adata, batch_key="batch")
    assert asked == {"consensus": most} | ({"batch": most} if polish else {})


def test_the_first_start_is_the_fit_of_one(
    adata: anndata.AnnData, several: tigon.OnlineINMF
) -> None:
    one = tigon.OnlineINMF(**OPTIONS, n_threads=2).fit(adata, batch_key="batch")
    assert one.objective_ == several.start_objectives_[0]
    assert one.stability_ is None


def integrated(source: Path, out: Path, **changed: Any) -> tigon.Run:
    options: dict[str, Any] = OPTIONS | dict(
        batch_key="batch", n_starts=N_STARTS, umap=False, report=False, n_threads=1
    )
    return tigon.integrate(source, out=out, **options | changed)


def assert_same(run: tigon.Run, model: tigon.OnlineINMF) -> None:
    assert run.W.tobytes() == model.W_.tobytes()
    for name, V in model.V_.items():
        assert run.V[name].tobytes() == V.tobytes()
    assert run.objective == model.objective_
    assert run.consensus["objectives"] == model.start_objectives_.tolist()
    assert run.consensus["stability"] == model.stability_.tolist()


@pytest.fixture(scope="module")
def source(adata: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5ad(adata, tmp_path_factory.mktemp("a") / "a.h5ad")


def test_starts_that_take_turns_find_what_they_find_alone(
    source: Path, several: tigon.OnlineINMF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The estimator fits one after the other; here reads are shared, on two threads."""
    from tigon.scaling import integrating
    from tigon.storage.packs.pack import Pack

    read: list[tuple[int, int]] = []
    plain = Pack.stored

    def counted(self: Pack, start: int, stop: int) -> Any:
        read.append((start, stop))
        return plain(self, start, stop)

    # Enough for starts side by side, too little for the pack.
    monkeypatch.setattr(integrating, "bytes_to_spare", lambda plan, limit: 10**9)
    monkeypatch.setattr(Pack, "n_bytes", property(lambda self: 10**10))
    monkeypatch.setattr(Pack, "stored", counted)
    assert_same(integrated(source, tmp_path / "run.zarr", n_threads=2), several)
    n_minibatches = 2 * 12
    n_read = sum(stop - start < 100 for start, stop in read)
    assert n_minibatches <= n_read <= n_minibatches + 3


def test_blocks_are_read_once_and_failures_told_to_all() -> None:
    class Counted:
        n_cells = 10

        def __init__(self) -> None:
            self.read_at: list[int] = []

        def datasets(self, start: int, stop: int) -> Any:
            raise AssertionError

        def stored(self, start: int, stop: int) -> Any:
            self.read_at.append(start)
            if start == 9:
                raise InputError("damaged")
            return object()

    pack = Counted()
    shared = SharedReads(pack, n_blocks=2)
    assert shared.stored(0, 1) is shared.stored(0, 1)
    shared.stored(1, 2)
    shared.stored(2, 3)  # the first has to go
    shared.stored(0, 1)
    assert pack.read_at == [0, 1, 2, 0]
    for _ in range(2):
        with pytest.raises(InputError, match="damaged"):
            shared.stored(9, 10)


class Stopped(Exception):
    """What ends a job before its time."""


def stop_in(stage: str, start: int | None = None) -> Callable[..., None]:
    def progress(told: str, done: int, total: int, **figures: float) -> None:
        if told.startswith(stage) and figures.get("start") == start:
            raise Stopped

    return progress


def test_interrupted_starts_go_on(source: Path, several: tigon.OnlineINMF, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    for stage, start in (
        ("epoch 2", 3),
        ("iteration 2", None),
        ("aligning", None),
    ):
        with pytest.raises(Stopped):
            integrated(source, out, resume=True, progress=stop_in(stage, start))
    told: list[str] = []

    def note(stage: str, *rest: Any, **figures: float) -> None:
        told.append(stage)

    assert_same(integrated(source, out, resume=True, progress=note), several)
    assert not any(stage.startswith(("epoch", "objective", "iteration")) for stage in told)


def test_the_benchmark_compares_with_single_starts(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[1] / "benchmarks")
    bench = importlib.import_module("bench_consensus")
    tiny = Namespace(batch_key="batch", n_components=4, n_genes=60, n_epochs="1")
    (line,) = bench.compared(source, tiny, 2, 0)
    assert line["no_worse"]
    assert max(line["relative"]) <= 0
    assert 0 < line["agreement_of_single"] <= 1
    assert 0 < line["agreement"] <= 1


def test_the_command_tells_how_far_starts_agree(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    words = ("--batch-key", "batch", "-k", "3", "--n-genes", "50", "--n-epochs", "2", "--no-umap")
    done = works("integrate", source, *words, "--n-starts", "2", "--out", out)
    assert "consensus" in done.stdout
    assert "of 2 starts" in works("info", out).stdout
    page = (tmp_path / "run.html").read_text()
    assert page.count("; stability") == 3
    assert "Consensus of 2 starts" in page
    told = refused(tmp_path, "integrate", source, *words, "--n-starts", "0", "--out", "x.zarr")
    assert "n_starts is 0" in told
