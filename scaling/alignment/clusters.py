"""Joint clusters: the strongest factor of a cell, smoothed by a vote of its neighbours.

A cell's first cluster is argmax_f H_cf / s_if. Then the cell and its nearest
neighbours among the voters of its dataset vote; the most frequent first cluster
wins, the cell's own among equals, else the lowest. All vote on first clusters,
none on voted ones, and every voter as near as the last neighbour takes part; so
the order of the cells plays no role. A cell without loadings has no cluster (-1)
and no vote.

Distances are sums of differences squared, pair by pair (never a matrix product,
whose bits depend on shapes and threads).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

UNASSIGNED = -1
"""Cluster of a cell without loadings."""

_CHUNK_CELLS = 512
"""Cells whose distances to the voters are held at once."""


def first_clusters(H: NDArray[np.float32], scale: NDArray[np.float64]) -> NDArray[np.int32]:
    """Strongest factor of each cell, int32, shape (n,); -1 where all loadings are zero.

    Parameters
    ----------
    H
        Loadings, shape (n, k).
    scale
        Scale of the factors in each cell's dataset, shape (n, k) or (k,).
    """
    strongest: NDArray[np.int32] = np.argmax(H / scale, axis=1).astype(np.int32)
    strongest[~(H > 0).any(axis=1)] = UNASSIGNED
    return strongest


@dataclass(frozen=True, slots=True)
class Voters:
    """Cells of one dataset that vote.

    Attributes
    ----------
    positions
        Their positions among all cells, ascending, int64, shape (n_voters,).
    loadings
        Scaled loadings, float32, shape (n_voters, k).
    clusters
        First clusters, int32, shape (n_voters,); none is -1.
    """

    positions: NDArray[np.int64]
    loadings: NDArray[np.float32]
    clusters: NDArray[np.int32]


def vote(
    voters: Voters,
    positions: NDArray[np.int64],
    loadings: NDArray[np.float32],
    own: NDArray[np.int32],
    n_neighbors: int,
) -> NDArray[np.int32]:
    """Clusters of cells of the voters' dataset after the vote, int32, shape (n,).

    Parameters
    ----------
    voters
        The voters of the dataset.
    positions
        Positions of the cells among all cells, int64, shape (n,).
    loadings
        Scaled loadings, float32, shape (n, k).
    own
        First clusters, int32, shape (n,); none is -1.
    n_neighbors
        Votes per cell, its own among them.
    """
    n_others = min(n_neighbors, len(voters.positions)) - 1
    if n_others < 1:
        return own
    voted = np.empty_like(own)
    for start in range(0, len(own), _CHUNK_CELLS):
        here = slice(start, start + _CHUNK_CELLS)
        near = _nearest(voters, positions[here], loadings[here], n_others)
        voted[here] = _majority(near, voters.clusters, own[here], loadings.shape[1])
    return voted


def _nearest(
    voters: Voters, positions: NDArray[np.int64], loadings: NDArray[np.float32], n_others: int
) -> NDArray[np.bool_]:
    """Which voters are neighbours of each cell, shape (n, n_voters), never itself."""
    from scipy.spatial.distance import cdist

    distances = cdist(loadings, voters.loadings, "sqeuclidean")
    at = np.minimum(np.searchsorted(voters.positions, positions), len(voters.positions) - 1)
    itself = np.flatnonzero(voters.positions[at] == positions)
    distances[itself, at[itself]] = np.inf
    last = np.partition(distances, n_others - 1, axis=1)[:, n_others - 1, None]
    near: NDArray[np.bool_] = distances <= last
    return near


def _majority(
    near: NDArray[np.bool_], clusters: NDArray[np.int32], own: NDArray[np.int32], k: int
) -> NDArray[np.int32]:
    """Most frequent cluster among neighbours and the cell itself, shape (n,)."""
    ballot = np.zeros((len(clusters), k), dtype=np.float32)
    ballot[np.arange(len(clusters)), clusters] = 1
    # Small whole numbers: exact in any order of summation.
    votes = near.astype(np.float32) @ ballot
    # Its own vote, and half a vote more that decides between equals.
    votes[np.arange(len(own)), own] += 1.5
    winners: NDArray[np.int32] = np.argmax(votes, axis=1).astype(np.int32)
    return winners
