"""Batch iNMF: block coordinate descent, one pass over the pack an iteration.

A pass solves the loadings of every cell against W and V_i as they are and sums
``A_i = H_i^T H_i`` and ``B_i = H_i^T X_i``; V_i and W follow from these sums alone
(:mod:`tigon.scaling.inmf.improving`). The cells are in F only through the sums,

    F = |X|^2 - 2 sum_i tr(B_i (W + V_i)^T) + sum_i tr(G_i A_i),

so that F of every iteration is known exactly, in float64, without another pass.

F never rises. Each cell goes on from the loadings that it had, and coordinate descent does
not raise what it minimises; neither do the sweeps over V_i and W. What rounding might add
is not trusted to be small: metagenes are taken over only once their pass has shown that F
is no higher. Otherwise those before stay, and the iterations end.

Metagenes and statistics are brought to size by powers of two, which are exact: F and the
loadings that cells go on from stay as they are, to the bit.

References
----------
Welch et al. (2019), doi:10.1016/j.cell.2019.05.006; Kim, He and Park (2014), block
coordinate descent for non-negative factorisations, doi:10.1007/s10898-013-0035-4.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.folding import add_turned
from tigon.kernels.cpu.metagenes import MetageneTable
from tigon.kernels.cpu.step import minibatch_step_in_place
from tigon.kernels.tile import TileStatistics
from tigon.scaling.inmf.checkpoint import Checkpoints, Position
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.cutting import reads_of, task_cuts
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.improving import improve, residual
from tigon.scaling.inmf.rescaling import factor_sizes
from tigon.scaling.inmf.schedule import Stretch
from tigon.scaling.inmf.solving import explained
from tigon.scaling.inmf.starts import Starts
from tigon.scaling.inmf.state import Problem, State, begin_round
from tigon.scaling.inmf.tiles import add_statistics, cut_tiles, metagenes_of
from tigon.storage.packs.reader import CellReader
from tigon.storage.progress import Progress, silent

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

COMMON_ITERATIONS = 20
"""Over the common genes alone, where a fit begins with some."""


def descend(
    pack: CellReader,
    folder: Path,
    problem: Problem,
    state: State,
    max_iterations: int,
    config: INMFConfig,
    engine: ThreadEngine,
    history: History,
    progress: Progress = silent,
    checkpoints: Checkpoints | None = None,
    n_common: int = 0,
) -> tuple[State, History]:
    """Iterate until F settles.

    Parameters
    ----------
    pack, problem
        What is factorised; every dataset has cells.
    folder
        An existing folder, for the loadings that the next iteration starts from.
    state
        Metagenes to begin with, from :func:`tigon.scaling.inmf.state.init_state` or
        online epochs; updated in place, unless there is a checkpoint to go on from.
    max_iterations
        Passes at most.
    config
        Tolerances.
    engine, progress
        Where it runs and who is told.
    history
        What happened before, which is added to.
    checkpoints
        Where the fit is kept and goes on from; None to keep nothing.
    n_common
        Iterations, the first ones, over the common genes alone, see
        :func:`tigon.scaling.inmf.schedule.common_passes`; V_i is zero at others so far.

    Returns
    -------
    state
        W and V, and their A and B.
    history
        An entry an iteration: F per cell, by how much it fell, and the residual.

    Notes
    -----
    An iteration is one pass over the pack and the loadings, and about 4 k^2 m
    multiplications for each dataset and sweep. Holds the state, W, V and their tables once
    more, 8 k m bytes for every dataset, and for each task in flight its counts and 8 k m
    bytes for every dataset in it.
    """
    known = checkpoints.load() if checkpoints else None
    state, at = known or (_begin(state), Position(history=history))
    cuts = task_cuts(pack.n_cells, problem.n_datasets)
    shape = (pack.n_cells, len(state.W))
    while not at.finished:
        starts = Starts.of(folder, at.epoch, shape)
        if not at.n_done:
            begin_round(state)
        # What is tried follows from the sums before, so that a checkpoint need not hold it.
        now = problem.over_common() if at.epoch < n_common else problem
        tried = improve(state, now, engine) if at.epoch else state
        tables = [metagenes_of(now, tried.W, tried.V, i) for i in range(problem.n_datasets)]
        summed = _Pass(pack, starts, tables, state.sizes.astype(np.float32), config.tol)
        for found in engine.ordered_map(summed, cuts[at.n_done :]):
            _take_in(found, state, at)
            progress(f"iteration {at.epoch + 1}", at.n_cells, pack.n_cells, **_told(at, pack))
            if checkpoints and checkpoints.due():
                checkpoints.save(state, at)
        at = _judge(state, tried, tables, now, at, max_iterations, config, engine)
        at.finished &= at.epoch >= n_common
        if checkpoints:
            checkpoints.save(state, at)
        # Until now a job that goes on from the checkpoint before would have read them.
        starts.end(finished=at.finished)
    return state, at.history


@dataclass(frozen=True, slots=True)
class _Pass:
    """Solves and sums a stretch of the pack, one tile after the other.

    Attributes
    ----------
    pack, starts, tables
        Counts, earlier loadings, and what the cells of each dataset are solved against.
    sizes
        What loadings are multiplied by where they are kept, float32, shape (k,).
    tol
        Tolerance of the loadings.
    """

    pack: CellReader
    starts: Starts
    tables: list[MetageneTable]
    sizes: NDArray[np.float32]
    tol: float

    def __call__(self, cut: Stretch) -> dict[int, TileStatistics]:
        """Statistics by dataset; loadings go to the file."""
        sums: dict[int, TileStatistics] = {}
        for read in reads_of(cut):
            self._add(read, sums)
        return sums

    def _add(self, read: Stretch, sums: dict[int, TileStatistics]) -> None:
        """Solve some cells, whose counts are let go of before the next."""
        block, H = self.pack.stored(*read), self.starts.read(*read)
        for tile in cut_tiles(block):
            cells, table = tile.cells(), self.tables[tile.dataset]
            found = minibatch_step_in_place(cells, table, self.tol, H, tile.rows, self.sizes)
            add_statistics(sums, tile.dataset, found)
        self.starts.now.write(read[0], H)


def _begin(state: State) -> State:
    """Forget all sums, in place: the first pass makes them anew, from no loadings at all."""
    for sums in (state.A, state.B, state.A_previous, state.B_previous, state.n_seen):
        sums[:] = 0
    _bring_to_size(state)
    state.sizes[:] = 1.0
    return state


def _take_in(found: dict[int, TileStatistics], state: State, at: Position) -> None:
    """Add the sums of a task; the total is |X|^2 of the cells so far."""
    for dataset, sums in found.items():
        state.A[dataset] += sums.A
        add_turned(state.B[dataset], sums.B)
        state.n_seen[dataset] += sums.n_cells
        at.total += sums.squared_norm
        at.n_cells += sums.n_cells
    at.n_done += 1


def _told(at: Position, pack: CellReader) -> dict[str, float]:
    """F per cell after the iteration before, for whoever watches."""
    return {"loss": at.before / pack.n_cells} if at.epoch else {}


def _judge(
    state: State,
    tried: State,
    tables: list[MetageneTable],
    problem: Problem,
    at: Position,
    max_iterations: int,
    config: INMFConfig,
    engine: ThreadEngine,
) -> Position:
    """Take the metagenes of a pass over, or stay with those before; what comes next."""
    squared_norm, done = at.total, at.epoch + 1
    objective = squared_norm + explained(problem, tables, tried.W, tried.V, state.A, state.B)
    if objective > at.before:  # less than rounding was left to gain
        np.copyto(state.A, state.A_previous)
        np.copyto(state.B, state.B_previous)
        return Position(done, before=at.before, history=at.history, finished=True)
    np.copyto(state.W, tried.W)
    np.copyto(state.V, tried.V)
    least = np.finfo(float).tiny  # counts may all be zero
    fall = np.nan if at.epoch == 0 else (at.before - objective) / max(abs(objective), least)
    left = float(residual(state, problem, engine) / np.sqrt(max(squared_norm, least)))
    at.history.append(at.history.n_epochs, at.n_cells, objective / at.n_cells, fall, left)
    _bring_to_size(state)
    settled = fall <= config.tol_batch or left <= config.tol_residual
    finished = settled or done == max_iterations
    return Position(done, before=objective, history=at.history, finished=finished)


def _bring_to_size(state: State) -> None:
    """Bring each factor's row of W within a factor of two of size 1, exactly, in place."""
    up = np.exp2(-np.round(np.log2(factor_sizes(state.W).astype(np.float64))))
    inverse = 1 / up
    for factor in (state.W, state.V):
        np.multiply(factor, up.astype(np.float32)[:, None], out=factor)
    np.multiply(state.A, inverse[:, None] * inverse, out=state.A)
    np.multiply(state.B, inverse[:, None], out=state.B)
    np.multiply(state.sizes, up, out=state.sizes)
