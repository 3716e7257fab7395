"""A picture of the cells in two dimensions: UMAP from neighbours already found.

References
----------
McInnes, Healy, Melville (2018), arXiv:1802.03426.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.neighbors import Neighbors

_SPREAD = 1.0
_JITTER = 1e-4
"""Noise on the start, relative to its extent; parts cells that coincide."""


def umap_layout(
    points: NDArray[np.float32],
    near: Neighbors,
    *,
    seed: int,
    min_dist: float = 0.1,
    n_epochs: int | None = None,
) -> NDArray[np.float32]:
    """Coordinates of the cells, float32, shape (n, 2), centred.

    Parameters
    ----------
    points
        Cells, float32, shape (n, k).
    near
        Their nearest neighbours, without themselves.
    seed
        Decides the sampling of pairs.
    min_dist
        Least distance of cells in the layout.
    n_epochs
        Epochs; None for 500 up to 10,000 cells, 200 above.

    Notes
    -----
    Starts from the two first principal components, which no graph can upset.
    One thread: UMAP's result is not reproducible on several.
    """
    if not len(points):
        return np.empty((0, 2), dtype=np.float32)
    start = principal_start(points, seed)
    if len(points) < 4:  # nothing to arrange
        return start
    from umap.umap_ import find_ab_params, fuzzy_simplicial_set, simplicial_set_embedding

    n = len(points)
    indices = np.column_stack([np.arange(n, dtype=np.int32), near.indices])
    distances = np.column_stack([np.zeros(n, dtype=np.float32), near.distances])
    generator = np.random.RandomState(seed)
    graph, _, _ = fuzzy_simplicial_set(
        points, indices.shape[1], generator, "euclidean", knn_indices=indices, knn_dists=distances
    )
    a, b = find_ab_params(_SPREAD, min_dist)
    layout, _ = simplicial_set_embedding(
        points,
        graph,
        n_components=2,
        initial_alpha=1.0,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=5,
        n_epochs=n_epochs,
        init=start,
        random_state=generator,
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
    )
    centred: NDArray[np.float32] = (layout - layout.mean(axis=0)).astype(np.float32)
    return centred


def principal_start(points: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """The two first principal components and a little noise, float32, shape (n, 2)."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    leading = axes[:, ::-1][:, :2]
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), range(leading.shape[1])])
    start = np.zeros((len(points), 2))
    start[:, : leading.shape[1]] = centred @ leading
    extent = max(float(np.ptp(start)), _JITTER)
    start += np.random.default_rng(seed).normal(scale=_JITTER * extent, size=start.shape)
    return start.astype(np.float32)
