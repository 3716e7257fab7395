"""Leiden clusters by modularity.

References
----------
Traag, Waltman, van Eck (2019), Scientific Reports 9, 5233, doi:10.1038/s41598-019-41695-z.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from igraph import Graph


def leiden(graph: Graph, resolution: float, *, seed: int) -> NDArray[np.int32]:
    """Cluster of each cell, int32, shape (n_cells,); the largest is 0.

    Parameters
    ----------
    graph
        Cells joined by edges with the attribute "weight".
    resolution
        Resolution of the modularity.
    seed
        Decides the order in which cells are moved.
    """
    if graph.ecount() == 0:
        return np.arange(graph.vcount(), dtype=np.int32)
    with _seeded(seed):
        found = graph.community_leiden(
            "modularity", "weight", resolution=resolution, n_iterations=-1
        )
    return by_size(np.asarray(found.membership))


def by_size(clusters: NDArray[np.integer]) -> NDArray[np.int32]:
    """The same clusters numbered from the largest down, equals by their first cell."""
    _, first, number, size = np.unique(
        clusters, return_index=True, return_inverse=True, return_counts=True
    )
    rank = np.empty(len(size), dtype=np.int32)
    rank[np.lexsort((first, -size))] = np.arange(len(size), dtype=np.int32)
    return rank[number]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Let igraph, which has one generator for all, draw from a seeded one meanwhile."""
    import igraph

    igraph.set_random_number_generator(random.Random(seed))
    try:
        yield
    finally:
        igraph.set_random_number_generator(random)
