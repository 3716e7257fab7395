"""Centroid alignment: the cells near a factor are moved by what their dataset differs there.

Symbols: P_c the point of cell c, of unit length (``tigon.scaling.embedding.space``), i its
dataset, j a factor. Cells belong to factors by r_cj = Q_cj^6 / sum_l Q_cl^6, where Q_c is the
point as it was moved last, P_c at first. Every round fits, for each factor, the means of the
datasets m_ij = sum_c r_cj P_c / N_ij, N_ij = sum_c r_cj, as draws around a centre mu_j:

    m_ij = mu_j + b_ij + noise,  |b_ij|^2 ~ tau_j^2,  |noise|^2 ~ v_j / N_ij,

which is the ridge regression of the points on one offset for each dataset with the penalty
lambda_j = v_j / tau_j^2, at least that of one cell, and none on the centre; the variances come
from the sums by the method of moments (:mod:`tigon.scaling.alignment.offsets`). Then

    Q_c = clip(P_c - sum_j r_cj b_ij), at unit length.

Rounds start from P, never from points that were moved, so that corrections do not pile up:
they converge, and stop where offsets change by less than ``TOLERANCE``.

Invariant: a factor that one dataset alone uses is left where it is, one dataset is not moved at
all, and the fewer cells a dataset has near a factor the less they are moved.

References
----------
Korsunsky et al. (2019), Nature Methods 16, 1289, doi:10.1038/s41592-019-0619-0: corrections by
soft clusters. DerSimonian and Laird (1986), Controlled Clinical Trials 7, 177,
doi:10.1016/0197-2456(86)90046-2: the variance between groups from moments.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.offsets import Sums, fit_offsets, step_size
from tigon.scaling.alignment.passes import Passes, Tile
from tigon.scaling.embedding.rows import TILE_CELLS, read_scaled
from tigon.scaling.embedding.space import to_space

TOLERANCE = 0.005
"""Change of the offsets, root mean square over cells, at which rounds stop."""

MAX_ROUNDS = 10
"""Rounds at most; real data take four or five."""


def offsets_bytes(n_cells: int, n_datasets: int, k: int, window: int, n_threads: int) -> int:
    """Bytes that centroid alignment holds at most.

    Offsets of every round and sums; besides, in turn, the sums of each tile in flight with eight
    float64 arrays of the shape of the points that a thread is at, and six arrays of the shape
    of the offsets while these are fitted. None for one dataset.
    """
    if n_datasets == 1:
        return 0
    offsets, in_tile = 8 * n_datasets * k * k, min(TILE_CELLS, n_cells)
    summed = window * 8 * min(n_datasets, in_tile) * k * k
    summing = min(window, n_threads) * 64 * k * in_tile
    return (MAX_ROUNDS + 1) * offsets + max(6 * offsets, summed + summing)


@dataclass(frozen=True, slots=True)
class Offsets:
    """What cells are moved by, round by round.

    Attributes
    ----------
    rounds
        Offsets of each round, each float64, shape (n_datasets, k centroids, k factors).
    n_cells
        Cells of each dataset near each factor, by their shares, float64, (n_datasets, k).
    """

    rounds: tuple[NDArray[np.float64], ...]
    n_cells: NDArray[np.float64]

    def move(self, points: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.float64]:
        """Points (n, k) after the last round, float64; those without length stay zero."""
        start = points.astype(np.float64)
        moved = start
        for offsets in self.rounds:
            moved = _moved(start, memberships(moved), offsets, codes)
        return moved


def find_offsets(passes: Passes, scale: NDArray[np.float64]) -> Offsets:
    """Offsets that bring the datasets together.

    Parameters
    ----------
    passes
        All cells.
    scale
        What loadings are divided by, float64, shape (k,).

    Notes
    -----
    One pass over the loadings for each round, at most ``MAX_ROUNDS``; none for one dataset.
    Holds 8 k^2 bytes for each dataset and round.
    """
    shape = (passes.n_datasets, passes.k)
    found = Offsets((), np.zeros(shape))
    if np.count_nonzero(passes.n_cells) < 2:
        return found
    before = np.zeros((*shape, passes.k))
    for number in range(1, MAX_ROUNDS + 1):
        sums = _sums(passes, scale, found, f"finding offsets, round {number}")
        offsets = fit_offsets(sums)
        found = Offsets((*found.rounds, offsets), sums.n_cells)
        if step_size(offsets - before, sums.n_cells) < TOLERANCE:
            break
        before = offsets
    return found


def memberships(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Shares of the factors that cells belong to, float64, shape (n, k); zero without length."""
    squares = np.square(points)
    powers = squares * squares * squares
    total = powers.sum(axis=1, keepdims=True)
    shares = np.zeros_like(powers)
    np.divide(powers, total, out=shares, where=total > 0)
    return shares


def _sums(passes: Passes, scale: NDArray[np.float64], found: Offsets, stage: str) -> Sums:
    """Sums of a round over all cells, folded in the order of the tiles."""

    def task(tile: Tile) -> tuple[NDArray[np.int32], Sums]:
        codes = passes.dataset_codes[slice(*tile)]
        points = to_space(read_scaled(passes.rows, *tile, scale))
        near = memberships(found.move(points, codes))
        present = np.unique(codes)
        return present, Sums.of_cells(points.astype(np.float64), near, _groups(codes))

    sums = Sums.nothing(passes.n_datasets, passes.k)
    for _, (present, of_tile) in passes.run(stage, task):
        sums.add(present, of_tile)
    return sums


def _groups(codes: NDArray[np.int32]) -> list[NDArray[np.int64]]:
    """Positions of the cells of each dataset that is present, in the order of their codes."""
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(codes[order])) + 1)


def _moved(
    points: NDArray[np.float64],
    near: NDArray[np.float64],
    offsets: NDArray[np.float64],
    codes: NDArray[np.int32],
) -> NDArray[np.float64]:
    """Points less the offsets of the factors that they are near, clipped, at unit length."""
    moved = points.copy()
    for cells in _groups(codes):
        # einsum without a plan is a plain loop: its bits depend on no library and no thread.
        moved[cells] -= np.einsum("cj,jf->cf", near[cells], offsets[codes[cells[0]]])
    np.maximum(moved, 0, out=moved)
    length = np.sqrt(np.square(moved).sum(axis=1, keepdims=True))
    # A cell that would lose everything stays where it was.
    found: NDArray[np.float64] = np.divide(moved, length, out=points.copy(), where=length > 0)
    return found
