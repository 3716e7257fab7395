"""The graph of shared neighbours, on which cells are clustered.

Two cells are joined with weight |N_a & N_b| / |N_a | N_b| (Jaccard), where N_a is
a cell and its nearest neighbours, if that is at least 1/15.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from igraph import Graph

PRUNE = 1 / 15
"""Least weight of an edge."""

_TILE_CELLS = 2048
"""Cells whose edges are weighed at once; before pruning there are hundreds per cell."""


@dataclass(frozen=True, slots=True)
class SharedNeighbors:
    """Edges of the graph, each once.

    Attributes
    ----------
    n_cells
        Number of cells.
    edges
        Numbers of the two cells, the lower first, int32, shape (n_edges, 2).
    weights
        Share of common neighbours, float32, shape (n_edges,).
    """

    n_cells: int
    edges: NDArray[np.int32]
    weights: NDArray[np.float32]

    def to_igraph(self) -> Graph:
        """The graph for igraph, with the edge attribute "weight"."""
        import igraph

        return igraph.Graph(self.n_cells, self.edges, edge_attrs={"weight": self.weights})


def shared_neighbors(indices: NDArray[np.int32], prune: float = PRUNE) -> SharedNeighbors:
    """The graph of cells whose neighbours are ``indices``, int32, shape (n, n_neighbors)."""
    from scipy import sparse

    n, size = len(indices), indices.shape[1] + 1
    members = np.column_stack([np.arange(n, dtype=np.int32), indices])
    near = sparse.csr_array(
        (np.ones(n * size, dtype=np.int32), members.ravel(), np.arange(0, n * size + 1, size)),
        shape=(n, n),
    )
    near_by_member = near.T.tocsr()
    edges = [np.empty((0, 2), dtype=np.int32)]
    weights = [np.empty(0, dtype=np.float32)]
    for start in range(0, n, _TILE_CELLS):
        common = (near[start : start + _TILE_CELLS] @ near_by_member).tocoo()
        first, second = common.coords
        weight = common.data / (2 * size - common.data)
        kept = (weight >= prune) & (first + start < second)
        edges.append(np.column_stack([first[kept] + start, second[kept]]).astype(np.int32))
        weights.append(weight[kept].astype(np.float32))
    return SharedNeighbors(n, np.concatenate(edges), np.concatenate(weights))
