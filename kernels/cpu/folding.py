"""Sums by gene, as tiles yield them, taken into sums by factor, as HALS reads them (Numba)."""

from __future__ import annotations

import numpy as np
from numba import njit

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.genes import GENES
from tigon.kernels.cpu.lanes import at, put


@njit(cache=True, nogil=True)
def _turn(by_gene, width, k, first, n, group):  # type: ignore[no-untyped-def]
    """Rows of some genes to columns."""
    for g in range(n):
        for j in range(k):
            put(group, j * GENES + g, at(by_gene, (first + g) * width + j))


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
    group = aligned_zeros(k * GENES, np.float64)
    b, before, t, by_gene = B.ravel(), B_previous.ravel(), T.ravel(), delta.ravel()
    for first in range(start, stop, GENES):
        n = min(first + GENES, stop) - first
        _turn(by_gene, delta.shape[1], k, first, n, group)
        for j in range(k):
            for g in range(n):
                place, found = j * m + first + g, at(group, j * GENES + g)
                put(b, place, at(b, place) + found)
                put(t, place, at(t, place) + (found + fade * at(before, place)))


@njit(cache=True, nogil=True)
def add_turned(B, delta):  # type: ignore[no-untyped-def]
    """``B += delta^T`` in place: float64, shapes (k, m) and (m, at least k)."""
    k, m = B.shape
    group = aligned_zeros(k * GENES, np.float64)
    b, by_gene = B.ravel(), delta.ravel()
    for first in range(0, m, GENES):
        n = min(first + GENES, m) - first
        _turn(by_gene, delta.shape[1], k, first, n, group)
        for j in range(k):
            for g in range(n):
                place = j * m + first + g
                put(b, place, at(b, place) + at(group, j * GENES + g))
