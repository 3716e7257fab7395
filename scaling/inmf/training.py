"""The epochs: stream the pack, solve loadings, fold, update."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.step import MetageneTable, minibatch_step
from tigon.kernels.tile import TileStatistics
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.rescaling import factor_sizes, rescale, rescale_steps
from tigon.scaling.inmf.schedule import Schedule
from tigon.scaling.inmf.state import Problem, State, begin_epoch
from tigon.scaling.inmf.steps import apply_step
from tigon.scaling.inmf.tiles import DatasetTile, cut_tiles, metagenes_of
from tigon.storage.packs.pack import Pack
from tigon.storage.progress import Progress, silent
from tigon.storage.rows import RowFile

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
    starts: RowFile,
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
    starts
        Loadings of every packed cell when it was last seen, times the sizes of the
        factors, shape (n, k), zero before: where its next solution starts. Written.
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
    in flight, and 8 k m bytes for each tile in flight.
    """
    history = History()
    before = np.inf
    for epoch in range(schedule.max_epochs):
        if epoch:
            begin_epoch(state)
        total = 0.0
        stretches = schedule.epoch(epoch, seed)
        # A stretch is read while others are written: no two of an epoch overlap.
        blocks = engine.read_ahead(lambda cut: _read(pack, starts, *cut), stretches)
        done = 0
        for start, tiles, H in blocks:
            # In units of the factors' sizes, which change until the cells come again.
            sizes = factor_sizes(state.W)
            H /= sizes
            loss = learn(tiles, H, problem, state, config, engine)
            H *= sizes
            starts.write(start, H)
            total += loss
            n_cells = len(H)
            done += n_cells
            history.append(epoch, n_cells, loss / n_cells)
            if len(history.step) % rescale_steps(problem) == 0:
                rescale(state, problem, engine)
            progress(f"epoch {epoch + 1}", done, pack.n_cells, loss=total / done)
        settled = before - total < config.tol_objective * abs(total)
        if epoch + 1 >= schedule.min_epochs and settled:
            break
        before = total
    return history


def _read(
    pack: Pack, starts: RowFile, start: int, stop: int
) -> tuple[int, list[DatasetTile], NDArray[np.float32]]:
    """A mini-batch: where it begins, its tiles, and where its loadings start."""
    return start, list(cut_tiles(pack.read(start, stop))), starts.read(start, stop)


def learn(
    tiles: list[DatasetTile],
    H: NDArray[np.float32],
    problem: Problem,
    state: State,
    config: INMFConfig,
    engine: ThreadEngine,
) -> float:
    """One step on one mini-batch; returns its loss beforehand.

    ``H`` holds where the cells' solutions start, and then these.
    """
    touched = sorted({tile.dataset for tile in tiles})
    solved_against = engine.ordered_map(
        lambda d: metagenes_of(problem, state.W, state.V, d), touched
    )
    metagenes = dict(zip(touched, solved_against, strict=True))
    deltas = sum_tiles(tiles, H, metagenes, config.tol, engine)
    del metagenes
    loss = sum(delta.loss for delta in deltas.values())
    apply_step(state, problem, deltas, config.n_sweeps, engine)
    return loss


def sum_tiles(
    tiles: list[DatasetTile],
    H: NDArray[np.float32],
    metagenes: dict[int, MetageneTable],
    tol: float,
    engine: ThreadEngine,
) -> dict[int, TileStatistics]:
    """Statistics of some tiles, summed by dataset in tile order; ``H`` is solved in place."""

    def solve(tile: DatasetTile) -> tuple[int, TileStatistics]:
        rows = tile.cells.rows
        H[rows], found = minibatch_step(tile.cells, metagenes[tile.dataset], tol, H[rows])
        return tile.dataset, found

    deltas: dict[int, TileStatistics] = {}
    for dataset, statistics in engine.ordered_map(solve, tiles):
        if dataset in deltas:
            deltas[dataset] += statistics
        else:
            deltas[dataset] = statistics
    return deltas
