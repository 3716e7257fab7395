"""The epochs: stream the pack, solve loadings, fold, update."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tigon.kernels.cpu.metagenes import MetageneTable
from tigon.scaling.inmf.checkpoint import Checkpoints, Position
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.rescaling import rescale, rescale_steps
from tigon.scaling.inmf.rounds import Rounds
from tigon.scaling.inmf.schedule import Schedule, Stretch
from tigon.scaling.inmf.starts import Starts
from tigon.scaling.inmf.state import Problem, State, begin_round
from tigon.scaling.inmf.steps import apply_step
from tigon.scaling.inmf.tasks import Found, Solver, Task, Version
from tigon.storage.packs.reader import CellReader
from tigon.storage.progress import Progress, silent

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

Steps = Generator[None, None, tuple[State, History]]
"""A fit under way: pauses after each step, and returns its last state and its history."""


def train(
    pack: CellReader,
    folder: Path,
    problem: Problem,
    state: State,
    schedule: Schedule,
    config: INMFConfig,
    engine: ThreadEngine,
    seed: np.random.SeedSequence,
    progress: Progress = silent,
    checkpoints: Checkpoints | None = None,
    n_common_epochs: int = 0,
) -> tuple[State, History]:
    """Run the epochs.

    Parameters
    ----------
    pack, problem
        What is factorised.
    folder
        An existing folder, for the loadings that the next epoch starts from.
    state
        From :func:`tigon.scaling.inmf.state.init_state`; updated in place, unless there
        is a checkpoint to go on from.
    schedule, config
        The plan and the options.
    engine, seed, progress
        Where it runs, the order of mini-batches, and who is told.
    checkpoints
        Where the fit is kept and goes on from; None to keep nothing.
    n_common_epochs
        Epochs, the first ones, in which cells are solved over the common genes alone, see
        :func:`tigon.scaling.inmf.schedule.common_passes`.

    Returns
    -------
    state
        The last one.
    history
        The steps.

    Notes
    -----
    One pass over the pack and the starts per epoch. Holds the state, mini-batches
    in flight, and 8 k m bytes for each tile in flight; beside each task in flight the
    metagenes that it is solved against.
    """
    steps = train_by_step(
        pack,
        folder,
        problem,
        state,
        schedule,
        config,
        engine,
        seed,
        progress,
        checkpoints,
        n_common_epochs,
    )
    return finish(steps)


def finish(steps: Steps) -> tuple[State, History]:
    """Run a fit to its end; its last state and its history."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            last: tuple[State, History] = end.value
            return last


def train_by_step(
    pack: CellReader,
    folder: Path,
    problem: Problem,
    state: State,
    schedule: Schedule,
    config: INMFConfig,
    engine: ThreadEngine,
    seed: np.random.SeedSequence,
    progress: Progress = silent,
    checkpoints: Checkpoints | None = None,
    n_common_epochs: int = 0,
) -> Steps:
    """:func:`train`, pausing after each step, so that several fits may take turns."""
    known = checkpoints.load() if checkpoints else None
    state, at = known or (state, Position())
    shape = (pack.n_cells, len(state.W))
    while not at.finished:
        starts = Starts.of(folder, at.epoch, shape)
        now = problem.over_common() if at.epoch < n_common_epochs else problem
        solver = Solver(pack, starts, now, config.tol)
        tables: dict[int, MetageneTable] = {}
        tasks = schedule.tasks(at.epoch, seed)
        firsts = schedule.first_tasks(len(tasks), last=at.closing)
        single = schedule.is_single
        rounds = Rounds.of(now, len(state.W), pack, tasks, firsts, is_single=single)
        solved = _solved(solver, tasks[at.n_done :], state, tables, at.flying, config, engine)
        for found in solved:
            if at.n_done in firsts:
                begin_round(state, rounds.at(at.n_done - 1) if at.n_done else None)
            # Metagenes of datasets that come next are tabulated while they are in the cache.
            n = at.n_done + 1
            following = tasks[n : n + 1] if _is_here(config, engine) else []
            wanted = [d for task in following for d in _touched(solver, task)]
            tables |= _take_in(found, state, rounds.at(at.n_done), at, schedule, engine, wanted)
            progress(f"epoch {at.epoch + 1}", at.n_cells, pack.n_cells, loss=at.total / at.n_cells)
            if checkpoints and checkpoints.due():
                checkpoints.save(state, at)
            yield
        at = _after(at, schedule, config)
        if checkpoints:
            checkpoints.save(state, at)
        # Until now a job that goes on from the checkpoint before would have read them.
        starts.end(finished=at.finished)
    return state, at.history


def _after(at: Position, schedule: Schedule, config: INMFConfig) -> Position:
    """Where the fit is when an epoch has ended: one of a single round comes last."""
    settled = at.before - at.total < config.tol_objective * abs(at.total)
    done, ahead = at.epoch + 1, schedule.rounds > 1 and not schedule.is_single
    enough = schedule.is_enough(done + ahead, settled=settled)
    return Position(
        done,
        before=at.total,
        history=at.history,
        closing=ahead and enough,
        finished=at.closing if ahead else enough,
    )


def _take_in(
    found: Found,
    state: State,
    problem: Problem,
    at: Position,
    schedule: Schedule,
    engine: ThreadEngine,
    wanted: Collection[int],
) -> dict[int, MetageneTable]:
    """One step; tables of the metagenes for the next, as far as they are made with it."""
    tables = apply_step(state, problem, found.deltas, schedule.n_sweeps, engine, tabulate=wanted)
    at.n_done += 1
    at.total += found.loss
    at.n_cells += found.n_cells
    at.history.append(at.epoch, found.n_cells, found.loss / found.n_cells)
    if len(at.history.step) % rescale_steps(problem) == 0:
        rescale(state, problem, engine)
        return {}
    return tables


def _touched(solver: Solver, stretches: list[Stretch]) -> list[int]:
    """Datasets of the cells of a task, ascending."""
    n_cells = [np.bincount(solver.pack.datasets(*cut)) for cut in stretches]
    return sorted({d for found in n_cells for d in np.flatnonzero(found).tolist()})


def _is_here(config: INMFConfig, engine: ThreadEngine) -> bool:
    """Whether each mini-batch is solved here, against the metagenes that the last one left."""
    return not config.staleness and engine is engine.local


def _solved(
    solver: Solver,
    tasks: list[list[Stretch]],
    state: State,
    tables: dict[int, MetageneTable],
    flying: list[Task],
    config: INMFConfig,
    engine: ThreadEngine,
) -> Iterator[Found]:
    """What each task yields, in order, solved against the state ``staleness`` steps before."""
    if _is_here(config, engine):
        yield from _solved_here(solver, tasks, state, tables, engine)
        return
    drawn = _drawn(solver, tasks, state, flying)
    for found in engine.ordered_map(solver, drawn, config.staleness + 1):
        flying.pop(0)
        yield found


def _drawn(
    solver: Solver, tasks: list[list[Stretch]], state: State, flying: list[Task]
) -> Iterator[Task]:
    """Tasks with the metagenes as they are when each is drawn; first those that were before."""
    before, rest = list(flying), tasks[len(flying) :]
    yield from before
    for stretches in rest:
        V = {d: state.V[d].copy() for d in _touched(solver, stretches)}
        flying.append(Task(stretches, Version(state.W.copy(), V)))
        yield flying[-1]


def _solved_here(
    solver: Solver,
    tasks: list[list[Stretch]],
    state: State,
    tables: dict[int, MetageneTable],
    engine: ThreadEngine,
) -> Iterator[Found]:
    """One task at a time, its tiles shared out, while the mini-batches after it are read."""
    stretches = [cut for task in tasks for cut in task]
    minibatches = engine.read_ahead(solver.read, stretches)
    for task in tasks:
        version = Version(state.W, {d: state.V[d] for d in _touched(solver, task)})
        yield solver.solve(islice(minibatches, len(task)), version, engine.share, tables)
