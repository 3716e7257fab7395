"""Nearest neighbours among landmarks, exact.

At 50,000 landmarks and 20 factors an exact search takes seconds, while compiling
an approximate one takes minutes (benchmarks/bench_alignment.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

TREE_FACTORS = 6
"""With more factors than these a tree is slower than looking at every landmark."""


@dataclass(frozen=True, slots=True)
class Neighbors:
    """Nearest landmarks of cells.

    Attributes
    ----------
    indices
        Numbers of the landmarks, nearest first, int32, shape (n, n_neighbors).
    distances
        Their distances in the space of ``tigon.scaling.embedding.space``,
        float32, same shape.
    """

    indices: NDArray[np.int32]
    distances: NDArray[np.float32]


def nearest(
    points: NDArray[np.float32],
    landmarks: NDArray[np.float32],
    n_neighbors: int,
    *,
    n_threads: int = 1,
) -> Neighbors:
    """Nearest ``landmarks`` (m, k) of each of ``points`` (n, k); all where m is smaller."""
    size = min(n_neighbors, len(landmarks))
    if not len(points) or not size:
        empty = np.empty((len(points), size), dtype=np.float32)
        return Neighbors(empty.astype(np.int32), empty)
    from sklearn.neighbors import NearestNeighbors
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    algorithm = "kd_tree" if points.shape[1] <= TREE_FACTORS else "brute"
    search = NearestNeighbors(n_neighbors=size, algorithm=algorithm)
    with threadpool_limits(n_threads):
        distances, indices = search.fit(landmarks).kneighbors(points)
    return Neighbors(indices.astype(np.int32), distances.astype(np.float32))


def neighbors(points: NDArray[np.float32], n_neighbors: int, *, n_threads: int = 1) -> Neighbors:
    """Nearest other cells of each of ``points``, float32, shape (n, k); all where n is smaller."""
    found = nearest(points, points, n_neighbors + 1, n_threads=n_threads)
    itself = found.indices == np.arange(len(points))[:, None]
    # Among duplicates a cell may miss itself; then the farthest one found goes.
    itself[~itself.any(axis=1), -1:] = True
    shape = (len(points), max(0, found.indices.shape[1] - 1))
    return Neighbors(found.indices[~itself].reshape(shape), found.distances[~itself].reshape(shape))
