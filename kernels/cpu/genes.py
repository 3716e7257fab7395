"""Kernels over genes: HALS for the metagenes, and products with their Gram matrix (Numba).

Given the statistics, genes are independent problems that share a Gram matrix, just as
cells are: a group of genes lies in SIMD lanes and is swept by the same kernel
(:mod:`tigon.kernels.cpu.sweep`). Every kernel takes a range of genes, so that ranges
can be spread over threads; no range sees another.

References
----------
Cichocki and Phan (2009), doi:10.1587/transfun.E92.A.708; Gao et al. (2021),
online iNMF, doi:10.1038/s41587-021-00867-x.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import (
    add,
    at,
    broadcast,
    fma,
    load,
    multiply,
    narrow,
    store,
    subtract,
    widen,
)
from tigon.kernels.cpu.sweep import BLOCK, GROUP_BYTES, PARTS, sweep

GENES = GROUP_BYTES // 4
"""Genes in a group: float32 lanes."""

_WIDE_PARTS = 2 * PARTS
"""Vectors of a group in float64."""


@njit(cache=True, nogil=True)
def _read_factor(factor, k, stop, m, first, group):  # type: ignore[no-untyped-def]
    """Columns of a float32 matrix, from ``first`` on, as lanes."""
    if first + GENES <= stop:
        for j in range(k):
            store(group, j * GENES, load(factor, j * m + first, PARTS))
    else:
        for j in range(k):
            for g in range(stop - first):
                group[j * GENES + g] = factor[j * m + first + g]


@njit(cache=True, nogil=True)
def _read_target(target, k, stop, m, first, group):  # type: ignore[no-untyped-def]
    """Columns of a float64 matrix, from ``first`` on, as float32 lanes."""
    if first + GENES <= stop:
        for j in range(k):
            store(group, j * GENES, narrow(load(target, j * m + first, _WIDE_PARTS)))
    else:
        for j in range(k):
            for g in range(stop - first):
                group[j * GENES + g] = np.float32(target[j * m + first + g])


@njit(cache=True, nogil=True)
def _write_factor(group, k, stop, m, first, factor):  # type: ignore[no-untyped-def]
    """Lanes to columns of a float32 matrix, from ``first`` on."""
    if first + GENES <= stop:
        for j in range(k):
            store(factor, j * m + first, load(group, j * GENES, PARTS))
    else:
        for j in range(k):
            for g in range(stop - first):
                factor[j * m + first + g] = group[j * GENES + g]


@njit(cache=True, nogil=True)
def _add_group(group, k, stop, m, first, sign, out):  # type: ignore[no-untyped-def]
    """Add ``sign`` times float32 lanes to columns of a float64 matrix, from ``first`` on."""
    if first + GENES <= stop:
        for j in range(k):
            place = j * m + first
            found = widen(load(group, j * GENES, PARTS))
            store(out, place, fma(sign, found, load(out, place, _WIDE_PARTS)))
    else:
        for j in range(k):
            for g in range(stop - first):
                out[j * m + first + g] += sign * np.float64(group[j * GENES + g])


@njit(cache=True, nogil=True)
def hals(factor, target, blocks, step, reach, n_sweeps, start, stop):  # type: ignore[no-untyped-def]
    """Hierarchical alternating least squares for the genes of a range, in place.

    Each row j in turn minimises ``tr(F^T S F) - 2 tr(F^T T)`` over itself:
    ``F_j <- max(0, F_j + (T_j - S_j F) / S_jj)``.

    Parameters
    ----------
    factor
        F, float32, shape (k, m), non-negative; written.
    target
        T, float64, shape (k, m).
    blocks, step, reach
        S as :class:`tigon.kernels.cpu.sweep.SolverGram` lays it out, float32. A row
        with ``S[j, j] == 0`` has had no cell and stays as it is.
    n_sweeps
        Passes over the rows.
    start, stop
        The range of genes.
    """
    r = aligned_zeros(len(step) * GENES, np.float32)
    h = aligned_zeros(len(step) * GENES, np.float32)
    change = aligned_zeros(GENES, np.float32)
    k, m = factor.shape
    F, T = factor.ravel(), target.ravel()
    origin = np.int64(0)  # for a literal, the kernels within would be compiled once more
    for first in range(start, stop, GENES):
        _read_target(T, k, stop, m, first, r)
        _read_factor(F, k, stop, m, first, h)
        for _ in range(n_sweeps):
            sweep(blocks, step, reach, r, h, origin, change, origin)
        _write_factor(h, k, stop, m, first, F)


@njit(cache=True, nogil=True)
def add_product(out, blocks, factor, sign, start, stop):  # type: ignore[no-untyped-def]
    """Add ``sign * A @ factor`` to ``out`` for the genes of a range, in place.

    Parameters
    ----------
    out
        float64, shape (k, m), written.
    blocks
        A (k, k) by blocks of four rows, as in :func:`hals`.
    factor
        float32, shape (k, m).
    sign
        Usually 1 or -1.
    start, stop
        The range of genes.

    Notes
    -----
    A product is float32 of relative rounding about 1e-7; the sum it is added to is
    float64.
    """
    k, m = factor.shape
    k4 = -(-k // BLOCK) * BLOCK
    x = aligned_zeros(k * GENES, np.float32)
    found = aligned_zeros(k4 * GENES, np.float32)
    F, sums = factor.ravel(), out.ravel()
    for first in range(start, stop, GENES):
        _read_factor(F, k, stop, m, first, x)
        _multiply_group(blocks, x, k, k4, found)
        _add_group(found, k, stop, m, first, sign, sums)


@njit(cache=True, nogil=True)
def _multiply_group(blocks, x, k, k4, found):  # type: ignore[no-untyped-def]
    for j in range(0, k4, BLOCK):
        a = broadcast(np.float32(0), load(x, 0, PARTS))
        b, c, d = a, a, a
        q = j * k4
        for o in range(k):
            value = load(x, o * GENES, PARTS)
            a = fma(at(blocks, q), value, a)
            b = fma(at(blocks, q + 1), value, b)
            c = fma(at(blocks, q + 2), value, c)
            d = fma(at(blocks, q + 3), value, d)
            q += BLOCK
        store(found, j * GENES, a)
        store(found, (j + 1) * GENES, b)
        store(found, (j + 2) * GENES, c)
        store(found, (j + 3) * GENES, d)


@njit(cache=True, nogil=True)
def _specific_target(B, B_previous, remaining, explained, share, k, stop, m, first, group):  # type: ignore[no-untyped-def]
    """``share * (B + remaining * B_previous - explained)`` of a group of genes."""
    if first + GENES <= stop:
        for j in range(k):
            place = j * m + first
            faded = multiply(load(B_previous, place, _WIDE_PARTS), remaining)
            sums = add(load(B, place, _WIDE_PARTS), faded)
            left = subtract(sums, widen(load(explained, j * GENES, PARTS)))
            store(group, j * GENES, narrow(multiply(left, share)))
    else:
        for j in range(k):
            for g in range(stop - first):
                place = j * m + first + g
                left = B[place] + remaining * B_previous[place] - explained[j * GENES + g]
                group[j * GENES + g] = np.float32(left * share)


@njit(cache=True, nogil=True)
def update_specific(  # type: ignore[no-untyped-def]
    V, W, B, B_previous, T, remaining, lam, measured, blocks, step, reach, start, stop
):
    """HALS for the V of one dataset over a range of genes, and T kept up with it, in place.

    ``V_j <- max(0, V_j + (B - A W - (1 + lambda) A V)_j / ((1 + lambda) A_jj))`` for each
    row j in turn, with both sides divided by 1 + lambda; then ``T -= A (V - V_before)``.

    Parameters
    ----------
    V
        float32, shape (k, m), zero for genes that are not measured; written.
    W
        float32, shape (k, m).
    B, B_previous, remaining
        The sums are ``B + remaining * B_previous``, float64, shape (k, m).
    T
        float64, shape (k, m), written.
    lam
        lambda.
    measured
        Genes that the dataset measures, bool, shape (m,).
    blocks, step, reach
        A (k, k) as in :func:`hals`.
    start, stop
        The range of genes.
    """
    k, m = V.shape
    k4 = len(step)
    x, found = aligned_zeros(k4 * GENES, np.float32), aligned_zeros(k4 * GENES, np.float32)
    r, h = aligned_zeros(k4 * GENES, np.float32), aligned_zeros(k4 * GENES, np.float32)
    change = aligned_zeros(GENES, np.float32)
    v, w, t = V.ravel(), W.ravel(), T.ravel()
    b, before, share = B.ravel(), B_previous.ravel(), 1.0 / (1.0 + lam)
    origin = np.int64(0)
    for first in range(start, stop, GENES):
        _read_factor(w, k, stop, m, first, x)
        _multiply_group(blocks, x, k, k4, found)
        _specific_target(b, before, remaining, found, share, k, stop, m, first, r)
        _read_factor(v, k, stop, m, first, h)
        for i in range(len(x)):  # the whole array at once takes seconds to compile
            x[i] = h[i]
        sweep(blocks, step, reach, r, h, origin, change, origin)
        for g in range(min(GENES, stop - first)):
            if not measured[first + g]:
                for j in range(k):
                    h[j * GENES + g] = 0.0
        _write_factor(h, k, stop, m, first, v)
        for i in range(len(x)):
            x[i] = h[i] - x[i]
        _multiply_group(blocks, x, k, k4, found)
        _add_group(found, k, stop, m, first, -1.0, t)
