"""Cells placed among landmarks: clusters by vote, coordinates by weighted mean.

A landmark at distance d has the weight exp(-(d / s)^2), where s is the distance
of the farthest landmark asked; a landmark on the very spot counts most.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.neighbors import Neighbors


def weights(distances: NDArray[np.float32]) -> NDArray[np.float32]:
    """Weight of each landmark asked, float32, shape (n, n_placing)."""
    farthest = np.maximum(distances[:, -1:], np.finfo(np.float32).tiny)
    weight: NDArray[np.float32] = np.exp(-np.square(distances / farthest, dtype=np.float32))
    return weight


def place_labels(near: Neighbors, labels: NDArray[np.int32]) -> NDArray[np.int32]:
    """Label with the most weight among the nearest landmarks, int32, shape (n,).

    Parameters
    ----------
    near
        Nearest landmarks of the cells.
    labels
        Labels of the landmarks, from 0, int32, shape (n_landmarks,). The lowest
        wins among equals.
    """
    votes = np.zeros((len(near.indices), int(labels.max(initial=0)) + 1), dtype=np.float32)
    weight = weights(near.distances)
    cells = np.arange(len(votes))
    for rank in range(weight.shape[1]):
        votes[cells, labels[near.indices[:, rank]]] += weight[:, rank]
    placed: NDArray[np.int32] = votes.argmax(axis=1).astype(np.int32)
    return placed


def place_coordinates(
    near: Neighbors,
    coordinates: NDArray[np.float32],
    labels: NDArray[np.int32],
    placed: NDArray[np.int32],
) -> NDArray[np.float32]:
    """Weighted mean of the nearest landmarks that share the cell's label, float32, (n, 2).

    Parameters
    ----------
    near
        Nearest landmarks of the cells.
    coordinates
        Coordinates of the landmarks, float32, shape (n_landmarks, 2).
    labels
        Labels of the landmarks, int32, shape (n_landmarks,).
    placed
        Labels of the cells, int32, shape (n,), each that of a landmark asked. A
        mean over two islands of the layout would lie in the sea.
    """
    alike = labels[near.indices] == placed[:, None]
    weight = weights(near.distances) * alike
    weight /= weight.sum(axis=1, keepdims=True)
    mean: NDArray[np.float32] = np.einsum("nj,njd->nd", weight, coordinates[near.indices])
    return mean
