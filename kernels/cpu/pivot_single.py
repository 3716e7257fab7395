"""One factor at a time: where exchanges in blocks do not settle (Numba).

Lawson and Hanson's active set method. Loadings stay feasible: they move towards the
solution on the passive set as far as they remain non-negative, and factors that reach
zero leave the set. On the solution, the factor of the steepest gradient enters. Every
move lowers the objective, so that no set returns, whatever the rank of G; the price is
about one solve for each factor that enters or leaves. Coordinate descent finds the
loadings to start from.

References
----------
Lawson and Hanson (1974), Solving Least Squares Problems, chapter 23,
doi:10.1137/1.9781611971217.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tigon.kernels.cpu.cholesky import N_LANES
from tigon.kernels.cpu.pivot_group import solve_group

SWEEPS = 100
"""Of coordinate descent: enough to find most of the passive set."""


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_scaled(out, a, row):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] += a * row[i]


@njit(cache=True, nogil=True)
def _descend(G, r, h):  # type: ignore[no-untyped-def]
    """Coordinate descent from zero loadings."""
    g = np.empty_like(h)
    for j in range(len(h)):
        h[j], g[j] = 0.0, -r[j]
    for _ in range(SWEEPS):
        for j in range(len(h)):
            if G[j, j] > 0.0:
                step = max(-h[j], -g[j] / G[j, j])
                if step != 0.0:
                    h[j] += step
                    _add_scaled(g, step, G[j])


@njit(cache=True, nogil=True)
def _residual(G, r, h, g):  # type: ignore[no-untyped-def]
    """KKT residual max_j |min(h_j G_jj, g_j)| / max_j |r_j| where G_jj > 0; g is written."""
    worst, largest = 0.0, 0.0
    for j in range(len(h)):
        g[j] = -r[j]
        largest = max(largest, abs(r[j]))
    for o in range(len(h)):
        _add_scaled(g, h[o], G[o])
    for j in range(len(h)):
        if G[j, j] > 0.0:
            worst = max(worst, abs(min(h[j] * G[j, j], g[j])))
    return worst / largest if worst > 0.0 else 0.0


@njit(cache=True, nogil=True)
def _move(x, z, passive):  # type: ignore[no-untyped-def]
    """Move z towards the solution in lane 0 of x, while feasible; whether it got there."""
    share, blocking = 1.0, -1
    for j in range(len(z)):
        goal = x[j * N_LANES]
        if passive[j] > 0.0 and goal < 0.0 and z[j] / (z[j] - goal) < share:
            share, blocking = z[j] / (z[j] - goal), j
    for j in range(len(z)):
        if passive[j] > 0.0:
            z[j] += share * (x[j * N_LANES] - z[j])
            if blocking < 0:
                z[j] = x[j * N_LANES]
            if z[j] <= 0.0 or j == blocking:
                z[j], passive[j] = 0.0, 0.0
    return blocking < 0


@njit(cache=True, nogil=True)
def _steepest(g, limit, passive, barred):  # type: ignore[no-untyped-def]
    """Factor of the steepest gradient in lane 0 of g, or -1."""
    steepest, entering = limit, -1
    for j in range(len(passive)):
        if passive[j] == 0.0 and not barred[j] and g[j * N_LANES] < steepest:
            steepest, entering = g[j * N_LANES], j
    return entering


@njit(cache=True, nogil=True)
def _keep_better(G, r, found, h):  # type: ignore[no-untyped-def]
    """Write ``found`` to h if its residual is lower, which only a hopeless G prevents."""
    g, finite = np.empty_like(h), True
    for j in range(len(h)):
        finite &= found[j] < np.inf
    kept, residual = _residual(G, r, h, g), _residual(G, r, found, g)
    if finite and residual < kept:
        kept = residual
        for j in range(len(h)):
            h[j] = found[j]
    return kept


@njit(cache=True, nogil=True)
def solve_single(system, G, r, h, group, tol, max_solves):  # type: ignore[no-untyped-def]
    """Solve one cell; return the number of solves and the KKT residual.

    Parameters
    ----------
    system
        G, scaled and with a ridge, so that no pivot collapses.
    G
        Gram matrix, float64, shape (k, k).
    r
        Products, float64, shape (k,).
    h
        Written: loadings, float64, shape (k,).
    group
        Scratch.
    tol
        See :func:`tigon.kernels.cpu.pivot_group.solve_group`.
    max_solves
        Solves after which the loadings stay where they are.
    """
    k = len(h)
    R, marks, first = np.empty((1, k)), np.empty((1, k)), np.zeros(1, np.int64)
    z, g, passive = np.empty(k), np.empty_like(group.g), marks[0]
    barred, entering, n_solves = np.zeros(k, np.bool_), -1, 0
    _descend(G, r, h)
    for j in range(k):
        R[0, j], z[j] = r[j], h[j] * system.scale[j]
        passive[j] = 1.0 if h[j] > 0.0 else 0.0
    while n_solves < max_solves:
        solve_group(system, R, marks, first, group, tol)
        n_solves += 1
        if entering >= 0 and group.x[entering * N_LANES] <= 0.0:
            # Its gradient was rounding: without it, the last solution still stands.
            passive[entering], barred[entering] = 0.0, True
        else:
            barred[:] = False
            entering = -1
            if not _move(group.x, z, passive):
                continue
            for i in range(len(g)):
                g[i] = group.g[i]
        entering = _steepest(g, group.limit[0], passive, barred)
        if entering < 0:
            break
        passive[entering] = 1.0
    for j in range(k):
        z[j] *= system.inverse[j]
    return n_solves, _keep_better(G, r, z, h)
