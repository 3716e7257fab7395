"""What is left when pivoting finds no passive set: coordinate descent, cell by cell (Numba).

Pivoting can fail where G is not positive definite beyond rounding. Coordinate descent
lowers the objective h G h^T / 2 - r h^T whatever G is.
"""

from __future__ import annotations

import numpy as np
from numba import njit

FRESH = 10
"""Sweeps between gradients that are computed anew, which rounding cannot drift from."""


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_scaled(out, a, row):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] += a * row[i]


@njit(cache=True, nogil=True)
def _gradient(G, r, h, g):  # type: ignore[no-untyped-def]
    g[:] = -r
    for o in range(len(h)):
        if h[o] != 0.0:
            _add_scaled(g, h[o], G[o])


@njit(cache=True, nogil=True)
def _residual(G, r, h, g):  # type: ignore[no-untyped-def]
    """KKT residual max_j |min(h_j G_jj, g_j)| / max_j |r_j| over factors with G_jj > 0."""
    worst = 0.0
    for j in range(len(h)):
        if G[j, j] > 0.0:
            worst = max(worst, abs(min(h[j] * G[j, j], g[j])))
    return worst / np.abs(r).max() if worst > 0.0 else 0.0


@njit(cache=True, nogil=True)
def descend(G, r, h, tol, max_sweeps):  # type: ignore[no-untyped-def]
    """Coordinate descent from h, in place; return the KKT residual.

    Parameters
    ----------
    G
        Gram matrix, float64, shape (k, k).
    r
        Products, float64, shape (k,).
    h
        Loadings to start from, float64, shape (k,); written. They are left out where
        they explain less than zero loadings do.
    tol
        Residual to stop at.
    max_sweeps
        Sweeps to stop at, of 2 k^2 floating-point operations each.
    """
    g = np.empty_like(h)
    _gradient(G, r, h, g)
    if np.dot(h, g - r) > 0.0:
        h[:] = 0.0
    for sweep in range(max_sweeps):
        if sweep % FRESH == 0:
            _gradient(G, r, h, g)
            if _residual(G, r, h, g) <= tol:
                break
        for j in range(len(h)):
            if G[j, j] > 0.0:
                step = max(-h[j], -g[j] / G[j, j])
                if step != 0.0:
                    h[j] += step
                    _add_scaled(g, step, G[j])
    _gradient(G, r, h, g)
    return _residual(G, r, h, g)
