"""The Gauss-Seidel sweep, cells or genes in SIMD lanes, and the Gram matrix it reads (Numba).

A group lies as ``h[j * n_lanes + i]``: coordinate j of lane i. Coordinates are updated
in blocks of four, so that a vector of loadings that was read once serves four
gradients; within the block each update sees the ones before it, which makes the sweep
the same as the one-by-one sweep of the specification.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import (
    PART_BYTES,
    absolute,
    at,
    broadcast,
    fma,
    fnma,
    load,
    maximum,
    store,
    subtract,
)

PARTS = 2
"""Vectors that a group is wide: with four gradients of them, what 16 registers hold."""

BLOCK = 4
"""Coordinates whose gradients are summed together."""

GROUP_BYTES = PARTS * PART_BYTES


@njit(cache=True, nogil=True)
def lay_out(G):  # type: ignore[no-untyped-def]
    """The arrays of :class:`SolverGram` for a matrix, shape (k, k), in its own type."""
    k = len(G)
    k4 = -(-k // BLOCK) * BLOCK
    blocks = aligned_zeros(k4 * k4, G.dtype)
    step, reach = np.zeros(k4, G.dtype), np.zeros(k4, G.dtype)
    largest = G[0, 0]
    for i in range(1, k):
        largest = max(largest, G[i, i])
    for i in range(k):
        first = (i // BLOCK) * BLOCK * k4 + i % BLOCK
        for o in range(k):
            blocks[first + o * BLOCK] = G[i, o]
        for o in range(i):
            reach[i] = max(reach[i], abs(G[o, i]))
        # A factor this small explains nothing, and its inverse may overflow.
        if G[i, i] > 1e-30 * largest:
            step[i] = 1 / G[i, i]
    return blocks, step, reach


@dataclass(frozen=True, slots=True)
class SolverGram:
    """A Gram matrix as the solver reads it.

    Attributes
    ----------
    blocks
        G by blocks of four rows: entry (j + i, o) lies at ``j * k4 + o * 4 + i``, with
        k4 the next multiple of four; float32 or float64, flat.
    step
        One over the diagonal, and zero where that is zero next to the largest, (k4,).
    reach
        By how much a change of 1 in coordinate j moves the gradient of one before it at
        most: max_{i<j} |G_ij|, shape (k4,).
    """

    blocks: NDArray[Any]
    step: NDArray[Any]
    reach: NDArray[Any]

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """The three attributes, in the order that the kernels take them."""
        return self.blocks, self.step, self.reach

    @classmethod
    def of(cls, G: NDArray[Any]) -> SolverGram:
        """Lay out a Gram matrix, float32 or float64, shape (k, k)."""
        return cls(*lay_out(G))


@njit(cache=True, nogil=True)
def lay_out_each(G):  # type: ignore[no-untyped-def]
    """The arrays of :class:`SolverGrams` for matrices, shape (n, k, k)."""
    n, k = len(G), G.shape[1]
    k4 = -(-k // BLOCK) * BLOCK
    blocks = np.empty((n, k4 * k4), np.float32)
    steps, reaches = np.empty((n, k4), np.float32), np.empty((n, k4), np.float32)
    narrow = np.empty((k, k), np.float32)
    for c in range(n):
        for i in range(k):
            for j in range(k):
                narrow[i, j] = np.float32(G[c, i, j])
        laid, step, reach = lay_out(narrow)
        for i in range(k4 * k4):
            blocks[c, i] = laid[i]
        for i in range(k4):
            steps[c, i], reaches[c, i] = step[i], reach[i]
    return blocks, steps, reaches


@dataclass(frozen=True, slots=True)
class SolverGrams:
    """Several Gram matrices of one size, each as in :class:`SolverGram`.

    Attributes
    ----------
    blocks, step, reach
        float32, shapes (n, k4^2), (n, k4) and (n, k4).
    """

    blocks: NDArray[np.float32]
    step: NDArray[np.float32]
    reach: NDArray[np.float32]

    @property
    def arrays(self) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
        """The three attributes, in the order that the kernels take them."""
        return self.blocks, self.step, self.reach

    @classmethod
    def of(cls, G: NDArray[Any]) -> SolverGrams:
        """Lay out Gram matrices, shape (n, k, k), as float32."""
        return cls(*lay_out_each(np.ascontiguousarray(G)))


@njit(cache=True, nogil=True, inline="always")
def _update(h, place, gradient, step, reach, j, bound):  # type: ignore[no-untyped-def]
    """Move coordinate j to its best value; returns by how much, and the bound so far."""
    old = load(h, place, PARTS)
    new = maximum(fma(at(step, j), gradient, old), at(step, j) * 0)
    store(h, place, new)
    moved = subtract(new, old)
    return moved, fma(at(reach, j), absolute(moved), bound)


@njit(cache=True, nogil=True)
def sweep(blocks, step, reach, r, h, base, bound, place):  # type: ignore[no-untyped-def]
    """One Gauss-Seidel sweep of a group: ``h_j <- max(0, h_j + (r_j - G_j h) / G_jj)``.

    ``bound`` receives sum_j reach_j |change of h_j| of each lane. A coordinate meets its
    condition when it is updated; what later ones change moves its gradient by at most
    this, so that it bounds max_j |min(h_j G_jj, (G h - r)_j)|.
    """
    k, lanes = len(step), GROUP_BYTES // h.itemsize
    store(bound, place, broadcast(at(step, 0) * 0, load(bound, place, PARTS)))
    for j in range(0, k, BLOCK):
        first = base + j * lanes
        a = load(r, first, PARTS)
        b = load(r, first + lanes, PARTS)
        c = load(r, first + 2 * lanes, PARTS)
        d = load(r, first + 3 * lanes, PARTS)
        q = j * k
        for o in range(k):
            x = load(h, base + o * lanes, PARTS)
            a = fnma(at(blocks, q), x, a)
            b = fnma(at(blocks, q + 1), x, b)
            c = fnma(at(blocks, q + 2), x, c)
            d = fnma(at(blocks, q + 3), x, d)
            q += BLOCK
        q = j * k + BLOCK * j  # the block on the diagonal
        total = load(bound, place, PARTS)
        moved, total = _update(h, first, a, step, reach, j, total)
        b = fnma(at(blocks, q + 1), moved, b)
        c = fnma(at(blocks, q + 2), moved, c)
        d = fnma(at(blocks, q + 3), moved, d)
        moved, total = _update(h, first + lanes, b, step, reach, j + 1, total)
        c = fnma(at(blocks, q + 6), moved, c)
        d = fnma(at(blocks, q + 7), moved, d)
        moved, total = _update(h, first + 2 * lanes, c, step, reach, j + 2, total)
        d = fnma(at(blocks, q + 11), moved, d)
        moved, total = _update(h, first + 3 * lanes, d, step, reach, j + 3, total)
        store(bound, place, total)
