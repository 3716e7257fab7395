"""What people do without Tigon: principal components, Harmony, Leiden.

All in memory, by the libraries that scanpy uses, with its usual settings: depth
normalised to 10,000, log1p, the most variable genes, 30 components, 15 neighbours.
"""

from __future__ import annotations

import igraph
import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import kneighbors_graph

from tigon.scaling.embedding.scores import RESOLUTIONS


def log_normalise(counts: sparse.csr_array | sparse.csr_matrix) -> sparse.csr_array:
    """log1p of counts per 10,000, float32, shape (n_cells, n_genes)."""
    X = sparse.csr_array(counts, dtype=np.float32, copy=True)
    totals = X.sum(axis=1)
    X.data *= np.repeat(1e4 / np.maximum(totals, 1), np.diff(X.indptr))
    np.log1p(X.data, out=X.data)
    return X


def variable_genes(X: sparse.csr_array, n_genes: int) -> NDArray[np.int64]:
    """Positions of the genes of largest variance in log-normalised expression."""
    means = X.mean(axis=0)
    variances = (X**2).mean(axis=0) - means**2  # float32 is ample for a ranking
    return np.sort(np.argsort(-variances, kind="stable")[:n_genes])


def principal_components(
    counts: sparse.csr_array | sparse.csr_matrix,
    n_genes: int = 2000,
    n_components: int = 30,
    *,
    unit_variance: bool = False,
) -> NDArray[np.float64]:
    """Principal components of all cells together, shape (n_cells, n_components).

    With ``unit_variance`` genes are brought to it first and values clipped at 10.
    """
    X = log_normalise(counts)
    X = X[:, variable_genes(X, min(n_genes, X.shape[1]))].toarray()
    if unit_variance:
        spread = X.std(axis=0)
        X = np.clip((X - X.mean(axis=0)) / np.where(spread > 0, spread, 1), -10, 10)
    pca = PCA(n_components, svd_solver="randomized", random_state=0)
    return np.asarray(pca.fit_transform(X))


def harmonise(
    components: NDArray[np.float64], batch: NDArray[np.str_], *, seed: int = 0
) -> NDArray[np.float64]:
    """Harmony's corrected components, shape as given."""
    import harmonypy
    import pandas as pd

    result = harmonypy.run_harmony(
        components, pd.DataFrame({"batch": batch}), "batch", random_state=seed, verbose=False
    )
    corrected = np.asarray(result.Z_corr)
    return corrected if corrected.shape == components.shape else corrected.T


def neighbour_graph(embedding: NDArray[np.floating], n_neighbors: int = 15) -> igraph.Graph:
    """Nearest neighbours of every cell, weighted by the neighbours that two cells share."""
    near = kneighbors_graph(embedding, n_neighbors, include_self=False)
    near = (near + sparse.eye(near.shape[0], format="csr")).tocsr()
    shared = sparse.triu(near @ near.T, k=1).tocoo()  # up to n_neighbors + 1 in common
    weights = shared.data / (2 * (n_neighbors + 1) - shared.data)  # Jaccard
    keep = weights > 1 / 15
    edges = np.column_stack([shared.row[keep], shared.col[keep]])
    return igraph.Graph(near.shape[0], edges, edge_attrs={"weight": weights[keep]})


def leiden(graph: igraph.Graph, resolution: float) -> NDArray[np.int64]:
    """Leiden clusters by modularity, int64, shape (n_cells,)."""
    import random

    igraph.set_random_number_generator(random.Random(0))
    parts = graph.community_leiden("modularity", "weight", resolution=resolution, n_iterations=2)
    return np.asarray(parts.membership)


def leiden_ari(embedding: NDArray[np.floating], labels: NDArray[np.str_]) -> dict[float, float]:
    """ARI of Leiden clusters against the labels, at the resolutions of Tigon's own scores."""
    graph = neighbour_graph(embedding)
    return {r: float(adjusted_rand_score(labels, leiden(graph, r))) for r in RESOLUTIONS}
