"""The space in which cells are compared: y = sqrt(h) / ||sqrt(h)||, by Euclidean distance.

With p = h / sum(h) the shares of the factors in a cell, the distance is sqrt(2)
times the Hellinger distance of the shares. It tells which factors a cell uses
rather than how strongly. On four real data sets and several seeds, Leiden
clusters on it kept to the known types over a wider range of resolutions than on
the loadings themselves or on their directions (benchmarks/bench_alignment.py --spaces).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def to_space(loadings: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cells as points on the unit sphere, float32, shape (n, k); zero stays zero."""
    root = np.sqrt(loadings)
    length = np.sqrt(loadings.sum(axis=1, dtype=np.float32))[:, None]
    points = np.zeros_like(root)
    np.divide(root, length, out=points, where=length > 0)
    return points
