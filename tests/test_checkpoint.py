"""A fit that goes on from its checkpoint ends with the bytes of one that was not disturbed."""

from __future__ import annotations

import errno
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from atlases import planted

import tigon
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf import schedule, training
from tigon.scaling.inmf.checkpoint import Checkpoints, Position
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.state import Problem, State, init_state
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.storage.errors import InputError, NoSpaceError
from tigon.storage.packs.pack import Pack

N, M, K = 2600, 90, 4


class Stopped(Exception):
    """What interrupts a fit."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pack, Problem]:
    adata = planted(n=N, m=M, k=K, d=3).adata
    folder = tmp_path_factory.mktemp("packed") / "pack"
    with tigon.open(adata) as atlas, ThreadEngine(1) as engine:
        prepared = prepare(atlas, PrepareConfig(batch_key="batch", n_genes="all"), K, engine)
        order = np.random.SeedSequence(0)
        parts = prepared.datasets, prepared.statistics, prepared.genes
        pack = build_pack(atlas, *parts, folder, engine, order)
        return pack, prepared.problem(5.0)


@pytest.fixture(params=[1, 5], ids=["one round", "five rounds"])
def n_rounds(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """Rounds of an epoch that is not the last."""
    monkeypatch.setattr(schedule, "ROUND_CELLS", N // request.param)
    monkeypatch.setattr(schedule, "ROUND_CELLS_EACH", 1)
    return int(request.param)


def config_of(per_task: int, staleness: int) -> INMFConfig:
    return INMFConfig(
        n_components=K,
        n_epochs=3,
        minibatch_size=100,
        minibatches_per_task=per_task,
        staleness=staleness,
    )


def fit(
    packed: tuple[Pack, Problem],
    folder: Path,
    config: INMFConfig,
    n_threads: int = 1,
    stop_after: int | None = None,
    checkpoints: Checkpoints | None = None,
) -> tuple[State, History]:
    """Train; ``stop_after`` so many steps an exception interrupts it."""
    pack, problem = packed
    folder.mkdir(exist_ok=True)
    n_steps = 0

    def progress(stage: str, done: int, total: int, **figures: float) -> None:
        nonlocal n_steps
        n_steps += 1
        if n_steps == stop_after:
            raise Stopped

    with ThreadEngine(n_threads) as engine:
        return training.train(
            pack,
            folder,
            problem,
            init_state(problem, K, np.random.SeedSequence(1)),
            plan_schedule(config, pack.n_cells),
            config,
            engine,
            np.random.SeedSequence(2),
            progress,
            checkpoints,
        )


def assert_same(one: tuple[State, History], other: tuple[State, History]) -> None:
    for field in fields(State):
        a, b = getattr(one[0], field.name), getattr(other[0], field.name)
        np.testing.assert_array_equal(a, b, err_msg=field.name)
    np.testing.assert_equal(one[1].columns(), other[1].columns())


@pytest.mark.parametrize(
    ("per_task", "staleness", "n_steps"),
    # After the first epoch mini-batches begin at an offset, and there is one more: 26, 27, 27.
    [(1, 0, 26 + 2 * 27), (2, 0, 13 + 2 * 14), (1, 2, 26 + 2 * 27), (2, 3, 3 * 16)],
)
def test_any_threads_give_the_same_bytes(
    packed: tuple[Pack, Problem],
    tmp_path: Path,
    per_task: int,
    staleness: int,
    n_steps: int,
    n_rounds: int,
) -> None:
    config = config_of(per_task, staleness)
    assert plan_schedule(config, N).rounds == n_rounds
    found = [fit(packed, tmp_path / str(n), config, n) for n in (1, 2, 3)]
    assert len(found[0][1].step) == n_steps
    assert_same(found[0], found[1])
    assert_same(found[0], found[2])


def test_waiting_for_each_task_is_a_window_of_one(
    packed: tuple[Pack, Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_out = fit(packed, tmp_path / "a", config_of(2, 0), 2)

    def away(solver, tasks, state, _tables, engine):  # type: ignore[no-untyped-def]
        return engine.ordered_map(solver, training._drawn(solver, tasks, state, []), 1)

    monkeypatch.setattr(training, "_solved_here", away)
    assert_same(shared_out, fit(packed, tmp_path / "b", config_of(2, 0), 2))


def test_staleness_is_that_of_the_plan(
    packed: tuple[Pack, Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken_in, seen = 0, []
    apply_step, drawn = training.apply_step, training._drawn

    def counting(*args, **options):  # type: ignore[no-untyped-def]
        nonlocal taken_in
        taken_in += 1
        return apply_step(*args, **options)

    def watching(*args):  # type: ignore[no-untyped-def]
        before = taken_in
        for number, task in enumerate(drawn(*args)):
            seen.append(number - (taken_in - before))
            yield task

    monkeypatch.setattr(training, "apply_step", counting)
    monkeypatch.setattr(training, "_drawn", watching)
    fit(packed, tmp_path / "a", config_of(1, 3), 2)
    assert seen == [min(i, 3) for n in (26, 27, 27) for i in range(n)]


@pytest.mark.parametrize(("per_task", "staleness"), [(1, 0), (2, 3)])
@pytest.mark.parametrize("stops", [(1,), (5, 30), (26, 14), (13, 13, 13)])
def test_interrupted_and_resumed(
    packed: tuple[Pack, Problem],
    tmp_path: Path,
    per_task: int,
    staleness: int,
    stops: tuple[int, ...],
    n_rounds: int,
) -> None:
    config = config_of(per_task, staleness)
    assert plan_schedule(config, N).rounds == n_rounds
    undisturbed = fit(packed, tmp_path / "whole", config)
    folder = tmp_path / "parts"
    for stop in stops:
        with pytest.raises(Stopped):
            fit(packed, folder, config, 2, stop, at_every_step(folder))
    assert_same(undisturbed, fit(packed, folder, config, 2, None, at_every_step(folder)))
    assert [path.name for path in folder.iterdir()] == ["checkpoint.npz"]


def at_every_step(folder: Path) -> Checkpoints:
    folder.mkdir(exist_ok=True)
    return Checkpoints(folder, every=0.0)


def test_a_finished_fit_is_not_repeated(packed: tuple[Pack, Problem], tmp_path: Path) -> None:
    checkpoints = at_every_step(tmp_path)
    found = fit(packed, tmp_path, config_of(1, 0), 1, None, checkpoints)
    assert_same(found, fit(packed, tmp_path, config_of(1, 0), 1, 1, checkpoints))


def test_a_full_disk_keeps_the_checkpoint_before(
    packed: tuple[Pack, Problem], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = fit(packed, tmp_path / "whole", config_of(1, 0))
    folder = tmp_path / "parts"
    save, n_saved = np.savez, 0

    def full(file, **arrays) -> None:  # type: ignore[no-untyped-def]
        nonlocal n_saved
        n_saved += 1
        if n_saved == 8:
            file.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")
        save(file, **arrays)

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(NoSpaceError, match=r"checkpoint.npz.*--resume"):
        fit(packed, folder, config_of(1, 0), 1, None, at_every_step(folder))
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.npz", "starts.0"]
    state, position = at_every_step(folder).load() or (None, Position())
    assert state is not None
    assert position.n_done == 7
    assert_same(undisturbed, fit(packed, folder, config_of(1, 0), 1, None, at_every_step(folder)))


@pytest.mark.parametrize("n_bytes", [0, 100, -100])
def test_a_damaged_checkpoint_is_refused(
    packed: tuple[Pack, Problem], tmp_path: Path, n_bytes: int
) -> None:
    with pytest.raises(Stopped):
        fit(packed, tmp_path, config_of(1, 0), 1, 3, at_every_step(tmp_path))
    path = tmp_path / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:n_bytes])
    with pytest.raises(InputError, match=r"checkpoint.npz cannot be read .* without --resume"):
        at_every_step(tmp_path).load()
