"""Non-negative least squares for many cells that share one Gram matrix (Numba).

Coordinate descent in dot form with cells in SIMD lanes: a tile holds its cells
as columns, ``h[j * LANES + lane]``, so that every inner loop runs over lanes
with unit stride. A cell leaves its tile as soon as its own KKT residual is at
most ``tol`` times its largest |r|: how many sweeps a cell gets depends on that
cell only, never on its neighbours, and the lanes that stay are moved together.

References
----------
Hsieh and Dhillon (2011), doi:10.1145/2020408.2020577; Cichocki and Phan
(2009), doi:10.1587/transfun.E92.A.708.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray

LANES = 128
"""Cells per tile; fixed, so that results never depend on the machine."""

_LANE_STEP = 16
"""Active lanes are rounded up to this, which keeps inner loops free of remainders."""


_ROUNDING = np.float32(1e-6)
"""What float32 leaves of a residual that is zero, relative to the largest product."""


@njit(cache=True, nogil=True, fastmath={"contract"})
def _subtract_four(acc, g0, h0, g1, h1, g2, h2, g3, h3):  # type: ignore[no-untyped-def]
    for i in range(len(acc)):
        acc[i] -= g0 * h0[i] + g1 * h1[i] + g2 * h2[i] + g3 * h3[i]


@njit(cache=True, nogil=True, fastmath={"contract"})
def _subtract_one(acc, g, h):  # type: ignore[no-untyped-def]
    for i in range(len(acc)):
        acc[i] -= g * h[i]


@njit(cache=True, nogil=True)
def _step(h, gradient, step, diagonal, change):  # type: ignore[no-untyped-def]
    for i in range(len(h)):
        new = max(np.float32(0.0), h[i] + gradient[i] * step)
        change[i] = max(change[i], abs(new - h[i]) * diagonal)
        h[i] = new


@njit(cache=True, nogil=True)
def _sweep(G, r, h, gradient, change, width):  # type: ignore[no-untyped-def]
    k = len(G)
    change[:width] = 0.0
    for j in range(k):
        if G[j, j] <= 0.0:
            continue
        acc = gradient[:width]
        acc[:] = r[j * LANES : j * LANES + width]
        o = 0
        while o + 4 <= k:
            at = o * LANES
            _subtract_four(
                acc,
                G[j, o],
                h[at : at + width],
                G[j, o + 1],
                h[at + LANES : at + LANES + width],
                G[j, o + 2],
                h[at + 2 * LANES : at + 2 * LANES + width],
                G[j, o + 3],
                h[at + 3 * LANES : at + 3 * LANES + width],
            )
            o += 4
        while o < k:
            _subtract_one(acc, G[j, o], h[o * LANES : o * LANES + width])
            o += 1
        row = h[j * LANES : j * LANES + width]
        _step(row, acc, np.float32(1.0) / G[j, j], G[j, j], change[:width])


@njit(cache=True, nogil=True, fastmath={"contract"})
def _residual(G, h, r, i, loading, gradient):  # type: ignore[no-untyped-def]
    """KKT residual of lane i: max_j |min(h_j G_jj, gradient_j)|."""
    k = len(G)
    for j in range(k):
        loading[j] = h[j * LANES + i]
        gradient[j] = -r[j * LANES + i]
    for o in range(k):
        if loading[o] > 0.0:
            for j in range(k):
                gradient[j] += loading[o] * G[o, j]
    largest = np.float32(0.0)
    for j in range(k):
        if G[j, j] > 0.0:
            largest = max(largest, abs(min(loading[j] * G[j, j], gradient[j])))
    return largest


@njit(cache=True, nogil=True)
def _retire(G, H, h, r, cell, limit, change, n_active):  # type: ignore[no-untyped-def]
    """Write out the lanes that have converged and close the gaps they leave.

    A small change is the hint, which costs nothing; the residual is the proof.
    """
    k = H.shape[1]
    loading, gradient = np.empty(k, np.float32), np.empty(k, np.float32)
    kept = 0
    for i in range(n_active):
        if change[i] <= limit[i] and _residual(G, h, r, i, loading, gradient) <= limit[i]:
            for j in range(k):
                H[cell[i], j] = h[j * LANES + i]
        else:
            if kept != i:
                for j in range(k):
                    h[j * LANES + kept] = h[j * LANES + i]
                    r[j * LANES + kept] = r[j * LANES + i]
                cell[kept] = cell[i]
                limit[kept] = limit[i]
            kept += 1
    return kept


@njit(cache=True, nogil=True)
def _load(R, start, n, r, h, cell, limit, tol):  # type: ignore[no-untyped-def]
    r[:] = 0.0
    h[:] = 0.0
    for i in range(n):
        largest = np.float32(0.0)
        for j in range(R.shape[1]):
            r[j * LANES + i] = R[start + i, j]
            largest = max(largest, abs(R[start + i, j]))
        cell[i] = start + i
        limit[i] = (tol + _ROUNDING) * largest


@njit(cache=True, nogil=True)
def nnls_into(
    G: NDArray[np.float32],
    R: NDArray[np.float32],
    H: NDArray[np.float32],
    tol: float,
    max_sweeps: int,
) -> int:
    """Solve H = argmin over H >= 0 of sum_c h_c G h_c^T - 2 r_c h_c^T, in place.

    Parameters
    ----------
    G
        Gram matrix, float32, shape (k, k), symmetric positive semi-definite.
    R
        Products, float32, shape (n, k).
    H
        Written: loadings, float32, shape (n, k).
    tol
        A cell is done when its KKT residual, max_j |min(h_j G_jj, gradient_j)|,
        is at most ``tol`` (and 1e-6 of rounding) times its largest |r|.
    max_sweeps
        A cell that is not done by then keeps its last value.

    Returns
    -------
    int
        Number of cells that stopped at ``max_sweeps``.
    """
    n, k = R.shape
    r = np.empty(k * LANES, np.float32)
    h = np.empty(k * LANES, np.float32)
    gradient = np.empty(LANES, np.float32)
    change = np.empty(LANES, np.float32)
    cell = np.empty(LANES, np.int64)
    limit = np.empty(LANES, np.float32)
    n_unfinished = 0
    for start in range(0, n, LANES):
        n_active = min(LANES, n - start)
        _load(R, start, n_active, r, h, cell, limit, np.float32(tol))
        for _ in range(max_sweeps):
            width = (n_active + _LANE_STEP - 1) // _LANE_STEP * _LANE_STEP
            _sweep(G, r, h, gradient, change, width)
            n_active = _retire(G, H, h, r, cell, limit, change, n_active)
            if n_active == 0:
                break
        n_unfinished += n_active
        limit[:n_active] = np.inf
        change[:n_active] = 0.0
        _retire(G, H, h, r, cell, limit, change, n_active)
    return n_unfinished
