"""What new cells take over from the cells of a run that are nearest to them.

Cells are compared by the directions of their loadings, factors in units of their root mean
square over the run: y = (h / s) / |h / s|, s_f^2 = sum_i A_i,ff / n. Loadings of the run are
taken as they were solved, as those of new cells are: with donors held out one at a time, maps
of their quantiles onto the run's cost three hundredths of label accuracy (0.874 for 0.907,
the mean of eight donors; tests/test_scenarios_data.py).

A neighbour's vote is exp(-(d / d_last)^2); a label's confidence is its share of the votes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.landmarks import N_LANDMARKS, landmarks
from tigon.scaling.embedding.neighbors import Neighbors, nearest
from tigon.scaling.embedding.placing import place_coordinates, weights
from tigon.scaling.embedding.rows import gather
from tigon.storage.rows import RowReader

N_NEIGHBORS = 15
"""Cells of the run that vote on a new one."""

_ROWS_PER_THREAD = 1024
"""Fewer cells than this for each thread are searched by one: results then have the same order
among equals for any number of threads."""


@dataclass(frozen=True, slots=True)
class References:
    """Cells of a run that new cells are compared with.

    Attributes
    ----------
    points
        Directions of their loadings, float32, shape (r, k).
    factor_scale
        What loadings are divided by, float32, shape (k,).
    label_names, labels
        Names of the labels, and the number of each cell's, int32, shape (r,).
    cluster_names, clusters
        The same of the clusters.
    coordinates
        Where they lie in the picture, float32, shape (r, 2); None without one.
    """

    points: NDArray[np.float32]
    factor_scale: NDArray[np.float32]
    label_names: list[str]
    labels: NDArray[np.int32]
    cluster_names: list[str]
    clusters: NDArray[np.int32]
    coordinates: NDArray[np.float32] | None


@dataclass(frozen=True, slots=True)
class Taken:
    """What cells took over.

    Attributes
    ----------
    labels, clusters
        Numbers, int32, shape (n,); -1 for a cell without loadings.
    confidence
        Share of the votes that the label has, float32, shape (n,); 0 without loadings.
    coordinates
        float32, shape (n, 2); None without a picture.
    """

    labels: NDArray[np.int32]
    clusters: NDArray[np.int32]
    confidence: NDArray[np.float32]
    coordinates: NDArray[np.float32] | None


def factor_scale(A: NDArray[np.float64], n_cells: NDArray[np.int64]) -> NDArray[np.float32]:
    """Root mean square of each factor over a run, float32, shape (k,); 1 for an unused one.

    Parameters
    ----------
    A
        H^T H of each dataset, float64, shape (d, k, k).
    n_cells
        Cells of each, shape (d,).
    """
    squares = np.diagonal(A, axis1=1, axis2=2).sum(axis=0) / max(1, int(n_cells.sum()))
    scale: NDArray[np.float32] = np.where(squares > 0, np.sqrt(squares), 1.0).astype(np.float32)
    return scale


def directions(H: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """Loadings (n, k) as points on the unit sphere, float32; zero stays zero."""
    scaled = (H / scale).astype(np.float32)
    length = np.sqrt(np.square(scaled).sum(axis=1, dtype=np.float32))[:, None]
    points = np.zeros_like(scaled)
    np.divide(scaled, length, out=points, where=length > 0)
    return points


def choose_references(
    loadings: RowReader,
    scale: NDArray[np.float32],
    datasets: NDArray[np.int32],
    labels: Sequence[str] | NDArray[np.str_],
    clusters: Sequence[str] | NDArray[np.str_],
    eligible: NDArray[np.bool_],
    layout: RowReader | None,
    seed: int,
) -> References:
    """Cells of the run that vote: all that may, or a sample of 25,000 where those are over 50,000.

    Parameters
    ----------
    loadings, scale
        Loadings of the run, shape (n, k), and the scale of the factors.
    datasets
        Dataset of each cell, int32, shape (n,); a sample is of all.
    labels, clusters
        Label and cluster of each cell, shape (n,).
    eligible
        Cells that may vote, bool, shape (n,).
    layout
        Coordinates of the cells, shape (n, 2), or None.
    seed
        Decides the sample.

    Notes
    -----
    One pass over the loadings and the layout.
    """
    n_wanted = N_LANDMARKS if eligible.sum() > 2 * N_LANDMARKS else len(eligible)
    at = landmarks(datasets, n_wanted, seed=seed, eligible=eligible)
    label_names, label_numbers = _numbered(np.asarray(labels)[at])
    cluster_names, cluster_numbers = _numbered(np.asarray(clusters)[at])
    return References(
        points=directions(gather(loadings, at), scale),
        factor_scale=scale,
        label_names=label_names,
        labels=label_numbers,
        cluster_names=cluster_names,
        clusters=cluster_numbers,
        coordinates=None if layout is None else gather(layout, at),
    )


def take_over(H: NDArray[np.float32], references: References, n_threads: int = 1) -> Taken:
    """Labels, confidences, clusters and places of cells with loadings ``H``, shape (n, k)."""
    n = len(H)
    loaded = np.flatnonzero((H > 0).any(axis=1))
    many = len(loaded) > _ROWS_PER_THREAD * n_threads
    points = directions(H[loaded], references.factor_scale)
    near = nearest(points, references.points, N_NEIGHBORS, n_threads=n_threads if many else 1)
    taken = Taken(
        labels=np.full(n, -1, np.int32),
        clusters=np.full(n, -1, np.int32),
        confidence=np.zeros(n, np.float32),
        coordinates=None,
    )
    taken.labels[loaded], taken.confidence[loaded] = vote(near, references.labels)
    taken.clusters[loaded], _ = vote(near, references.clusters)
    if references.coordinates is None:
        return taken
    coordinates = np.tile(_corner(references.coordinates), (n, 1))
    coordinates[loaded] = place_coordinates(
        near, references.coordinates, references.clusters, taken.clusters[loaded]
    )
    return Taken(taken.labels, taken.clusters, taken.confidence, coordinates)


def vote(
    near: Neighbors, kinds: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Kind with the most weight among the neighbours, the lowest among equals, and its share.

    Parameters
    ----------
    near
        Neighbours of n cells.
    kinds
        Kind of each cell that may be a neighbour, from 0, int32.

    Returns
    -------
    NDArray
        Kinds, int32, shape (n,).
    NDArray
        Shares of the votes, float32, shape (n,), above 0 and at most 1.
    """
    votes = np.zeros((len(near.indices), int(kinds.max(initial=0)) + 1), np.float32)
    weight = weights(near.distances)
    cells = np.arange(len(votes))
    for rank in range(weight.shape[1]):
        votes[cells, kinds[near.indices[:, rank]]] += weight[:, rank]
    winners: NDArray[np.int32] = votes.argmax(axis=1).astype(np.int32)
    return winners, votes[cells, winners] / votes.sum(axis=1)


def _numbered(names: NDArray[np.str_]) -> tuple[list[str], NDArray[np.int32]]:
    kinds, numbers = np.unique(names, return_inverse=True)
    return [str(kind) for kind in kinds], numbers.astype(np.int32)


def _corner(coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Beside the picture, float32, shape (2,)."""
    corner: NDArray[np.float32] = coordinates.min(axis=0) - 0.05 * np.ptp(coordinates, axis=0)
    return corner
