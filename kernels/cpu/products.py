"""Products of sparse counts with metagenes, and the statistics of loadings (Numba).

A row of the table, the k factors of a gene, is added up in registers while the
kernel walks over a cell's non-zeros: R = X L^T. The other way round each non-zero
adds a cell's loadings to its gene's row of B = X^T H. Both take one panel of
factors at a time, so that the rows in use stay in the second-level cache.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from tigon.kernels.cpu.lanes import (
    PART_BYTES,
    add,
    at,
    broadcast,
    fma,
    load,
    multiply,
    store,
    widen,
)


@njit(cache=True, nogil=True)
def products(rows, indptr, genes, counts, weights, table, width, shape, R):  # type: ignore[no-untyped-def]
    """R = X L^T by padded rows.

    Parameters
    ----------
    rows, indptr, genes, counts, weights
        As in :class:`tigon.kernels.tile.CellTile`.
    table
        L^T times the gene scale, float32, flat: m padded rows of ``width``.
    width, shape
        See :mod:`tigon.kernels.cpu.panels`.
    R
        Written: products, float32, flat: n padded rows.
    """
    step = len(shape) * (PART_BYTES // table.itemsize)
    for start in range(0, width, step):
        for i in range(len(rows)):
            c = rows[i]
            first, last = indptr[c], indptr[c + 1]
            # Two running sums, so that one addition need not wait for the other.
            even = broadcast(np.float32(0), load(table, start, shape))
            odd = even
            for t in range(first, last - 1, 2):
                one, other = np.int64(at(genes, t)), np.int64(at(genes, t + 1))
                row = load(table, one * width + start, shape)
                even = fma(np.float32(at(counts, t)), row, even)
                row = load(table, other * width + start, shape)
                odd = fma(np.float32(at(counts, t + 1)), row, odd)
            if (last - first) % 2:
                row = load(table, np.int64(at(genes, last - 1)) * width + start, shape)
                even = fma(np.float32(at(counts, last - 1)), row, even)
            store(R, i * width + start, multiply(add(even, odd), weights[c]))


@njit(cache=True, nogil=True)
def add_by_gene(rows, indptr, genes, counts, weights, scale, H, B, width, shape):  # type: ignore[no-untyped-def]
    """B += X^T H without the gene scale, by padded rows; returns |X|^2 with it.

    Parameters
    ----------
    rows, indptr, genes, counts, weights
        As in :class:`tigon.kernels.tile.CellTile`.
    scale
        Gene scale, float64, shape (m,).
    H
        Loadings, float64, flat: n padded rows of ``width``.
    B
        float64, flat: m padded rows of ``width``; added to in cell order.
    """
    squared = 0.0
    for i in range(len(rows)):
        c = rows[i]
        weight, row = np.float64(weights[c]), i * width
        loading = load(H, row, shape)
        norm, before, first = 0.0, np.int64(-1), indptr[c]
        for t in range(first, indptr[c + 1]):
            g, count = np.int64(at(genes, t)), np.float64(at(counts, t))
            place = g * width
            store(B, place, fma(count * weight, loading, load(B, place, shape)))
            x = count * at(scale, g)
            norm += x * x
            if g == before:
                norm += 2.0 * x * _count_before(genes, counts, first, t) * at(scale, g)
            before = g
        squared += norm * weight * weight
    step = len(shape) * (PART_BYTES // B.itemsize)
    for start in range(step, width, step):
        _add_panel(rows, indptr, genes, counts, weights, H, B, width, start, shape)
    return squared


@njit(cache=True, nogil=True)
def _count_before(genes, counts, first, t):  # type: ignore[no-untyped-def]
    """Sum of the entries of a cell that stand just before entry ``t`` and are of its gene.

    Entries of one gene that follow each other are one: (a + b)^2 = a^2 + b (b + 2 a). They
    are rare, and a loop for them alone takes nothing from all others.
    """
    whole, before = 0.0, t - 1
    while before >= first and at(genes, before) == at(genes, t):
        whole += np.float64(at(counts, before))
        before -= 1
    return whole


@njit(cache=True, nogil=True)
def _add_panel(rows, indptr, genes, counts, weights, H, B, width, start, shape):  # type: ignore[no-untyped-def]
    """A panel of B after the first."""
    for i in range(len(rows)):
        c = rows[i]
        weight = np.float64(weights[c])
        loading = load(H, i * width + start, shape)
        for t in range(indptr[c], indptr[c + 1]):
            value = np.float64(at(counts, t)) * weight
            place = np.int64(at(genes, t)) * width + start
            store(B, place, fma(value, loading, load(B, place, shape)))


@njit(cache=True, nogil=True)
def scale_rows(B, width, scale):  # type: ignore[no-untyped-def]
    """Multiply each padded row of B by its gene's scale, in place."""
    for g in range(len(scale)):
        for j in range(width):
            B[g * width + j] *= scale[g]


@njit(cache=True, nogil=True)
def explained(R, H):  # type: ignore[no-untyped-def]
    """tr(H R^T), float64 sums by lane in order, of two flat float32 arrays of whole vectors."""
    lanes = PART_BYTES // R.itemsize
    sums = np.zeros(lanes)
    running = load(sums, np.int64(0), 2)
    for i in range(0, len(R), lanes):
        running = fma(widen(load(R, i, 1)), widen(load(H, i, 1)), running)
    store(sums, np.int64(0), running)
    return sums.sum()
