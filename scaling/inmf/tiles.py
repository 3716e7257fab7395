"""Cutting cells of a pack into tiles of one dataset, and solving tiles.

Tiles are the tasks. Their cuts depend on the cells alone, so A and B are summed
in the same order whatever the threads.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.metagenes import MetageneTable, Tabulation
from tigon.kernels.tile import CellTile, TileStatistics
from tigon.scaling.inmf.state import Problem
from tigon.storage.packs.blocks import PackBlock, StoredBlock

TILE_CELLS = 1280
"""Cells of a task at most: their counts, products and loadings fit in the cache."""


@dataclass(frozen=True, slots=True)
class DatasetTile:
    """Some cells of a block that are of one dataset.

    Attributes
    ----------
    dataset
        Its number.
    rows
        Positions in the block, int64, shape (n,).
    block
        The block.
    """

    dataset: int
    rows: NDArray[np.int64]
    block: PackBlock | StoredBlock

    def cells(self) -> CellTile:
        """Their counts, put together now: whoever takes them works on them in the cache."""
        return CellTile(*self.block.tile(self.rows))


def cut_tiles(block: PackBlock | StoredBlock) -> Iterator[DatasetTile]:
    """Even tiles of at most 1280 cells of one dataset each, datasets ascending."""
    order = np.argsort(block.datasets, kind="stable")
    sorted_datasets = block.datasets[order]
    edges = np.flatnonzero(np.diff(sorted_datasets, prepend=-1, append=-1))
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        dataset = int(sorted_datasets[start])
        for rows in np.array_split(order[start:stop], -(-(stop - start) // TILE_CELLS)):
            yield DatasetTile(dataset, rows, block)


def metagenes_of(
    problem: Problem,
    W: NDArray[np.float32],
    V: NDArray[np.float32] | Mapping[int, NDArray[np.float32]],
    dataset: int,
) -> MetageneTable:
    """What the cells of a dataset are solved against.

    Parameters
    ----------
    problem
        Masks, scales and lambda.
    W, V
        Metagenes, float32, shapes (k, m) and, for each dataset, (k, m).
    dataset
        Its number.
    """
    return tabulation_of(problem, W, V, dataset).whole()


def tabulation_of(
    problem: Problem,
    W: NDArray[np.float32],
    V: NDArray[np.float32] | Mapping[int, NDArray[np.float32]],
    dataset: int,
) -> Tabulation:
    """:func:`metagenes_of` range by range of genes."""
    scale, measured = problem.scale[dataset], problem.measured[dataset]
    return Tabulation(W, V[dataset], problem.lam_of(dataset), scale, measured)


def add_statistics(sums: dict[int, TileStatistics], dataset: int, found: TileStatistics) -> None:
    """Add what a tile yields to the sums of its dataset, in place."""
    if dataset in sums:
        sums[dataset] += found
    else:
        sums[dataset] = found
