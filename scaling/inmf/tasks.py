"""The task of training: consecutive mini-batches against one version of the metagenes.

A pure function of the task, so that it may run anywhere and more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.step import MetageneTable, minibatch_step
from tigon.kernels.tile import TileStatistics
from tigon.scaling.inmf.rescaling import factor_sizes
from tigon.scaling.inmf.schedule import Stretch
from tigon.scaling.inmf.starts import Starts
from tigon.scaling.inmf.state import Problem
from tigon.scaling.inmf.tiles import DatasetTile, add_statistics, cut_tiles, metagenes_of
from tigon.storage.packs.pack import Pack

Spread = Callable[[Callable[[Any], Any], list[Any]], Iterable[Any]]
"""``map``, or one that shares out its work and keeps its order."""


@dataclass(frozen=True, slots=True)
class Version:
    """Metagenes as they were at some step.

    Attributes
    ----------
    W
        Shared metagenes, float32, shape (k, m).
    V
        Those of the datasets that are needed, float32, shape (k, m) each.
    """

    W: NDArray[np.float32]
    V: dict[int, NDArray[np.float32]]


@dataclass(frozen=True, slots=True)
class Task:
    """What is solved for one step.

    Attributes
    ----------
    stretches
        The mini-batches.
    version
        What they are solved against.
    """

    stretches: list[Stretch]
    version: Version

    def __str__(self) -> str:
        cuts = ", ".join(f"{start} to {stop}" for start, stop in self.stretches)
        return f"cells {cuts} of the pack"


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Cells in memory.

    Attributes
    ----------
    start
        Place of the first in the pack.
    tiles
        The cells, by dataset.
    H
        Where their solutions start, times the sizes of the factors, (n, k).
    """

    start: int
    tiles: list[DatasetTile]
    H: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Found:
    """What a task yields.

    Attributes
    ----------
    deltas
        Statistics by dataset, of those that the task touches.
    loss
        Share of F with the given metagenes.
    n_cells
        Cells.
    """

    deltas: dict[int, TileStatistics]
    loss: float
    n_cells: int


@dataclass(frozen=True, slots=True)
class Solver:
    """Solves tasks; holds what all tasks of an epoch have in common.

    Attributes
    ----------
    pack, starts, problem
        Counts, earlier loadings, and masks, scales and lambda.
    tol
        Tolerance of the loadings.
    """

    pack: Pack
    starts: Starts
    problem: Problem
    tol: float

    def __call__(self, task: Task) -> Found:
        """Read and solve one mini-batch after the other."""
        return self.solve(map(self.read, task.stretches), task.version, map)

    def read(self, stretch: Stretch) -> Minibatch:
        """A mini-batch with the starts of its cells."""
        tiles = list(cut_tiles(self.pack.read(*stretch)))
        return Minibatch(stretch[0], tiles, self.starts.read(*stretch))

    def solve(self, minibatches: Iterable[Minibatch], version: Version, spread: Spread) -> Found:
        """Loadings, which are kept as starts, and statistics, summed in the order of cells."""
        sizes = factor_sizes(version.W)
        tables: dict[int, MetageneTable] = {}
        deltas: dict[int, TileStatistics] = {}
        n_cells = 0
        for minibatch in minibatches:
            tables |= self._tables(minibatch, version, tables, spread)
            H = minibatch.H
            H /= sizes
            for dataset, found in self._loadings(minibatch.tiles, H, tables, spread):
                add_statistics(deltas, dataset, found)
            H *= sizes
            self.starts.now.write(minibatch.start, H)
            n_cells += len(H)
        return Found(deltas, sum(delta.loss for delta in deltas.values()), n_cells)

    def _tables(
        self, minibatch: Minibatch, version: Version, known: dict[int, Any], spread: Spread
    ) -> dict[int, MetageneTable]:
        new = sorted({tile.dataset for tile in minibatch.tiles} - known.keys())

        def table(d: int) -> MetageneTable:
            return metagenes_of(self.problem, version.W, version.V, d)

        return dict(zip(new, spread(table, new), strict=True))

    def _loadings(
        self,
        tiles: list[DatasetTile],
        H: NDArray[np.float32],
        tables: dict[int, MetageneTable],
        spread: Spread,
    ) -> Iterable[tuple[int, TileStatistics]]:
        """Dataset and statistics of each tile, in order; ``H`` is solved in place."""

        def solve(tile: DatasetTile) -> tuple[int, TileStatistics]:
            rows, table = tile.cells.rows, tables[tile.dataset]
            H[rows], found = minibatch_step(tile.cells, table, self.tol, H[rows])
            return tile.dataset, found

        return spread(solve, tiles)
