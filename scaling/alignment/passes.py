"""A pass over the loadings of all cells: one pure task per tile, results in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.rows import tiles
from tigon.scaling.engine import ThreadEngine
from tigon.storage.progress import Progress
from tigon.storage.rows import RowReader

Result = TypeVar("Result")
Tile = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Passes:
    """What every pass over the cells needs.

    Attributes
    ----------
    rows
        Loadings H, float32, shape (n_cells, k).
    dataset_codes
        Dataset of each cell, int32, shape (n_cells,).
    n_cells
        Cells of each dataset, int64, shape (n_datasets,).
    engine, progress
        What runs the tasks, and what is told of them.
    """

    rows: RowReader
    dataset_codes: NDArray[np.int32]
    n_cells: NDArray[np.int64]
    engine: ThreadEngine
    progress: Progress

    @property
    def n_datasets(self) -> int:
        """Number of datasets."""
        return len(self.n_cells)

    @property
    def k(self) -> int:
        """Number of factors."""
        return self.rows.shape[1]

    def run(self, stage: str, task: Callable[[Tile], Result]) -> Iterator[tuple[Tile, Result]]:
        """Each tile and the result of ``task`` for it, in order."""
        total = self.rows.shape[0]
        cuts = list(tiles(total))
        for tile, result in zip(cuts, self.engine.ordered_map(task, cuts), strict=True):
            yield tile, result
            self.progress(stage, tile[1], total)
