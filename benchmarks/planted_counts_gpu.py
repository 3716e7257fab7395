"""Planted Poisson counts, drawn on a GPU in mini-batches of 5,000 cells and 2,000 genes."""

from __future__ import annotations

from dataclasses import dataclass

import cupy
import numpy as np

from tigon.kernels.tile import CellTile

MINIBATCH = 5000
N_GENES = 2000
N_PLANTED = 25


@dataclass(frozen=True)
class Counts:
    """Counts by mini-batch on the device, and the gene scale."""

    tiles: list[CellTile]
    scale: cupy.ndarray

    @property
    def nnz(self) -> int:
        return sum(len(tile.genes) for tile in self.tiles)

    def first(self, n_tiles: int) -> Counts:
        return Counts(self.tiles[:n_tiles], self.scale)


class Planting:
    """Draws counts of planted metagenes."""

    def __init__(self, density: float, seed: int = 0) -> None:
        self.rng = cupy.random.default_rng(seed)
        self.W = self.rng.gamma(0.3, 1.0, (N_PLANTED, N_GENES)).astype(np.float32)
        self.depth = 1.0
        self.depth = self._depth_for(density)

    def draw(self, n_cells: int) -> Counts:
        tiles = [self._tile() for _ in range(n_cells // MINIBATCH)]
        return Counts(tiles, self._scale(tiles[0]))

    def _rates(self) -> cupy.ndarray:
        H = self.rng.gamma(0.3, 1.0, (MINIBATCH, N_PLANTED)).astype(np.float32)
        return self.depth * (H @ self.W)

    def _depth_for(self, density: float) -> float:
        rates, low, high = self._rates(), 1e-6, 1e3
        for _ in range(40):
            middle = (low * high) ** 0.5
            found = float((1.0 - cupy.exp(-middle * rates)).mean())
            low, high = (middle, high) if found < density else (low, middle)
        return low

    def _tile(self) -> CellTile:
        counts = self.rng.poisson(self._rates())
        cells, genes = cupy.nonzero(counts)
        totals = counts.sum(axis=1)
        indptr = cupy.zeros(MINIBATCH + 1, np.int64)
        indptr[1:] = cupy.cumsum(cupy.bincount(cells, minlength=MINIBATCH))
        return CellTile(
            cupy.arange(MINIBATCH, dtype=np.int64),
            indptr,
            genes.astype(np.uint16),
            cupy.minimum(counts[cells, genes], 65535).astype(np.uint16),
            (1.0 / cupy.maximum(totals, 1)).astype(np.float32),
        )

    @staticmethod
    def _scale(tile: CellTile) -> cupy.ndarray:
        """One over the root mean square of each gene in a mini-batch."""
        cells = cupy.repeat(tile.rows, cupy.diff(tile.indptr).tolist())
        values = (tile.counts * tile.weights[cells]).astype(np.float64)
        squares = cupy.bincount(tile.genes, weights=values**2, minlength=N_GENES)
        # A gene that is hardly seen would outweigh all others.
        return 1.0 / cupy.sqrt(cupy.maximum(squares, 1e-2 * squares.mean()) / MINIBATCH)
