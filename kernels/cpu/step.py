"""One tile of cells: products, loadings and statistics while its counts lie in the cache."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.descent import descend, fast_limit
from tigon.kernels.cpu.grams import add_gram, tabulate
from tigon.kernels.cpu.panels import padded_rows, panels_of, row_width
from tigon.kernels.cpu.products import add_by_gene, explained, products, scale_rows
from tigon.kernels.cpu.residual import replace_bounds
from tigon.kernels.cpu.statistics import add_second_moments, widen_rows
from tigon.kernels.cpu.sweep import SolverGram
from tigon.kernels.tile import CellTile, Metagenes, TileStatistics

MAX_SWEEPS = 500


@dataclass(frozen=True, slots=True)
class MetageneTable:
    """What the cells of a dataset are solved against, as the kernels read it.

    Attributes
    ----------
    table
        L^T times the gene scale, float32, shape (m, width): rows padded as in
        :mod:`tigon.kernels.cpu.panels`, zero for genes that are not measured.
    gram
        G = L L^T + lambda V V^T over the measured genes, float64, shape (k, k).
    solver
        The same in float32, as the solver reads it.
    scale
        Gene scale, float64, shape (m,).
    """

    table: NDArray[np.float32]
    gram: NDArray[np.float64]
    solver: SolverGram
    scale: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        W: NDArray[np.float32],
        V: NDArray[np.float32],
        lam: float,
        scale: NDArray[np.float64],
        measured: NDArray[np.bool_],
    ) -> MetageneTable:
        """Table and Gram matrix of the metagenes W + V, shapes (k, m).

        ``V`` is zero for genes that are not ``measured``, shape (m,).
        """
        k, m = W.shape
        width = row_width(k, np.float32)
        present = np.ascontiguousarray(measured).view(np.uint8)
        scale = np.ascontiguousarray(scale)
        L = np.empty((k, m), np.float32)
        table = aligned_zeros(m * width, np.float32)
        tabulate(W, V, present, scale, L, table, width, 0, m)
        G = np.zeros((k, k))
        add_gram(G, L, 1.0, 0, m)
        if lam:
            add_gram(G, V, lam, 0, m)
        G += np.tril(G, -1).T
        return cls(table.reshape(m, width), G, SolverGram.of(G.astype(np.float32)), scale)

    @classmethod
    def laid_out(cls, metagenes: Metagenes) -> MetageneTable:
        """The same metagenes, padded and blocked; copies m k + k^2 entries."""
        gram = metagenes.gram
        return cls(
            padded_rows(metagenes.scaled),
            gram.astype(np.float64),
            SolverGram.of(gram.astype(np.float32)),
            metagenes.scale,
        )


def loadings(
    tile: CellTile, metagenes: MetageneTable, tol: float, start: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], int]:
    """Solve the loadings of a tile.

    Parameters
    ----------
    tile, metagenes
        The cells and what they are solved against.
    tol
        Largest KKT residual of a cell, relative to its largest product.
    start
        Where to start, non-negative, float32, shape (n, k); zero by default.

    Returns
    -------
    H
        Loadings, float32, shape (n, k).
    n_unfinished
        Cells that did not reach the tolerance.
    """
    H, _, n_unfinished = _solve(tile, metagenes, tol, start)
    return H[:, : len(metagenes.gram)], n_unfinished


def _solve(
    tile: CellTile, metagenes: MetageneTable, tol: float, start: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.float32], int]:
    """Loadings and products as padded rows, and cells that did not reach the tolerance."""
    n, width, k = len(tile.rows), metagenes.table.shape[1], len(metagenes.gram)
    R, H = aligned_zeros(n * width, np.float32), aligned_zeros(n * width, np.float32)
    if start is not None:
        H.reshape(n, width)[:, :k] = start
    solver = metagenes.solver
    shape = panels_of(k, np.float32)[1]
    products(*tile.arrays, metagenes.table.ravel(), width, shape, R)
    sweeps, residual = np.empty(n, np.int32), np.empty(n)
    layout = R, width, H, H, width, k
    descend(*solver.arrays, (1.0, 1.0), *layout, fast_limit(tol), MAX_SWEEPS, sweeps, residual)
    H, R = H.reshape(n, width), R.reshape(n, width)
    replace_bounds(residual, tol, metagenes.gram, R[:, :k], H[:, :k])
    return H, R, int(np.count_nonzero(~(residual <= tol)))


def minibatch_step(
    tile: CellTile, metagenes: MetageneTable, tol: float, start: NDArray[np.float32] | None = None
) -> tuple[NDArray[np.float32], TileStatistics]:
    """Loadings of a tile and what they add to A, B and F.

    Parameters
    ----------
    tile, metagenes, tol, start
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
    Holds 8 m k + 24 n k bytes beside its inputs.
    """
    H, R, n_unfinished = _solve(tile, metagenes, tol, start)
    n, k = len(H), len(metagenes.gram)
    A, B, squared = _sums(tile, metagenes.scale, H, k)
    # F of the tile by traces: |X|^2 - 2 tr(H R^T) + tr(G A).
    fitted = float((metagenes.gram * A).sum())
    loss = squared - 2.0 * explained(R.ravel(), H.ravel()) + fitted
    return H[:, :k], TileStatistics(A, B, squared, loss, n, n_unfinished)


def _sums(
    tile: CellTile, scale: NDArray[np.float64], H: NDArray[np.float32], k: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """A, shape (k, k), B, shape (m, k), and |X|^2 of a tile."""
    (n, narrow), m = H.shape, len(scale)
    width, shape = row_width(k, np.float64), panels_of(k, np.float64)[1]
    wide = aligned_zeros(n * width, np.float64)
    widen_rows(H.ravel(), n, narrow, k, wide, width)
    B = aligned_zeros(m * width, np.float64)
    squared = float(add_by_gene(*tile.arrays, scale, wide, B, width, shape))
    scale_rows(B, width, scale)
    A = aligned_zeros(-(-k // 4) * 4 * width, np.float64)
    add_second_moments(wide, n, width, k, A)
    lower = np.tril(A.reshape(-1, width)[:k, :k])
    by_gene = np.ascontiguousarray(B.reshape(m, width)[:, :k])
    return lower + np.tril(lower, -1).T, by_gene, squared
