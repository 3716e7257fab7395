"""Least squares on passive sets: a Cholesky factor of its own in every lane (Numba).

Lane i of every vector belongs to cell i of a group. A cell's passive block
``G[p, p]`` is gathered into lane i and factorised there, so that eight cells with
eight different passive sets share every instruction. Groups are as wide as their
largest passive set: the other lanes are filled up with factor ``k``, whose row of
G is zero, and which no result sees.

The lower factor lies in blocks of two rows: element (2 b + a, t) of the factor is
the vector ``2 b (b + 1) + 2 t + a``. Each step of an inner loop then reads two rows
and two columns for four products.

A pivot that is not above ``PIVOT_FLOOR`` of its diagonal belongs to a factor that
depends on the passive ones before it. Its inverse is set to zero, which solves the
system as though the factor were not passive; filled-up places leave the same way.

References
----------
Golub and Van Loan (2013), Matrix Computations, section 4.2, ISBN 978-1421407944.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils
from numba.extending import intrinsic

from tigon.kernels.cpu.lanes import at, fma, fnma, load, multiply, store

PARTS = 2
"""Vectors a group is wide: with blocks of two by two, what 16 registers hold."""

N_LANES = 8
"""Cells in a group: ``PARTS`` vectors of four float64."""

PIVOT_FLOOR = 1e-13
"""Rounding of a pivot is about p * 2e-16 of its diagonal; p is at most a few hundred."""


@njit(cache=True, nogil=True)
def factor_length(p):  # type: ignore[no-untyped-def]
    """Elements that the factors of p (even) passive factors take, all lanes."""
    b = p // 2
    return 2 * b * (b + 1) * N_LANES


@njit(cache=True, nogil=True, inline="always")
def _block(b):  # type: ignore[no-untyped-def]
    return 2 * b * (b + 1) * N_LANES


@njit(cache=True, nogil=True)
def gather(G, stride, index, p, ridge, factor, floor):  # type: ignore[no-untyped-def]
    """Copy passive blocks of G to the places of their factors.

    Parameters
    ----------
    G
        Gram matrix, float64, flat, ``stride`` rows and columns; zero in the row and
        column that filled-up places point to.
    stride
        Elements from one row of G to the next.
    index
        Passive factors of every lane, int64, flat, at least p * N_LANES.
    p
        Passive factors of the fullest lane, rounded up to even.
    ridge
        Added to the diagonal, relative to it.
    factor, floor
        Written: see :func:`solve_passive`.
    """
    for i in range(p):
        row = _block(i // 2) + (i % 2) * N_LANES
        for lane in range(N_LANES):
            of = index[i * N_LANES + lane] * stride
            to = row + lane
            for t in range(i + 1):
                factor[to] = at(G, of + at(index, t * N_LANES + lane))
                to += 2 * N_LANES
            diagonal = factor[to - 2 * N_LANES]
            factor[to - 2 * N_LANES] += ridge * diagonal
            floor[i * N_LANES + lane] = PIVOT_FLOOR * diagonal


@intrinsic
def _inverse_root(_typing: Any, pivot: Any, floor: Any) -> Any:
    """``1 / sqrt(pivot)`` in lanes where it is above ``floor``, 0 in the others."""

    def generate(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        result = ir.Constant(context.get_value_type(pivot), ir.Undefined)
        for i in range(pivot.parts):
            d, least = (builder.extract_value(v, i) for v in args)
            sqrt = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(d.type, [d.type]), f"llvm.sqrt.v{d.type.count}f64"
            )
            one = ir.Constant(d.type, [1.0] * d.type.count)
            zero = ir.Constant(d.type, [0.0] * d.type.count)
            above = builder.fcmp_ordered(">", d, least)
            part = builder.select(above, builder.fdiv(one, builder.call(sqrt, [d])), zero)
            result = builder.insert_value(result, part, i)
        return result

    return pivot(pivot, floor), generate


@njit(cache=True, nogil=True)
def _off_diagonal(factor, inverse, b, c):  # type: ignore[no-untyped-def]
    """Rows 2 b and 2 b + 1 of columns 2 c and 2 c + 1, c < b."""
    u, v = _block(b), _block(c)
    here = u + 4 * c * N_LANES
    a00 = load(factor, here, PARTS)
    a10 = load(factor, here + N_LANES, PARTS)
    a01 = load(factor, here + 2 * N_LANES, PARTS)
    a11 = load(factor, here + 3 * N_LANES, PARTS)
    for t in range(2 * c):
        o = 2 * t * N_LANES
        u0, u1 = load(factor, u + o, PARTS), load(factor, u + o + N_LANES, PARTS)
        v0, v1 = load(factor, v + o, PARTS), load(factor, v + o + N_LANES, PARTS)
        a00, a01 = fnma(u0, v0, a00), fnma(u0, v1, a01)
        a10, a11 = fnma(u1, v0, a10), fnma(u1, v1, a11)
    below = load(factor, v + (4 * c + 1) * N_LANES, PARTS)
    d0 = load(inverse, 2 * c * N_LANES, PARTS)
    d1 = load(inverse, (2 * c + 1) * N_LANES, PARTS)
    a00, a10 = multiply(a00, d0), multiply(a10, d0)
    store(factor, here, a00)
    store(factor, here + N_LANES, a10)
    store(factor, here + 2 * N_LANES, multiply(fnma(a00, below, a01), d1))
    store(factor, here + 3 * N_LANES, multiply(fnma(a10, below, a11), d1))


@njit(cache=True, nogil=True)
def _diagonal(factor, inverse, floor, y, b):  # type: ignore[no-untyped-def]
    """Rows 2 b and 2 b + 1 of their own columns, and of the forward substitution."""
    u = _block(b)
    here, place = u + 4 * b * N_LANES, 2 * b * N_LANES
    a00 = load(factor, here, PARTS)
    a10 = load(factor, here + N_LANES, PARTS)
    a11 = load(factor, here + 3 * N_LANES, PARTS)
    y0, y1 = load(y, place, PARTS), load(y, place + N_LANES, PARTS)
    for t in range(2 * b):
        o = 2 * t * N_LANES
        u0, u1 = load(factor, u + o, PARTS), load(factor, u + o + N_LANES, PARTS)
        known = load(y, t * N_LANES, PARTS)
        a00, a10, a11 = fnma(u0, u0, a00), fnma(u0, u1, a10), fnma(u1, u1, a11)
        y0, y1 = fnma(u0, known, y0), fnma(u1, known, y1)
    d0 = _inverse_root(a00, load(floor, place, PARTS))
    a10, y0 = multiply(a10, d0), multiply(y0, d0)
    store(factor, here + N_LANES, a10)
    d1 = _inverse_root(fnma(a10, a10, a11), load(floor, place + N_LANES, PARTS))
    store(inverse, place, d0)
    store(inverse, place + N_LANES, d1)
    store(y, place, y0)
    store(y, place + N_LANES, multiply(fnma(a10, y0, y1), d1))


@njit(cache=True, nogil=True)
def _back_substitute(factor, inverse, y, p):  # type: ignore[no-untyped-def]
    for b in range(p // 2 - 1, -1, -1):
        u, place = _block(b), 2 * b * N_LANES
        below = load(factor, u + (4 * b + 1) * N_LANES, PARTS)
        x1 = multiply(load(y, place + N_LANES, PARTS), load(inverse, place + N_LANES, PARTS))
        x0 = fnma(below, x1, load(y, place, PARTS))
        x0 = multiply(x0, load(inverse, place, PARTS))
        store(y, place, x0)
        store(y, place + N_LANES, x1)
        for t in range(2 * b):
            o = u + 2 * t * N_LANES
            left = fnma(load(factor, o, PARTS), x0, load(y, t * N_LANES, PARTS))
            store(y, t * N_LANES, fnma(load(factor, o + N_LANES, PARTS), x1, left))


@njit(cache=True, nogil=True)
def solve_passive(factor, inverse, floor, y, p):  # type: ignore[no-untyped-def]
    """Factorise the gathered blocks in place and solve for ``y``, in place.

    Parameters
    ----------
    factor
        Gathered blocks, float64, flat, at least ``factor_length(p)``; written.
    inverse
        Written: one over the roots of the pivots, 0 where a pivot has collapsed,
        float64, flat, at least p * N_LANES.
    floor
        Largest pivot that counts as collapsed, as ``inverse``.
    y
        Right-hand sides, as ``inverse``; written: solutions, 0 where a pivot has
        collapsed.
    p
        Passive factors of the fullest lane, rounded up to even.

    Notes
    -----
    p^3 / 3 + 2 p^2 floating-point operations in every lane.
    """
    for b in range(p // 2):
        for c in range(b):
            _off_diagonal(factor, inverse, b, c)
        _diagonal(factor, inverse, floor, y, b)
    _back_substitute(factor, inverse, y, p)


@njit(cache=True, nogil=True)
def gradient(G, stride, x, r, out):  # type: ignore[no-untyped-def]
    """Compute ``out = G x - r`` in every lane.

    Parameters
    ----------
    G
        Float64, flat, ``stride`` rows and columns.
    stride
        A multiple of four.
    x, r, out
        Float64, flat, stride * N_LANES; ``out`` is written.

    Notes
    -----
    2 stride^2 floating-point operations in every lane: zeros in x are not left out,
    since no eight cells have them in the same places.
    """
    for j in range(0, stride, 4):
        base = j * stride
        here = j * N_LANES
        g0 = multiply(load(r, here, PARTS), -1.0)
        g1 = multiply(load(r, here + N_LANES, PARTS), -1.0)
        g2 = multiply(load(r, here + 2 * N_LANES, PARTS), -1.0)
        g3 = multiply(load(r, here + 3 * N_LANES, PARTS), -1.0)
        for o in range(stride):
            loading = load(x, o * N_LANES, PARTS)
            row = base + o
            g0 = fma(at(G, row), loading, g0)
            g1 = fma(at(G, row + stride), loading, g1)
            g2 = fma(at(G, row + 2 * stride), loading, g2)
            g3 = fma(at(G, row + 3 * stride), loading, g3)
        store(out, here, g0)
        store(out, here + N_LANES, g1)
        store(out, here + 2 * N_LANES, g2)
        store(out, here + 3 * N_LANES, g3)
