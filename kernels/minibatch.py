"""One mini-batch tile: products, loadings, statistics and loss (Numba).

Counts stay raw integers: a cell's weight (one over its total) and a gene's
scale (one over its root mean square in the dataset) are applied on the fly,
``X[c, g] = weight[c] * count[c, g] * scale[g]``. Folding the scale into L and,
afterwards, into B makes that one multiplication a non-zero.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.kernels.nnls import nnls_into

MAX_SWEEPS = 500


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
        Selected-gene positions, uint16 or uint32, shape (nnz,).
    counts
        Raw counts, float32, shape (nnz,); exact up to 2**24.
    weights
        One over the cell's total count over all genes (0 for an empty cell),
        float32, shape (n_block,).
    """

    rows: NDArray[np.int64]
    indptr: NDArray[np.int64]
    genes: NDArray[np.unsignedinteger]
    counts: NDArray[np.float32]
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
        H^T X, float64, shape (k, m).
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

    def __add__(self, other: TileStatistics) -> TileStatistics:
        """Statistics of both tiles together; exact up to the order of sums."""
        return TileStatistics(
            self.A + other.A,
            self.B + other.B,
            self.squared_norm + other.squared_norm,
            self.loss + other.loss,
            self.n_cells + other.n_cells,
            self.n_unfinished + other.n_unfinished,
        )


@njit(cache=True, nogil=True, fastmath={"contract"})
def _products(rows, indptr, genes, counts, weights, scaled, R):  # type: ignore[no-untyped-def]
    k = scaled.shape[1]
    acc = np.empty(k, np.float32)
    for i in range(len(rows)):
        c = rows[i]
        acc[:] = 0.0
        for t in range(indptr[c], indptr[c + 1]):
            value = counts[t]
            row = scaled[genes[t]]
            for j in range(k):
                acc[j] += value * row[j]
        for j in range(k):
            R[i, j] = weights[c] * acc[j]


@njit(cache=True, nogil=True)
def _squared_norm(rows, indptr, genes, counts, weights, scale):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in rows:
        row = 0.0
        for t in range(indptr[c], indptr[c + 1]):
            value = np.float64(counts[t]) * scale[genes[t]]
            row += value * value
        total += row * np.float64(weights[c]) * np.float64(weights[c])
    return total


@njit(cache=True, nogil=True, fastmath={"contract"})
def _accumulate(rows, indptr, genes, counts, weights, scale, H, A, B):  # type: ignore[no-untyped-def]
    """A += H^T H (lower triangle, then mirrored) and B += H^T X."""
    n, k = H.shape
    m = len(scale)
    by_gene = np.zeros((m, k))
    h = np.empty(k)
    for i in range(n):
        c = rows[i]
        for j in range(k):
            h[j] = H[i, j]
            for o in range(j + 1):
                A[j, o] += h[j] * h[o]
        for t in range(indptr[c], indptr[c + 1]):
            value = np.float64(counts[t]) * np.float64(weights[c])
            row = by_gene[genes[t]]
            for j in range(k):
                row[j] += value * h[j]
    for j in range(k):
        for o in range(j):
            A[o, j] = A[j, o]
        for g in range(m):
            B[j, g] = by_gene[g, j] * scale[g]


@njit(cache=True, nogil=True)
def _explained(R, H):  # type: ignore[no-untyped-def]
    total = 0.0
    for c in range(len(R)):
        for j in range(R.shape[1]):
            total += np.float64(R[c, j]) * np.float64(H[c, j])
    return total


def loadings(
    tile: CellTile, metagenes: Metagenes, tol: float
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Solve the loadings of a tile.

    Parameters
    ----------
    tile, metagenes
        The cells and what they are solved against.
    tol
        See :func:`tigon.kernels.nnls.nnls_into`.

    Returns
    -------
    H
        Loadings, float32, shape (n, k).
    R
        Products X L^T, float32, shape (n, k).
    n_unfinished
        Cells that did not reach the tolerance.
    """
    shape = (len(tile.rows), len(metagenes.gram))
    R = np.empty(shape, np.float32)
    H = np.empty(shape, np.float32)
    _products(*tile.arrays, metagenes.scaled, R)
    n_unfinished = nnls_into(metagenes.gram, R, H, tol, MAX_SWEEPS)
    return H, R, n_unfinished


def minibatch_step(
    tile: CellTile, metagenes: Metagenes, tol: float
) -> tuple[NDArray[np.float32], TileStatistics]:
    """Loadings of a tile and what they add to A, B and F.

    Parameters
    ----------
    tile, metagenes, tol
        As in :func:`loadings`.

    Returns
    -------
    H
        Loadings, float32, shape (n, k).
    statistics
        A, B and loss, summed in cell order in float64: the same bits whatever
        runs beside it.

    Notes
    -----
    Holds m * k * 16 + n * k * 8 bytes beside its inputs.
    """
    H, R, n_unfinished = loadings(tile, metagenes, tol)
    k, m = len(metagenes.gram), len(metagenes.scale)
    A = np.zeros((k, k))
    B = np.empty((k, m))
    _accumulate(*tile.arrays, metagenes.scale, H, A, B)
    squared = _squared_norm(*tile.arrays, metagenes.scale)
    # F of the tile by traces: |X|^2 - 2 tr(H R^T) + tr(G A).
    fitted = float((metagenes.gram.astype(np.float64) * A).sum())
    loss = squared - 2.0 * float(_explained(R, H)) + fitted
    return H, TileStatistics(A, B, squared, loss, len(H), n_unfinished)
