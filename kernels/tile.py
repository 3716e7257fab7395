"""What the kernels take and give: cells of one dataset, their metagenes, their statistics.

Counts stay raw integers: a cell's weight (one over its total) and a gene's
scale (one over its root mean square in the dataset) are applied on the fly,
``X[c, g] = weight[c] * count[c, g] * scale[g]``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class CellTile:
    """Counts of some cells of one dataset, over the selected genes.

    A tile is a view: several tiles share the arrays of the block they lie in,
    and ``rows`` says which of its cells are theirs.

    Attributes
    ----------
    rows
        Positions of the tile's cells in the block, int64, shape (n,).
    indptr
        int64, shape (n_block + 1,); positions into ``genes`` and ``counts``.
    genes
        Selected-gene positions, uint16 or uint32, shape (nnz,). A gene that stands
        twice in a row, one entry behind the other, has the sum of both: so counts
        above 65,535 fit in uint16.
    counts
        Raw counts, uint16, uint32 or float32, shape (nnz,).
    weights
        One over the cell's total count over all genes (0 for an empty cell),
        float32, shape (n_block,).
    """

    rows: NDArray[np.int64]
    indptr: NDArray[np.int64]
    genes: NDArray[np.unsignedinteger]
    counts: NDArray[np.unsignedinteger | np.floating]
    weights: NDArray[np.float32]

    @property
    def arrays(self) -> tuple[NDArray[Any], ...]:
        """The five arrays, in the order that the kernels take them."""
        return self.rows, self.indptr, self.genes, self.counts, self.weights


@dataclass(frozen=True, slots=True)
class Metagenes:
    """What a tile is solved against: the metagenes of one dataset.

    Attributes
    ----------
    scaled
        (W + V_i)^T times the gene scale, float32, shape (m, k), zero for genes
        that the dataset does not measure.
    gram
        G_i = (W + V_i)(W + V_i)^T + lambda V_i V_i^T over the measured genes,
        float32, shape (k, k).
    scale
        One over each gene's root mean square in the dataset, float64, shape
        (m,); zero for genes that the dataset does not measure.
    """

    scaled: NDArray[np.float32]
    gram: NDArray[np.float32]
    scale: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class TileStatistics:
    """What a tile adds to its dataset.

    Attributes
    ----------
    A
        H^T H, float64, shape (k, k).
    B
        X^T H, float64, shape (m, k): by gene, as counts arrive.
    squared_norm
        |X|^2 of the tile.
    loss
        This tile's share of F with the given metagenes, to float32 relative to
        |X|^2.
    n_cells
        Cells in the tile.
    n_unfinished
        Cells whose loadings did not reach the tolerance.
    """

    A: NDArray[np.float64]
    B: NDArray[np.float64]
    squared_norm: float
    loss: float
    n_cells: int
    n_unfinished: int

    def in_place(self) -> TileStatistics:
        """The same with A and B where kernels can read them by address: as it is, or copied.

        What another process sent may begin anywhere.
        """
        A, B = (np.require(sums, np.float64, ["C", "ALIGNED"]) for sums in (self.A, self.B))
        return self if A is self.A and B is self.B else replace(self, A=A, B=B)

    def __iadd__(self, other: TileStatistics) -> TileStatistics:
        """Statistics of both tiles together, in the arrays of the first."""
        np.add(self.A, other.A, out=self.A)
        np.add(self.B, other.B, out=self.B)
        return TileStatistics(
            self.A,
            self.B,
            self.squared_norm + other.squared_norm,
            self.loss + other.loss,
            self.n_cells + other.n_cells,
            self.n_unfinished + other.n_unfinished,
        )
