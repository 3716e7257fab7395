"""The task of training: consecutive mini-batches against one version of the metagenes.

A pure function of the task, so that it may run anywhere and more than once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.metagenes import MetageneTable, Tabulation
from tigon.kernels.cpu.step import minibatch_step_in_place
from tigon.kernels.tile import TileStatistics
from tigon.scaling.inmf.rescaling import factor_sizes
from tigon.scaling.inmf.schedule import Stretch
from tigon.scaling.inmf.starts import Starts
from tigon.scaling.inmf.state import Problem
from tigon.scaling.inmf.summing import OrderedSums
from tigon.scaling.inmf.tiles import DatasetTile, cut_tiles, tabulation_of
from tigon.storage.packs.reader import CellReader

Spread = Callable[[Callable[[Any], Any], Iterable[Any]], Iterable[Any]]
"""``map``, or one that shares out its work and keeps its order."""


@dataclass(frozen=True, slots=True)
class Version:
    """Metagenes as they were at some step.

    Attributes
    ----------
    W
        Shared metagenes, float32, shape (k, m).
    V
        Those of the datasets of the cells, float32, shape (k, m) each.
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

    pack: CellReader
    starts: Starts
    problem: Problem
    tol: float

    def __call__(self, task: Task) -> Found:
        """Read and solve one mini-batch after the other."""
        return self.solve(map(self.read, task.stretches), task.version, map)

    def read(self, stretch: Stretch) -> Minibatch:
        """A mini-batch with the starts of its cells."""
        tiles = list(cut_tiles(self.pack.stored(*stretch)))
        return Minibatch(stretch[0], tiles, self.starts.read(*stretch))

    def solve(
        self,
        minibatches: Iterable[Minibatch],
        version: Version,
        spread: Spread,
        known: dict[int, MetageneTable] | None = None,
    ) -> Found:
        """Loadings, which are kept as starts, and statistics, summed in the order of cells.

        Parameters
        ----------
        minibatches, version
            What is solved against what.
        spread
            How tiles are shared out.
        known
            Tables of this version, by dataset, as far as they are there already; emptied.
        """
        sizes = factor_sizes(version.W)
        tables: dict[int, MetageneTable] = {}
        while known:
            tables.update([known.popitem()])
        tables |= self._tables(version, tables, spread)
        deltas: dict[int, TileStatistics] = {}
        sums = OrderedSums(deltas)
        solved: list[tuple[int, NDArray[np.float32]]] = []

        def solve(each: _Numbered) -> None:
            tile, table = each.tile, tables[each.tile.dataset]
            cells, rows = tile.cells(), tile.rows
            found = minibatch_step_in_place(cells, table, self.tol, each.H, rows, sizes)
            sums.add(each.number, tile.dataset, found)

        # A thread that is done with the tiles of a mini-batch goes on with those of the next.
        for _ in spread(solve, _numbered(minibatches, solved)):
            pass
        for start, H in solved:
            self.starts.now.write(start, H)
        loss = sum(delta.loss for delta in deltas.values())
        return Found(deltas, loss, sum(len(H) for _, H in solved))

    def _tables(
        self, version: Version, known: dict[int, MetageneTable], spread: Spread
    ) -> dict[int, MetageneTable]:
        new = sorted(version.V.keys() - known.keys())
        begun = [tabulation_of(self.problem, version.W, version.V, d) for d in new]
        if len(begun) == 1:  # all threads take part in it
            return {new[0]: begun[0].finish(list(spread(begun[0].take, begun[0].ranges)))}
        return dict(zip(new, spread(Tabulation.whole, begun), strict=True))


@dataclass(frozen=True, slots=True)
class _Numbered:
    """A tile, its number in the task, and the loadings of its mini-batch."""

    number: int
    tile: DatasetTile
    H: NDArray[np.float32]


def _numbered(
    minibatches: Iterable[Minibatch], taken: list[tuple[int, NDArray[np.float32]]]
) -> Iterator[_Numbered]:
    """The tiles of a task; the loadings of its mini-batches are put on a list."""
    number = count()
    for minibatch in minibatches:
        taken.append((minibatch.start, minibatch.H))
        H, tiles = minibatch.H, minibatch.tiles[::-1]
        del minibatch  # it is not held while the next one is read
        while tiles:
            yield _Numbered(next(number), tiles.pop(), H)
