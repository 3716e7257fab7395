"""Loadings of every cell with the metagenes fixed, and the objective they give.

A cell's H depends on that cell and the metagenes only: it starts from nothing
but the data, at a tolerance of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.folding import add_turned
from tigon.kernels.cpu.metagenes import MetageneTable
from tigon.kernels.cpu.step import minibatch_step
from tigon.kernels.tile import TileStatistics
from tigon.scaling.inmf.cutting import reads_of, task_cuts
from tigon.scaling.inmf.schedule import Stretch
from tigon.scaling.inmf.state import Problem
from tigon.scaling.inmf.tiles import add_statistics, cut_tiles, metagenes_of
from tigon.storage.packs.reader import CellReader
from tigon.storage.progress import Progress, silent
from tigon.storage.scattering import WriteRows

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine


@dataclass(frozen=True, slots=True)
class Solution:
    """Exact sums over all cells of the reported loadings.

    Attributes
    ----------
    A, B
        H_i^T H_i and H_i^T X_i, float64, shapes (d, k, k) and (d, k, m).
    objective
        F of the reported W, V and H.
    n_unfinished
        Cells whose loadings did not reach the tolerance.
    """

    A: NDArray[np.float64]
    B: NDArray[np.float64]
    objective: float
    n_unfinished: int


def solve_all(
    pack: CellReader,
    problem: Problem,
    W: NDArray[np.float32],
    V: NDArray[np.float32],
    tol: float,
    engine: ThreadEngine,
    write: WriteRows,
    progress: Progress = silent,
) -> Solution:
    """Solve the loadings of every packed cell, handing them on as they come.

    Parameters
    ----------
    pack, problem
        What is factorised.
    W, V
        Metagenes, float32, shapes (k, m) and (d, k, m).
    tol
        Tolerance of the loadings.
    engine, progress
        Where it runs and who is told.
    write
        Called with atlas positions and their loadings, of some thousand cells at a time.

    Returns
    -------
    Solution
        F by traces, F_i = |X_i|^2 - 2 tr(B_i L_i^T) + tr(G_i A_i), in float64
        throughout: exact to about 1e-15 |X|^2 for the reported W, V and H.

    Notes
    -----
    One pass over the pack; holds A, B, and for each task in flight the counts of 8192 cells,
    the loadings of up to 32,768 and 8 k m bytes for every dataset in it.
    """
    d, k, m = V.shape
    A, B = np.zeros((d, k, k)), np.zeros((d, k, m))
    metagenes = [metagenes_of(problem, W, V, i) for i in range(d)]
    squared_norm, n_unfinished, done = 0.0, 0, 0
    for solved in engine.ordered_map(_Solver(pack, metagenes, tol), task_cuts(pack.n_cells, d)):
        for dataset, found in solved.statistics.items():
            A[dataset] += found.A
            add_turned(B[dataset], found.B)
            squared_norm += found.squared_norm
            n_unfinished += found.n_unfinished
        for positions, H in solved.blocks:
            write(positions, H)
            done += len(H)
        progress("solving loadings", done, pack.n_cells)
    objective = squared_norm + explained(problem, metagenes, W, V, A, B)
    return Solution(A, B, objective, n_unfinished)


@dataclass(frozen=True, slots=True)
class _Solved:
    """Atlas positions (n,) and loadings (n, k) by block, and statistics by dataset."""

    blocks: list[tuple[NDArray[np.int64], NDArray[np.float32]]]
    statistics: dict[int, TileStatistics]


@dataclass(frozen=True, slots=True)
class _Solver:
    """Solves a stretch of the pack, one tile after the other."""

    pack: CellReader
    metagenes: list[MetageneTable]
    tol: float

    def __call__(self, cut: Stretch) -> _Solved:
        solved = _Solved([], {})
        for read in reads_of(cut):
            solved.blocks.append(self._block(read, solved.statistics))
        return solved

    def _block(
        self, read: Stretch, statistics: dict[int, TileStatistics]
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Positions and loadings of some cells, whose counts are let go of before the next."""
        block = self.pack.stored(*read)
        H = np.empty((len(block.datasets), len(self.metagenes[0].gram)), np.float32)
        for tile in cut_tiles(block):
            table = self.metagenes[tile.dataset]
            H[tile.rows], found = minibatch_step(tile.cells(), table, self.tol)
            add_statistics(statistics, tile.dataset, found)
        return block.positions, H


def explained(
    problem: Problem,
    metagenes: list[MetageneTable],
    W: NDArray[np.float32],
    V: NDArray[np.float32],
    A: NDArray[np.float64],
    B: NDArray[np.float64],
) -> float:
    """F less |X|^2: the sum over datasets of tr(G_i A_i) - 2 tr(B_i L_i^T).

    Parameters
    ----------
    problem, metagenes
        Masks, scales and lambda, and what the cells of each dataset are solved against.
    W, V
        Metagenes, float32, shapes (k, m) and (d, k, m).
    A, B
        Sums over the cells, float64, shapes (d, k, k) and (d, k, m).
    """
    total = 0.0
    for i in range(problem.n_datasets):
        L = (W + V[i]) * problem.measured[i]
        total += float((metagenes[i].gram * A[i]).sum() - 2.0 * (B[i] * L).sum())
    return total
