"""One tile of cells: products, loadings and statistics while its counts lie in the cache."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.descent import fast_limit
from tigon.kernels.cpu.fused import solve_tile, sum_tile
from tigon.kernels.cpu.metagenes import MetageneTable
from tigon.kernels.cpu.panels import panels_of
from tigon.kernels.cpu.residual import replace_bounds
from tigon.kernels.tile import CellTile, TileStatistics

MAX_SWEEPS = 500


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
    H, places, sizes = _begin(tile, metagenes, start)
    return H, _solve(tile, metagenes, tol, H, places, sizes)[1]


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
    H, places, sizes = _begin(tile, metagenes, start)
    return H, minibatch_step_in_place(tile, metagenes, tol, H, places, sizes)


def minibatch_step_in_place(
    tile: CellTile,
    metagenes: MetageneTable,
    tol: float,
    H: NDArray[np.float32],
    places: NDArray[np.int64],
    sizes: NDArray[np.float32],
) -> TileStatistics:
    """:func:`minibatch_step` from and into rows of an array.

    Parameters
    ----------
    tile, metagenes, tol
        As in :func:`loadings`.
    H
        Loadings times ``sizes``, float32, contiguous, shape (any, k): where the cells
        start, and written.
    places
        Row of each cell in ``H``, int64, shape (n,).
    sizes
        Positive, float32, shape (k,).

    Raises
    ------
    ValueError
        ``H`` is not contiguous: what is found would go into a copy of it.
    """
    if not H.flags.c_contiguous:
        raise ValueError(f"H, of shape {H.shape}, is not contiguous: pass a contiguous array")
    found, n_unfinished = _solve(tile, metagenes, tol, H, places, sizes)
    k, shape = len(metagenes.gram), panels_of(len(metagenes.gram), np.float64)[1]
    A, B, squared, explained = sum_tile(*tile.arrays, metagenes.scale, *found, k, shape)
    # F of the tile by traces: |X|^2 - 2 tr(H R^T) + tr(G A).
    loss = squared - 2.0 * explained + float((metagenes.gram * A).sum())
    B = np.ascontiguousarray(B.reshape(len(metagenes.scale), -1)[:, :k])
    return TileStatistics(A, B, squared, loss, len(tile.rows), n_unfinished)


def _begin(
    tile: CellTile, metagenes: MetageneTable, start: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Where cells start that have rows of their own, as :func:`_solve` takes it."""
    n, k = len(tile.rows), len(metagenes.gram)
    H = np.zeros((n, k), np.float32) if start is None else np.array(start, np.float32, order="C")
    return H, np.arange(n), np.ones(k, np.float32)


def _solve(
    tile: CellTile,
    metagenes: MetageneTable,
    tol: float,
    H: NDArray[np.float32],
    places: NDArray[np.int64],
    sizes: NDArray[np.float32],
) -> tuple[tuple[NDArray[np.float32], NDArray[np.float32]], int]:
    """Products and loadings as padded rows, and cells that did not reach the tolerance."""
    width, k = metagenes.table.shape[1], len(metagenes.gram)
    shape = panels_of(k, np.float32)[1]
    table, solver = metagenes.table.ravel(), metagenes.solver.arrays
    limits = fast_limit(tol), MAX_SWEEPS
    R, solved, residual = solve_tile(
        *tile.arrays, table, width, shape, *solver, *limits, H, places, sizes
    )
    unpadded = (a.reshape(-1, width)[:, :k] for a in (R, solved))
    replace_bounds(residual, tol, metagenes.gram, *unpadded)
    return (R, solved), int(np.count_nonzero(~(residual <= tol)))
