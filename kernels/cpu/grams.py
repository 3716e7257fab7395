"""Metagenes laid out for products with counts, and their Gram matrix (Numba)."""

from __future__ import annotations

import numpy as np
from numba import njit

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.genes import GENES
from tigon.kernels.cpu.lanes import PART_BYTES, at, broadcast, fma, load, put, store, widen
from tigon.kernels.cpu.sweep import BLOCK, lay_out

_CHUNK = 64
"""Genes that a Gram matrix is summed over before the next ones are read."""


@njit(cache=True, nogil=True)
def sum_metagenes(W, V, lam, measured, scale, table, width, start, stop, G):  # type: ignore[no-untyped-def]
    """Table of the metagenes W + V for a range of genes, and what these add to their Gram matrix.

    Parameters
    ----------
    W, V
        float32, shape (k, m).
    lam
        lambda.
    measured
        1 for genes that the dataset measures, 0 for others, uint8, shape (m,).
    scale
        Gene scale, float64, shape (m,).
    table
        Written: float32, flat: m padded rows of ``width``.
    start, stop
        The range of genes.
    G
        float64, shape (k, k), added to on and below the diagonal.
    """
    L = np.empty((len(W), stop - start), np.float32)
    tabulate(W, V, measured, scale, L, table, width, start, stop)
    add_gram(G, L, 1.0, np.int64(0), stop - start)
    if lam:
        add_gram(G, V, lam, start, stop)


@njit(cache=True, nogil=True)
def sum_halves(parts):  # type: ignore[no-untyped-def]
    """Symmetric G of which ``parts``, shape (n, k, k), sum up the lower half, and G laid out."""
    k = parts.shape[1]
    G = np.zeros((k, k))
    for part in parts:
        for i in range(k):
            for j in range(i + 1):
                G[i, j] += part[i, j]
    for i in range(k):
        for j in range(i):
            G[j, i] = G[i, j]
    narrow = np.empty((k, k), np.float32)
    for i in range(k):
        for j in range(k):
            narrow[i, j] = G[i, j]
    return G, lay_out(narrow)


@njit(cache=True, nogil=True)
def tabulate(W, V, measured, scale, L, table, width, start, stop):  # type: ignore[no-untyped-def]
    """L = W + V and L^T times the gene scale, for the genes of a range.

    Parameters
    ----------
    W, V, measured, scale, table, width, start, stop
        As for :func:`sum_metagenes`.
    L
        Written: float32, shape (k, stop - start), zero for genes that are not measured.
    """
    k, m = W.shape
    w, v, sums, n = W.ravel(), V.ravel(), L.ravel(), stop - start
    for first in range(start, stop, GENES):
        last = min(first + GENES, stop)
        for j in range(k):
            for g in range(first, last):
                present = np.float32(at(measured, g))
                both = at(w, j * m + g) + at(v, j * m + g)
                put(sums, j * n + g - start, both * present)
        for g in range(first, last):
            factor = np.float32(at(scale, g))
            for j in range(k):
                put(table, g * width + j, at(sums, j * n + g - start) * factor)
            for j in range(k, width):
                put(table, g * width + j, np.float32(0))


@njit(cache=True, nogil=True)
def row_squares(F):  # type: ignore[no-untyped-def]
    """Sum of squares of each row of a float32 matrix, float64, shape (k,)."""
    k, m = F.shape
    flat, sums, lanes = F.ravel(), np.zeros(k), PART_BYTES // 4
    parts = aligned_zeros(lanes, np.float64)
    for j in range(k):
        total = widen(broadcast(np.float32(0), load(flat, 0, 1)))
        whole = m // lanes * lanes
        for g in range(0, whole, lanes):
            x = widen(load(flat, j * m + g, 1))
            total = fma(x, x, total)
        store(parts, 0, total)
        rest = 0.0
        for g in range(whole, m):
            rest += np.float64(at(flat, j * m + g)) ** 2
        for part in parts:
            rest += part
        sums[j] = rest
    return sums


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
