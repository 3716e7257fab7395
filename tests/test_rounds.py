"""Rounds of an epoch: which cells they have, what is left of sums, and what they are good for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from atlases import planted

import tigon
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.rounds import Rounds
from tigon.scaling.inmf.schedule import Schedule, plan_schedule
from tigon.scaling.inmf.solving import solve_all
from tigon.scaling.inmf.state import Problem, State, init_state
from tigon.scaling.inmf.training import train
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.storage.packs.pack import Pack

N, K = 6000, 6
SEED = np.random.SeedSequence(3)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pack, Problem]:
    adata = planted(n=N, m=120, k=K, d=3).adata
    folder = tmp_path_factory.mktemp("packed") / "pack"
    with tigon.open(adata) as atlas, ThreadEngine(1) as engine:
        prepared = prepare(atlas, PrepareConfig(batch_key="batch", n_genes="all"), K, engine)
        parts = prepared.datasets, prepared.statistics, prepared.genes
        pack = build_pack(atlas, *parts, folder, engine, np.random.SeedSequence(0))
        return pack, prepared.problem(5.0)


def schedule_of(rounds: int, n_epochs: int | str = 3) -> tuple[Schedule, INMFConfig]:
    config = INMFConfig(n_components=K, n_epochs=n_epochs, minibatch_size=100)
    return replace(plan_schedule(config, N), rounds=rounds), config


def fit(
    packed: tuple[Pack, Problem], folder: Path, rounds: int, n_epochs: int | str = 3
) -> tuple[State, History]:
    pack, problem = packed
    schedule, config = schedule_of(rounds, n_epochs)
    folder.mkdir()
    with ThreadEngine(2) as engine:
        state = init_state(problem, K, SEED)
        return train(pack, folder, problem, state, schedule, config, engine, SEED)


@pytest.mark.parametrize(
    ("n_cells", "n_datasets", "n_epochs", "rounds"),
    [
        (12_000, 8, 5, 1),
        (79_999, 1, 5, 1),
        (80_000, 1, 5, 2),
        (200_000, 8, "auto", 5),
        (79_999, 1, 1, 1),
        (80_000, 1, 1, 2),
        (200_000, 8, 1, 3),
        (1_000_000, 8, 1, 11),
        (1_000_000, 300, 1, 1),
        (1_000_000, 8, 5, 10),
        (1_000_000, 300, 5, 1),
        (100_000_000, 300, 5, 10),
    ],
)
def test_rounds_have_enough_cells(
    n_cells: int, n_datasets: int, n_epochs: int | str, rounds: int
) -> None:
    config = INMFConfig(n_components=20, n_epochs=n_epochs)
    assert plan_schedule(config, n_cells, n_datasets).rounds == rounds


def test_the_last_epoch_has_one_round() -> None:
    schedule, _ = schedule_of(rounds=4)
    assert schedule.first_tasks(61, last=False) == [0, 15, 30, 45]
    assert schedule.first_tasks(61, last=True) == [0]
    assert schedule.first_tasks(3, last=False) == [0, 1, 2]  # never a round of no task


def test_of_a_single_epoch_the_last_half_is_a_round() -> None:
    single = replace(schedule_of(rounds=5)[0], max_epochs=1)
    assert single.first_tasks(61, last=False) == [0, 7, 15, 22, 30]
    assert single.first_tasks(6, last=False) == [0, 1, 2, 3]
    assert replace(single, rounds=1).first_tasks(61, last=False) == [0]


def test_rounds_share_the_cells_of_an_epoch(packed: tuple[Pack, Problem]) -> None:
    pack, problem = packed
    schedule, _ = schedule_of(rounds=4)
    tasks = schedule.tasks(1, SEED)
    firsts = schedule.first_tasks(len(tasks), last=False)
    found = Rounds.of(problem, K, pack, tasks, firsts)
    np.testing.assert_array_equal(sum(each.n_cells for each in found.problems), problem.n_cells)
    seen = [pack.datasets(*cut) for cut in chain.from_iterable(tasks[firsts[1] : firsts[2]])]
    wanted = np.bincount(np.concatenate(seen), minlength=3)
    np.testing.assert_array_equal(found.problems[1].n_cells, wanted)
    assert found.at(firsts[1] - 1) is found.problems[0]
    assert found.at(firsts[1]) is found.at(firsts[2] - 1) is found.problems[1]
    assert found.at(len(tasks) - 1) is found.problems[-1]
    assert Rounds.of(problem, K, pack, tasks, [0]).problems == [problem]


def test_a_small_dataset_hands_over_at_the_half_of_a_single_epoch(
    packed: tuple[Pack, Problem], tmp_path: Path
) -> None:
    pack, problem = packed
    schedule, _ = schedule_of(rounds=8, n_epochs=1)
    tasks = schedule.tasks(0, SEED)
    firsts = schedule.first_tasks(len(tasks), last=False)
    of = partial(Rounds.of, problem, pack=pack, tasks=tasks, firsts=firsts, is_single=True)
    counted = [each.n_cells for each in of(n_components=1).problems]
    assert len(counted) == 8
    np.testing.assert_array_equal(np.sum(counted, axis=0), problem.n_cells)
    assert np.min(counted) >= 50  # as many as one factor asks for
    half = np.sum(counted[:-1], axis=0)
    assert half.min() >= 50 * K > np.min(counted)
    *short, last = (each.n_cells for each in of(n_components=K).problems)
    for cells in short:
        np.testing.assert_array_equal(cells, half)
    np.testing.assert_array_equal(last, problem.n_cells - half)
    for each in of(n_components=100).problems:  # of too few, halves included
        np.testing.assert_array_equal(each.n_cells, problem.n_cells)
    state, _ = fit(packed, tmp_path / "fit", rounds=8, n_epochs=1)
    np.testing.assert_array_equal(state.n_seen, last)


def test_a_small_dataset_hands_over_once_an_epoch(tmp_path: Path) -> None:
    adata = planted(n=N, m=120, k=K, d=2).adata
    few = np.flatnonzero(adata.obs["batch"] == adata.obs["batch"].iloc[0])[40:]
    adata = adata[np.setdiff1d(np.arange(N), few)].copy()
    with tigon.open(adata) as atlas, ThreadEngine(2) as engine:
        prepared = prepare(atlas, PrepareConfig(batch_key="batch", n_genes="all"), K, engine)
        parts = prepared.datasets, prepared.statistics, prepared.genes
        pack = build_pack(atlas, *parts, tmp_path / "pack", engine, np.random.SeedSequence(0))
    problem, F = prepared.problem(5.0), {}
    for rounds in (1, 10):
        _, config = schedule_of(rounds, n_epochs=5)
        schedule = replace(plan_schedule(config, pack.n_cells), rounds=rounds)
        folder = tmp_path / str(rounds)
        folder.mkdir()
        with ThreadEngine(2) as engine:
            state = init_state(problem, K, SEED)
            state, _ = train(pack, folder, problem, state, schedule, config, engine, SEED)
            metagenes = state.W, state.V
            solved = solve_all(pack, problem, *metagenes, 1e-5, engine, lambda *_: None)
        assert abs(state.V).max() < 100
        np.testing.assert_array_equal(state.n_seen, problem.n_cells)
        F[rounds] = solved.objective
    assert F[10] < 1.001 * F[1]


def test_sums_of_the_state_agree_with_each_other(
    packed: tuple[Pack, Problem], tmp_path: Path
) -> None:
    state, history = fit(packed, tmp_path / "fit", rounds=4)
    assert len(history.step) == 60 + 61 + 61
    np.testing.assert_array_equal(state.n_seen, packed[1].n_cells)
    np.testing.assert_allclose(state.S[0], state.A.sum(axis=0), rtol=1e-9)
    T = state.B.sum(axis=0) - np.einsum("dij,djm->im", state.A, state.V.astype(float))
    np.testing.assert_allclose(state.T, T, rtol=1e-6, atol=1e-6 * abs(T).max())


def test_the_objective_falls_sooner(packed: tuple[Pack, Problem], tmp_path: Path) -> None:
    pack, problem = packed
    F = {}
    for rounds in (1, 3):
        state, _ = fit(packed, tmp_path / str(rounds), rounds)
        with ThreadEngine(2) as engine:
            metagenes = state.W, state.V
            solved = solve_all(pack, problem, *metagenes, 1e-5, engine, lambda *_: None)
        F[rounds] = solved.objective
    assert F[3] < F[1]


def test_the_objective_of_a_single_epoch_is_lower(
    packed: tuple[Pack, Problem], tmp_path: Path
) -> None:
    pack, problem = packed
    F = {}
    for rounds in (1, 4):
        state, history = fit(packed, tmp_path / str(rounds), rounds, n_epochs=1)
        assert history.n_epochs == 1
        assert history.n_seen[-1] == N
        with ThreadEngine(2) as engine:
            metagenes = state.W, state.V
            solved = solve_all(pack, problem, *metagenes, 1e-5, engine, lambda *_: None)
        F[rounds] = solved.objective
    assert F[4] < F[1]


def test_epochs_are_as_many_as_the_objective_asks_for_and_one_more(
    packed: tuple[Pack, Problem], tmp_path: Path
) -> None:
    _, history = fit(packed, tmp_path / "fit", rounds=3, n_epochs="auto")
    loss, epoch = np.array(history.loss), np.array(history.epoch)
    assert 5 <= history.n_epochs < 60
    means = [loss[epoch == e].mean() for e in range(history.n_epochs)]
    falls = -np.diff(means) / means[1:]
    assert falls[-2] < 2e-3  # settled, and the last epoch came after it
    assert (falls[3:-2] > 5e-4).all()
