"""The epochs: stream the pack, solve loadings, fold, update."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.rescaling import rescale, rescale_steps
from tigon.scaling.inmf.schedule import Schedule, Stretch
from tigon.scaling.inmf.starts import Starts
from tigon.scaling.inmf.state import Problem, State, begin_epoch
from tigon.scaling.inmf.steps import apply_step
from tigon.scaling.inmf.tasks import Found, Solver, Task, Version
from tigon.storage.packs.pack import Pack
from tigon.storage.progress import Progress, silent

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine


@dataclass(frozen=True, slots=True)
class History:
    """One entry a step, in equally long lists.

    Attributes
    ----------
    epoch, step
        Counted from 0.
    n_seen
        Cells seen so far, over all epochs.
    loss
        The mini-batch's share of F before it was learnt from, per cell.
    """

    epoch: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    n_seen: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def append(self, epoch: int, n_cells: int, loss: float) -> None:
        """Add a step of ``n_cells`` whose cells had a mean loss of ``loss``."""
        self.epoch.append(epoch)
        self.step.append(len(self.step))
        self.n_seen.append(n_cells + (self.n_seen[-1] if self.n_seen else 0))
        self.loss.append(loss)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The four columns as arrays, by name."""
        return {
            "epoch": np.asarray(self.epoch),
            "step": np.asarray(self.step),
            "n_seen": np.asarray(self.n_seen),
            "loss": np.asarray(self.loss),
        }


def train(
    pack: Pack,
    folder: Path,
    problem: Problem,
    state: State,
    schedule: Schedule,
    config: INMFConfig,
    engine: ThreadEngine,
    seed: np.random.SeedSequence,
    progress: Progress = silent,
) -> History:
    """Run the epochs, updating ``state`` in place.

    Parameters
    ----------
    pack, problem
        What is factorised.
    folder
        An existing folder, for the loadings that the next epoch starts from.
    state
        From :func:`tigon.scaling.inmf.state.init_state`; updated.
    schedule, config
        The plan and the options.
    engine, seed, progress
        Where it runs, the order of mini-batches, and who is told.

    Returns
    -------
    History

    Notes
    -----
    One pass over the pack and the starts per epoch. Holds the state, mini-batches
    in flight, and 8 k m bytes for each tile in flight; beside each task in flight the
    metagenes that it is solved against.
    """
    history = History()
    shape = (pack.n_cells, len(state.W))
    before = np.inf
    for epoch in range(schedule.max_epochs):
        if epoch:
            begin_epoch(state)
        starts = Starts.of(folder, epoch, shape)
        solver = Solver(pack, starts, problem, config.tol)
        tasks = schedule.tasks(epoch, seed)
        total, done = 0.0, 0
        for found in _solved(solver, tasks, state, config.staleness, engine):
            apply_step(state, problem, found.deltas, config.n_sweeps, engine)
            total += found.loss
            done += found.n_cells
            history.append(epoch, found.n_cells, found.loss / found.n_cells)
            if len(history.step) % rescale_steps(problem) == 0:
                rescale(state, problem, engine)
            progress(f"epoch {epoch + 1}", done, pack.n_cells, loss=total / done)
        starts.end()
        settled = before - total < config.tol_objective * abs(total)
        if epoch + 1 >= schedule.min_epochs and settled:
            break
        before = total
    starts.now.path.unlink()
    return history


def _solved(
    solver: Solver,
    tasks: list[list[Stretch]],
    state: State,
    staleness: int,
    engine: ThreadEngine,
) -> Iterator[Found]:
    """What each task yields, in order, solved against the state ``staleness`` steps before."""
    if staleness:
        return engine.ordered_map(solver, _drawn(solver, tasks, state), staleness + 1)
    return _solved_here(solver, tasks, state, engine)


def _drawn(solver: Solver, tasks: list[list[Stretch]], state: State) -> Iterator[Task]:
    """Tasks with the metagenes as they are when each is drawn."""
    for stretches in tasks:
        touched = np.unique(np.concatenate([solver.pack.datasets(*cut) for cut in stretches]))
        V = {d: state.V[d].copy() for d in touched.tolist()}
        yield Task(stretches, Version(state.W.copy(), V))


def _solved_here(
    solver: Solver, tasks: list[list[Stretch]], state: State, engine: ThreadEngine
) -> Iterator[Found]:
    """One task at a time, its tiles shared out, while the mini-batches after it are read."""
    stretches = [cut for task in tasks for cut in task]
    minibatches = engine.read_ahead(solver.read, stretches)
    for task in tasks:
        version = Version(state.W, dict(enumerate(state.V)))
        yield solver.solve(islice(minibatches, len(task)), version, engine.ordered_map)
