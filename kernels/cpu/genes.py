"""Kernels over genes: HALS for the metagenes, their Gram matrix, products with it (Numba).

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
    PART_BYTES,
    add,
    at,
    broadcast,
    fma,
    load,
    multiply,
    narrow,
    put,
    store,
    subtract,
    widen,
)
from tigon.kernels.cpu.sweep import BLOCK, GROUP_BYTES, PARTS, sweep

_GENES = GROUP_BYTES // 4
"""Genes in a group: float32 lanes."""

_WIDE_PARTS = 2 * PARTS
"""Vectors of a group in float64."""

_CHUNK = 64
"""Genes that a Gram matrix is summed over before the next ones are read."""


@njit(cache=True, nogil=True)
def _read_factor(factor, k, stop, m, first, group):  # type: ignore[no-untyped-def]
    """Columns of a float32 matrix, from ``first`` on, as lanes."""
    if first + _GENES <= stop:
        for j in range(k):
            store(group, j * _GENES, load(factor, j * m + first, PARTS))
    else:
        for j in range(k):
            for g in range(stop - first):
                group[j * _GENES + g] = factor[j * m + first + g]


@njit(cache=True, nogil=True)
def _read_target(target, k, stop, m, first, group):  # type: ignore[no-untyped-def]
    """Columns of a float64 matrix, from ``first`` on, as float32 lanes."""
    if first + _GENES <= stop:
        for j in range(k):
            store(group, j * _GENES, narrow(load(target, j * m + first, _WIDE_PARTS)))
    else:
        for j in range(k):
            for g in range(stop - first):
                group[j * _GENES + g] = np.float32(target[j * m + first + g])


@njit(cache=True, nogil=True)
def _write_factor(group, k, stop, m, first, factor):  # type: ignore[no-untyped-def]
    """Lanes to columns of a float32 matrix, from ``first`` on."""
    if first + _GENES <= stop:
        for j in range(k):
            store(factor, j * m + first, load(group, j * _GENES, PARTS))
    else:
        for j in range(k):
            for g in range(stop - first):
                factor[j * m + first + g] = group[j * _GENES + g]


@njit(cache=True, nogil=True)
def _add_group(group, k, stop, m, first, sign, out):  # type: ignore[no-untyped-def]
    """Add ``sign`` times float32 lanes to columns of a float64 matrix, from ``first`` on."""
    if first + _GENES <= stop:
        for j in range(k):
            place = j * m + first
            found = widen(load(group, j * _GENES, PARTS))
            store(out, place, fma(sign, found, load(out, place, _WIDE_PARTS)))
    else:
        for j in range(k):
            for g in range(stop - first):
                out[j * m + first + g] += sign * np.float64(group[j * _GENES + g])


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
    r = aligned_zeros(len(step) * _GENES, np.float32)
    h = aligned_zeros(len(step) * _GENES, np.float32)
    change = aligned_zeros(_GENES, np.float32)
    k, m = factor.shape
    F, T = factor.ravel(), target.ravel()
    for first in range(start, stop, _GENES):
        _read_target(T, k, stop, m, first, r)
        _read_factor(F, k, stop, m, first, h)
        for _ in range(n_sweeps):
            sweep(blocks, step, reach, r, h, 0, change, 0)
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
    x = aligned_zeros(k * _GENES, np.float32)
    found = aligned_zeros(k4 * _GENES, np.float32)
    F, sums = factor.ravel(), out.ravel()
    for first in range(start, stop, _GENES):
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
            value = load(x, o * _GENES, PARTS)
            a = fma(at(blocks, q), value, a)
            b = fma(at(blocks, q + 1), value, b)
            c = fma(at(blocks, q + 2), value, c)
            d = fma(at(blocks, q + 3), value, d)
            q += BLOCK
        store(found, j * _GENES, a)
        store(found, (j + 1) * _GENES, b)
        store(found, (j + 2) * _GENES, c)
        store(found, (j + 3) * _GENES, d)


@njit(cache=True, nogil=True)
def _specific_target(B, B_previous, remaining, explained, share, k, stop, m, first, group):  # type: ignore[no-untyped-def]
    """``share * (B + remaining * B_previous - explained)`` of a group of genes."""
    if first + _GENES <= stop:
        for j in range(k):
            place = j * m + first
            faded = multiply(load(B_previous, place, _WIDE_PARTS), remaining)
            sums = add(load(B, place, _WIDE_PARTS), faded)
            left = subtract(sums, widen(load(explained, j * _GENES, PARTS)))
            store(group, j * _GENES, narrow(multiply(left, share)))
    else:
        for j in range(k):
            for g in range(stop - first):
                place = j * m + first + g
                left = B[place] + remaining * B_previous[place] - explained[j * _GENES + g]
                group[j * _GENES + g] = np.float32(left * share)


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
    x, found = aligned_zeros(k4 * _GENES, np.float32), aligned_zeros(k4 * _GENES, np.float32)
    r, h = aligned_zeros(k4 * _GENES, np.float32), aligned_zeros(k4 * _GENES, np.float32)
    change = aligned_zeros(_GENES, np.float32)
    v, w, t = V.ravel(), W.ravel(), T.ravel()
    b, before, share = B.ravel(), B_previous.ravel(), 1.0 / (1.0 + lam)
    for first in range(start, stop, _GENES):
        _read_factor(w, k, stop, m, first, x)
        _multiply_group(blocks, x, k, k4, found)
        _specific_target(b, before, remaining, found, share, k, stop, m, first, r)
        _read_factor(v, k, stop, m, first, h)
        x[:] = h
        sweep(blocks, step, reach, r, h, 0, change, 0)
        for g in range(min(_GENES, stop - first)):
            if not measured[first + g]:
                for j in range(k):
                    h[j * _GENES + g] = 0.0
        _write_factor(h, k, stop, m, first, v)
        for i in range(len(x)):
            x[i] = h[i] - x[i]
        _multiply_group(blocks, x, k, k4, found)
        _add_group(found, k, stop, m, first, -1.0, t)


@njit(cache=True, nogil=True)
def _turn(by_gene, width, k, first, n, group):  # type: ignore[no-untyped-def]
    """Rows of some genes to columns."""
    for g in range(n):
        for j in range(k):
            put(group, j * _GENES + g, at(by_gene, (first + g) * width + j))


@njit(cache=True, nogil=True)
def fold(B, B_previous, T, delta, fade, start, stop):  # type: ignore[no-untyped-def]
    """Take a mini-batch's B into a dataset's sums for the genes of a range, in place.

    ``B += delta^T`` and ``T += delta^T + fade * B_previous``.

    Parameters
    ----------
    B, B_previous, T
        float64, shape (k, m); B and T are written.
    delta
        X^T H of the mini-batch, float64, shape (m, at least k).
    fade
        Change of the weight of the previous sums.
    start, stop
        The range of genes.
    """
    k, m = B.shape
    group = aligned_zeros(k * _GENES, np.float64)
    b, before, t, by_gene = B.ravel(), B_previous.ravel(), T.ravel(), delta.ravel()
    for first in range(start, stop, _GENES):
        n = min(first + _GENES, stop) - first
        _turn(by_gene, delta.shape[1], k, first, n, group)
        for j in range(k):
            for g in range(n):
                place, found = j * m + first + g, at(group, j * _GENES + g)
                put(b, place, at(b, place) + found)
                put(t, place, at(t, place) + (found + fade * at(before, place)))


@njit(cache=True, nogil=True)
def add_turned(B, delta):  # type: ignore[no-untyped-def]
    """``B += delta^T`` in place: float64, shapes (k, m) and (m, at least k)."""
    k, m = B.shape
    group = aligned_zeros(k * _GENES, np.float64)
    b, by_gene = B.ravel(), delta.ravel()
    for first in range(0, m, _GENES):
        n = min(first + _GENES, m) - first
        _turn(by_gene, delta.shape[1], k, first, n, group)
        for j in range(k):
            for g in range(n):
                place = j * m + first + g
                put(b, place, at(b, place) + at(group, j * _GENES + g))


@njit(cache=True, nogil=True)
def tabulate(W, V, measured, scale, L, table, width, start, stop):  # type: ignore[no-untyped-def]
    """L = W + V and L^T times the gene scale, for the genes of a range.

    Parameters
    ----------
    W, V
        float32, shape (k, m).
    measured
        1 for genes that the dataset measures, 0 for others, uint8, shape (m,).
    scale
        Gene scale, float64, shape (m,).
    L
        Written: float32, shape (k, m), zero for genes that are not measured.
    table
        Written: float32, flat: m padded rows of ``width``.
    start, stop
        The range of genes.
    """
    k, m = W.shape
    w, v, sums = W.ravel(), V.ravel(), L.ravel()
    for first in range(start, stop, _GENES):
        last = min(first + _GENES, stop)
        for j in range(k):
            for g in range(first, last):
                present = np.float32(at(measured, g))
                put(sums, j * m + g, (at(w, j * m + g) + at(v, j * m + g)) * present)
        for g in range(first, last):
            factor = np.float32(at(scale, g))
            for j in range(k):
                put(table, g * width + j, at(sums, j * m + g) * factor)


@njit(cache=True, nogil=True)
def _read_chunk(rows, k, m, first, last, wide):  # type: ignore[no-untyped-def]
    """Columns of a matrix as float64, zeros after the last one."""
    for j in range(k):
        for g in range(last - first):
            put(wide, j * _CHUNK + g, np.float64(at(rows, j * m + first + g)))
        wide[j * _CHUNK + last - first : (j + 1) * _CHUNK] = 0.0


@njit(cache=True, nogil=True)
def add_gram(G, rows, weight, start, stop):  # type: ignore[no-untyped-def]
    """Add ``weight * rows @ rows.T`` over a range of columns to the lower half of G.

    Parameters
    ----------
    G
        float64, shape (k, k); entries on and below the diagonal are written.
    rows
        float32 or float64, shape (k, m).
    weight
        A number.
    start, stop
        The range of columns.
    """
    k, m = rows.shape
    k4 = -(-k // BLOCK) * BLOCK
    flat = rows.ravel()
    wide = aligned_zeros(k4 * _CHUNK, np.float64)
    for first in range(start, stop, _CHUNK):
        last = min(first + _CHUNK, stop)
        _read_chunk(flat, k, m, first, last, wide)
        _add_pairs(G, wide, weight, k, k4)


@njit(cache=True, nogil=True)
def _add_pairs(G, wide, weight, k, k4):  # type: ignore[no-untyped-def]
    """Products of all pairs of rows of a chunk: four rows with two at a time."""
    lanes = PART_BYTES // 8
    sums = aligned_zeros(8 * lanes, np.float64)
    for i in range(0, k4, BLOCK):
        for o in range(0, i + BLOCK, 2):
            a0 = broadcast(0.0, load(wide, 0, 1))
            b0, c0, d0, a1, b1, c1, d1 = a0, a0, a0, a0, a0, a0, a0
            for g in range(0, _CHUNK, lanes):
                x, y = load(wide, o * _CHUNK + g, 1), load(wide, (o + 1) * _CHUNK + g, 1)
                row = load(wide, i * _CHUNK + g, 1)
                a0, a1 = fma(row, x, a0), fma(row, y, a1)
                row = load(wide, (i + 1) * _CHUNK + g, 1)
                b0, b1 = fma(row, x, b0), fma(row, y, b1)
                row = load(wide, (i + 2) * _CHUNK + g, 1)
                c0, c1 = fma(row, x, c0), fma(row, y, c1)
                row = load(wide, (i + 3) * _CHUNK + g, 1)
                d0, d1 = fma(row, x, d0), fma(row, y, d1)
            store(sums, 0, a0)
            store(sums, lanes, b0)
            store(sums, 2 * lanes, c0)
            store(sums, 3 * lanes, d0)
            store(sums, 4 * lanes, a1)
            store(sums, 5 * lanes, b1)
            store(sums, 6 * lanes, c1)
            store(sums, 7 * lanes, d1)
            for q in range(8):
                row_of, column = i + q % 4, o + q // 4
                if row_of < k and column <= row_of:
                    s = q * lanes
                    G[row_of, column] += weight * (
                        (sums[s] + sums[s + 1]) + (sums[s + 2] + sums[s + 3])
                    )
