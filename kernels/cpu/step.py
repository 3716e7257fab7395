"""One tile of cells: products, loadings and statistics while its counts lie in the cache."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.descent import fast_limit
from tigon.kernels.cpu.fused import solve_tile, step_tile
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
    found = solve_tile(*tile.arrays, *_system(metagenes, tol), H, places, sizes)
    return H, _count_unfinished(metagenes, tol, *found)


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
    wide_shape = panels_of(len(metagenes.gram), np.float64)[1]
    found, A, B, squared, loss = step_tile(
        tile.arrays,
        metagenes.scale,
        metagenes.gram,
        wide_shape,
        _system(metagenes, tol),
        H,
        places,
        sizes,
    )
    B = np.ascontiguousarray(B.reshape(len(metagenes.scale), -1)[:, : len(A)])
    n_unfinished = _count_unfinished(metagenes, tol, *found)
    return TileStatistics(A, B, squared, loss, len(tile.rows), n_unfinished)


def _begin(
    tile: CellTile, metagenes: MetageneTable, start: NDArray[np.float32] | None
) -> tuple[NDArray[np.float32], NDArray[np.int64], NDArray[np.float32]]:
    """Where cells start that have rows of their own, as the kernels take it."""
    n, k = len(tile.rows), len(metagenes.gram)
    H = np.zeros((n, k), np.float32) if start is None else np.array(start, np.float32, order="C")
    return H, np.arange(n), np.ones(k, np.float32)


def _system(metagenes: MetageneTable, tol: float) -> tuple[Any, ...]:
    """What the cells are solved against, as the kernels take it."""
    table, shape = metagenes.table, panels_of(len(metagenes.gram), np.float32)[1]
    solver, limits = metagenes.solver.arrays, (fast_limit(tol), MAX_SWEEPS)
    return table.ravel(), table.shape[1], shape, *solver, *limits


def _count_unfinished(
    metagenes: MetageneTable,
    tol: float,
    R: NDArray[np.float32],
    H: NDArray[np.float32],
    residual: NDArray[np.float64],
) -> int:
    """Cells that did not reach the tolerance; R and H are padded rows, flat."""
    if (residual <= tol).all():
        return 0
    width, k = metagenes.table.shape[1], len(metagenes.gram)
    unpadded = (a.reshape(-1, width)[:, :k] for a in (R, H))
    replace_bounds(residual, tol, metagenes.gram, *unpadded)
    return int(np.count_nonzero(~(residual <= tol)))
