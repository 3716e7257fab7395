"""Cutting cells of a pack into tiles of one dataset, and solving tiles.

Tiles are the tasks. Their cuts depend on the cells alone, so A and B are summed
in the same order whatever the threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.factors import gram
from tigon.kernels.minibatch import CellTile, Metagenes
from tigon.scaling.inmf.state import Problem
from tigon.storage.packs.pack import PackBlock

TILE_CELLS = 1024


@dataclass(frozen=True, slots=True)
class DatasetTile:
    """A tile and the dataset it belongs to."""

    dataset: int
    cells: CellTile


def cut_tiles(block: PackBlock) -> Iterator[DatasetTile]:
    """Tiles of at most 1024 cells of one dataset each, datasets ascending."""
    counts = block.counts.astype(np.float32)
    order = np.argsort(block.datasets, kind="stable")
    sorted_datasets = block.datasets[order]
    edges = np.flatnonzero(np.diff(sorted_datasets, prepend=-1, append=-1))
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        dataset = int(sorted_datasets[start])
        for first in range(start, stop, TILE_CELLS):
            rows = order[first : min(first + TILE_CELLS, stop)]
            tile = CellTile(rows, block.indptr, block.genes, counts, block.weights)
            yield DatasetTile(dataset, tile)


def metagenes_of(
    problem: Problem, W: NDArray[np.float32], V: NDArray[np.float32], dataset: int
) -> Metagenes:
    """What the cells of a dataset are solved against.

    Parameters
    ----------
    problem
        Masks, scales and lambda.
    W, V
        Metagenes, float32, shapes (k, m) and (d, k, m).
    dataset
        Its number.
    """
    V_i = V[dataset]
    L = (W + V_i) * problem.measured[dataset]
    scale = problem.scale[dataset]
    scaled = np.ascontiguousarray((L * scale).T, np.float32)
    return Metagenes(scaled, gram(L, V_i, problem.lam).astype(np.float32), scale)
