"""Groups of cells that are solved on their passive sets together (Numba).

Lane i of every vector belongs to cell i of a group; nothing ever passes from one lane
to another, so that a cell's numbers depend on that cell alone.

G is brought to a diagonal between 1/2 and 2 by powers of two. These are exact both
ways, so that the residual of the scaled system is the residual of the given one.
"""

from __future__ import annotations

from math import frexp, ldexp
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import njit
from numba.extending import intrinsic
from numpy.typing import NDArray

from tigon.kernels.cpu.cholesky import (
    N_LANES,
    PARTS,
    factor_length,
    gather,
    gradient,
    solve_passive,
)
from tigon.kernels.cpu.lanes import absolute, add, load, maximum, multiply, store

ENTERS = 1e-13
"""A gradient below minus this, relative to the largest product, is not rounding."""


class System(NamedTuple):
    """G scaled to a diagonal between 1/2 and 2: ``gram = G / (scale scale^T)``.

    ``gram`` is float64, flat, ``stride`` rows and columns, of which those from k on
    are zero. ``scale`` and ``inverse``, one over it, are float64, shape (stride,), both
    0 for a factor that explains nothing. ``ridge`` is added to the diagonal of passive
    blocks, relative to it.
    """

    gram: NDArray[np.float64]
    scale: NDArray[np.float64]
    inverse: NDArray[np.float64]
    stride: int
    ridge: float


class Group(NamedTuple):
    """Scratch of a group: flat arrays, lanes innermost, float64 unless said.

    In the order of the passive factors: ``factor``, ``pivots`` (one over their roots),
    ``floors``, ``y`` and ``passive`` (int64). In the order of all factors: ``r``, ``x``
    and ``g``, products, loadings and gradient of the scaled system. One for every lane:
    ``largest`` |r| before scaling, ``limit`` of the gradient below which a factor
    enters, KKT ``residual``, ``n_bad`` infeasible factors, and ``end`` (int64), the
    place behind its last passive factor.
    """

    factor: NDArray[np.float64]
    pivots: NDArray[np.float64]
    floors: NDArray[np.float64]
    y: NDArray[np.float64]
    passive: NDArray[np.int64]
    r: NDArray[np.float64]
    x: NDArray[np.float64]
    g: NDArray[np.float64]
    largest: NDArray[np.float64]
    limit: NDArray[np.float64]
    residual: NDArray[np.float64]
    n_bad: NDArray[np.float64]
    end: NDArray[np.int64]


@njit(cache=True, nogil=True)
def scaled_system(G, ridge):  # type: ignore[no-untyped-def]
    """The system of a Gram matrix, float64, shape (k, k)."""
    k = len(G)
    stride = k // 4 * 4 + 4  # at least one row of zeros, for lanes that are filled up
    scale, inverse = np.zeros(stride), np.zeros(stride)
    for j in range(k):
        if G[j, j] > 0.0:
            exponent = frexp(G[j, j])[1] // 2
            scale[j], inverse[j] = ldexp(1.0, exponent), ldexp(1.0, -exponent)
    gram = np.zeros(stride * stride)
    for j in range(k):
        for o in range(k):
            gram[j * stride + o] = G[j, o] * inverse[j] * inverse[o]
    return System(gram, scale, inverse, stride, ridge)


@njit(cache=True, nogil=True)
def new_group(k, stride):  # type: ignore[no-untyped-def]
    """Scratch for k factors: about 4 k^2 + 64 k numbers."""
    most = k + k % 2
    return Group(
        np.empty(factor_length(most)),
        np.empty(most * N_LANES),
        np.empty(most * N_LANES),
        np.empty((most + 1) * N_LANES),
        np.empty((most + 1) * N_LANES, np.int64),
        np.zeros(stride * N_LANES),
        np.zeros(stride * N_LANES),
        np.empty(stride * N_LANES),
        np.empty(N_LANES),
        np.empty(N_LANES),
        np.empty(N_LANES),
        np.empty(N_LANES),
        np.empty(N_LANES, np.int64),
    )


@njit(cache=True, nogil=True)
def _load(system, R, H, cells, group):  # type: ignore[no-untyped-def]
    """Products and passive sets of cells; the size of the largest set, made even.

    Without a branch on the marks, which no processor could foresee.
    """
    k = R.shape[1]
    most = 0
    for lane in range(N_LANES):
        c = cells[min(lane, len(cells) - 1)]
        place, limit, largest = lane, 0.0, 0.0
        for j in range(k):
            product = R[c, j] * system.inverse[j]
            group.r[j * N_LANES + lane] = product
            largest, limit = max(largest, abs(R[c, j])), max(limit, abs(product))
            group.passive[place], group.y[place] = j, product
            place += N_LANES * ((H[c, j] > 0.0) & (system.inverse[j] > 0.0))
        group.largest[lane], group.limit[lane] = largest, -ENTERS * limit
        group.end[lane] = place
        most = max(most, place // N_LANES)
    most += most % 2
    for lane in range(N_LANES):
        for rest in range(group.end[lane], most * N_LANES, N_LANES):
            group.passive[rest], group.y[rest] = k, 0.0
    return most


@njit(cache=True, nogil=True)
def _solve(system, group, p):  # type: ignore[no-untyped-def]
    """Add the solution for the right-hand side ``y`` to ``x``; then the gradient."""
    gather(system.gram, system.stride, group.passive, p, system.ridge, group.factor, group.floors)
    solve_passive(group.factor, group.pivots, group.floors, group.y, p)
    for place in range(p * N_LANES):
        group.x[group.passive[place] * N_LANES + place % N_LANES] += group.y[place]
    gradient(system.gram, system.stride, group.x, group.r, group.g)


@intrinsic
def _infeasible(_typing: Any, x: Any, g: Any, limit: Any) -> Any:
    """0 in lanes where ``x > 0``, or where ``x == 0`` and ``g >= limit``; 1 in the others."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        result = ir.Constant(context.get_value_type(x), ir.Undefined)
        for i in range(x.parts):
            loading, gradient, least = (builder.extract_value(v, i) for v in args)
            zero = ir.Constant(loading.type, [0.0] * loading.type.count)
            one = ir.Constant(loading.type, [1.0] * loading.type.count)
            stays_out = builder.and_(
                builder.fcmp_ordered("==", loading, zero),
                builder.fcmp_ordered(">=", gradient, least),
            )
            good = builder.or_(builder.fcmp_ordered(">", loading, zero), stays_out)
            result = builder.insert_value(result, builder.select(good, zero, one), i)
        return result

    return x(x, g, limit), generate


@njit(cache=True, nogil=True)
def _judge(system, k, group):  # type: ignore[no-untyped-def]
    """Residual and infeasible factors of every cell.

    A passive factor whose pivot collapsed has loading 0 and is judged by its gradient.
    """
    limit = load(group.limit, 0, PARTS)
    n_bad = worst = multiply(limit, 0.0)
    for j in range(k):
        x, g = load(group.x, j * N_LANES, PARTS), load(group.g, j * N_LANES, PARTS)
        n_bad = add(n_bad, _infeasible(x, g, limit))
        # min(a, g) = -max(-a, -g), whose sign the absolute value drops.
        excess = multiply(x, -system.gram[j * system.stride + j])
        left = maximum(excess, multiply(g, -1.0))
        worst = maximum(worst, multiply(absolute(left), system.scale[j]))
    store(group.n_bad, 0, n_bad)
    store(group.residual, 0, worst)
    for lane in range(N_LANES):
        if group.residual[lane] > 0.0:
            group.residual[lane] /= group.largest[lane]


@njit(cache=True, nogil=True)
def _left_over(system, group, p, tol):  # type: ignore[no-untyped-def]
    """Right-hand sides of what feasible cells are off by rounding or ridge; if any are."""
    needed = False
    for lane in range(N_LANES):
        off = group.n_bad[lane] == 0 and (group.residual[lane] > tol or system.ridge > 0.0)
        needed |= off
        for place in range(lane, p * N_LANES, N_LANES):
            left = group.g[group.passive[place] * N_LANES + lane]
            group.y[place] = -left if off else 0.0
    return needed


@njit(cache=True, nogil=True)
def solve_group(system, R, H, cells, group, tol):  # type: ignore[no-untyped-def]
    """Solve up to ``N_LANES`` cells on the passive sets that H marks; judge the result.

    Parameters
    ----------
    system
        What is solved.
    R, H
        Products and marks (positive: passive), float64, shape (n, k).
    cells
        Rows of R and H, int64, 1 to ``N_LANES`` of them.
    group
        Written: solution, gradient and judgement of cell i in lane i.
    tol
        Residual above which a feasible solution is refined once.
    """
    k = R.shape[1]
    p = _load(system, R, H, cells, group)
    group.x[:] = 0.0
    for refined in range(2):
        _solve(system, group, p)
        _judge(system, k, group)
        if refined == 1 or not _left_over(system, group, p, tol):
            break
