"""Exact non-negative least squares: block principal pivoting, cells in lanes (Numba).

The passive set of a cell holds the factors that may have a positive loading; given
it, the loadings are one Cholesky solve. Passive factors that come out negative leave
the set, others whose gradient is negative enter it, all at once while their number
falls. A cell's rounds end when no factor is left to exchange, which is the optimum.

Where the number does not fall for a while, G is nearly singular on the sets that were
tried, or (rarely) the exchanges run in a circle. Such cells are tried again with a small
ridge, which iterative refinement takes out of the solution. Those that still do not
settle are solved one factor at a time: the usual rule for them, to exchange the factor
of the largest index, ends in theory and may take more than a thousand solves in practice.

Rounds go over all unfinished cells, eight at a time, in the order of the sizes of
their passive sets: nearly every cell has a set of its own, but not a size of its own.

References
----------
Kim and Park (2011), doi:10.1137/110821172; Portugal, Judice and Vicente (1994),
doi:10.1090/S0025-5718-1994-1250776-4.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.kernels.cpu.cholesky import N_LANES
from tigon.kernels.cpu.pivot_group import new_group, scaled_system, solve_group
from tigon.kernels.cpu.pivot_single import solve_single

PATIENCE = 3
"""Full exchanges in a row that need not lower the number of infeasible factors."""

RIDGE = 1e-11
"""Far above the rounding of pivots, and small enough for refinement to take out."""


class Progress(NamedTuple):
    """What is known of every cell, in the order of R.

    ``size`` (int64) of the passive set, ``fewest`` (int64) infeasible factors so far,
    ``patience`` (int64) left for full exchanges.
    """

    size: NDArray[np.int64]
    fewest: NDArray[np.int64]
    patience: NDArray[np.int64]


@njit(cache=True, nogil=True)
def _new_progress(H, cells):  # type: ignore[no-untyped-def]
    n, k = H.shape
    size = np.zeros(n, np.int64)
    for c in cells:
        for j in range(k):
            size[c] += H[c, j] > 0.0
    return Progress(size, np.full(n, k + 1), np.full(n, PATIENCE))


@njit(cache=True, nogil=True)
def _in_order_of_size(cells, size, counts, order):  # type: ignore[no-untyped-def]
    """Sort cells by the size of their passive sets, by counting."""
    counts[:] = 0
    for c in cells:
        counts[size[c] + 1] += 1
    for p in range(1, len(counts)):
        counts[p] += counts[p - 1]
    for c in cells:
        order[counts[size[c]]] = c
        counts[size[c]] += 1


@njit(cache=True, nogil=True)
def _exchange(group, lane, row):  # type: ignore[no-untyped-def]
    """Mark the next passive set in ``row``, 1 within and 0 outside; return its size."""
    size = 0
    for j in range(len(row)):
        x, g = group.x[j * N_LANES + lane], group.g[j * N_LANES + lane]
        passive = x > 0.0 or (x == 0.0 and g < group.limit[lane])
        row[j] = 1.0 if passive else 0.0
        size += passive
    return size


@njit(cache=True, nogil=True)
def _keep(system, group, lane, row):  # type: ignore[no-untyped-def]
    for j in range(len(row)):
        row[j] = max(group.x[j * N_LANES + lane], 0.0) * system.inverse[j]


@njit(cache=True, nogil=True)
def _goes_on(group, lane, c, progress):  # type: ignore[no-untyped-def]
    """Whether a cell is to be exchanged once more; counts what it has left."""
    n_bad = int(group.n_bad[lane])
    if n_bad < progress.fewest[c]:
        progress.fewest[c], progress.patience[c] = n_bad, PATIENCE
    else:
        progress.patience[c] -= 1
    return n_bad > 0 and progress.patience[c] >= 0


@njit(cache=True, nogil=True)
def _pivot(system, R, H, todo, tol, max_pivots, n_pivots, residual):  # type: ignore[no-untyped-def]
    """Rounds over the cells ``todo``, which is written; return those given up."""
    k = R.shape[1]
    group, progress = new_group(k, system.stride), _new_progress(H, todo)
    order, counts = np.empty_like(todo), np.empty(k + 2, np.int64)
    given_up, n_given_up, n_todo = np.empty_like(todo), 0, len(todo)
    while n_todo > 0:
        _in_order_of_size(todo[:n_todo], progress.size, counts, order)
        n_left = 0
        for start in range(0, n_todo, N_LANES):
            cells = order[start : min(start + N_LANES, n_todo)]
            solve_group(system, R, H, cells, group, tol)
            for lane in range(len(cells)):
                c = cells[lane]
                n_pivots[c] += progress.size[c] > 0
                if _goes_on(group, lane, c, progress) and n_pivots[c] < max_pivots:
                    progress.size[c] = _exchange(group, lane, H[c])
                    todo[n_left] = c
                    n_left += 1
                    continue
                _keep(system, group, lane, H[c])
                residual[c] = group.residual[lane]
                if group.n_bad[lane] > 0 or residual[c] > tol:
                    given_up[n_given_up] = c
                    n_given_up += 1
        n_todo = n_left
    return given_up[:n_given_up]


@njit(cache=True, nogil=True)
def pivot_into(
    G: NDArray[np.float64],
    R: NDArray[np.float64],
    H: NDArray[np.float64],
    tol: float,
    max_pivots: int,
    n_pivots: NDArray[np.int32],
    residual: NDArray[np.float64],
) -> None:
    """Solve H = argmin over H >= 0 of sum_c h_c G h_c^T - 2 r_c h_c^T exactly, in place.

    Parameters
    ----------
    G
        Gram matrix, float64, shape (k, k), symmetric positive semi-definite. A factor
        whose ``G[j, j]`` is zero explains nothing and gets loading 0.
    R
        Products, float64, shape (n, k).
    H
        Loadings, float64, shape (n, k), C-contiguous. The positive ones mark the
        passive sets to start from; zeros everywhere are a cold start. Written.
    tol
        KKT residual, max_j |min(h_j G_jj, gradient_j)| over max_j |r_j|, at which a
        cell counts as solved: 1e-10 is far above rounding.
    max_pivots
        Solves after which a cell is left to the next method, and by the last of them
        as it is; 5 k is usual.
    n_pivots
        Written: solves of every cell, int32, shape (n,).
    residual
        Written: KKT residual of every cell, float64, shape (n,), computed from the
        loadings. Above ``tol`` for a cell that could not be solved.

    Notes
    -----
    A solve with p passive factors takes p^3 / 3 + 2 p^2 + 2 k^2 floating-point
    operations; a good start needs one or two, a cold one three to five. Holds about
    40 k^2 + 500 k + 48 n bytes beside its arguments. Every cell's loadings depend
    on its own products, marks and G: never on other cells, or their order.

    Of several optima, which a singular G has, the one found depends on the start.
    """
    n_pivots[:] = 0
    system = scaled_system(G, 0.0)
    rest = _pivot(system, R, H, np.arange(len(R)), tol, max_pivots, n_pivots, residual)
    if len(rest) > 0:
        system = scaled_system(G, RIDGE)
        rest = _pivot(system, R, H, rest, tol, max_pivots, n_pivots, residual)
        group = new_group(len(G), system.stride)
        for c in rest:
            n, residual[c] = solve_single(system, G, R[c], H[c], group, tol, max_pivots)
            n_pivots[c] += n
