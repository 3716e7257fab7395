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
    multiply,
    store,
    subtract,
)
from tigon.kernels.cpu.panels import panels_of, row_width

PARTS = 2
"""Vectors that a group is wide: with four gradients of them, what 16 registers hold."""

BLOCK = 4
"""Coordinates whose gradients are summed together."""

GROUP_BYTES = PARTS * PART_BYTES


@njit(cache=True, nogil=True)
def _lay_out(G, width):  # type: ignore[no-untyped-def]
    k = len(G)
    k4 = -(-k // BLOCK) * BLOCK
    blocks, rows = aligned_zeros(k4 * k4, G.dtype), aligned_zeros(k * width, G.dtype)
    diagonal, step = np.zeros(k4, G.dtype), np.zeros(k4, G.dtype)
    for i in range(k):
        first = (i // BLOCK) * BLOCK * k4 + i % BLOCK
        for o in range(k):
            blocks[first + o * BLOCK] = G[i, o]
            rows[i * width + o] = G[i, o]
        diagonal[i] = G[i, i]
        if diagonal[i] > 0:
            step[i] = 1 / diagonal[i]
    return blocks, diagonal, step, rows


@dataclass(frozen=True, slots=True)
class SolverGram:
    """A Gram matrix as the solver reads it.

    Attributes
    ----------
    blocks
        G by blocks of four rows: entry (j + i, o) lies at ``j * k4 + o * 4 + i``, with
        k4 the next multiple of four; float32 or float64, flat.
    diagonal
        Its diagonal, zero beyond k, shape (k4,).
    step
        One over the diagonal, and zero where that is zero, shape (k4,).
    rows
        G by rows, padded to whole panels, flat.
    shape
        See :mod:`tigon.kernels.cpu.panels`.
    """

    blocks: NDArray[Any]
    diagonal: NDArray[Any]
    step: NDArray[Any]
    rows: NDArray[Any]
    shape: tuple[int, ...]

    @property
    def arrays(self) -> tuple[Any, ...]:
        """The five attributes, in the order that the kernels take them."""
        return self.blocks, self.diagonal, self.step, self.rows, self.shape

    @classmethod
    def of(cls, G: NDArray[Any]) -> SolverGram:
        """Lay out a Gram matrix, float32 or float64, shape (k, k)."""
        shape = panels_of(len(G), G.dtype)[1]
        return cls(*_lay_out(G, row_width(len(G), G.dtype)), shape)


@njit(cache=True, nogil=True, inline="always")
def _update(h, place, gradient, step, diagonal, j, largest):  # type: ignore[no-untyped-def]
    """Move coordinate j to its best value; returns its change and the largest so far."""
    old = load(h, place, PARTS)
    new = maximum(fma(at(step, j), gradient, old), at(step, j) * 0)
    store(h, place, new)
    change = subtract(new, old)
    return change, maximum(multiply(absolute(change), at(diagonal, j)), largest)


@njit(cache=True, nogil=True)
def sweep(blocks, diagonal, step, r, h, base, change, place):  # type: ignore[no-untyped-def]
    """One Gauss-Seidel sweep of a group: ``h_j <- max(0, h_j + (r_j - G_j h) / G_jj)``.

    ``change`` receives max_j |change of h_j| G_jj of each lane: by how much each
    coordinate missed its condition when it was updated.
    """
    k, lanes = len(step), GROUP_BYTES // h.itemsize
    store(change, place, broadcast(at(step, 0) * 0, load(change, place, PARTS)))
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
        largest = load(change, place, PARTS)
        moved, largest = _update(h, first, a, step, diagonal, j, largest)
        b = fnma(at(blocks, q + 1), moved, b)
        c = fnma(at(blocks, q + 2), moved, c)
        d = fnma(at(blocks, q + 3), moved, d)
        moved, largest = _update(h, first + lanes, b, step, diagonal, j + 1, largest)
        c = fnma(at(blocks, q + 6), moved, c)
        d = fnma(at(blocks, q + 7), moved, d)
        moved, largest = _update(h, first + 2 * lanes, c, step, diagonal, j + 2, largest)
        d = fnma(at(blocks, q + 11), moved, d)
        moved, largest = _update(h, first + 3 * lanes, d, step, diagonal, j + 3, largest)
        store(change, place, largest)
