"""Scores of an integration against known labels; only labelled cells count.

- ari, nmi: adjusted Rand index and normalised mutual information of clusters and
  labels.
- best_ari: the best ARI of Leiden clusters over ``RESOLUTIONS``, at best_resolution.
- knn_accuracy: share of cells whose label is the most frequent among their 15
  nearest labelled cells (the lowest among equals).
- mixing: share of cells of other datasets among the 30 nearest labelled cells,
  over what perfect mixing gives: the chance that two different cells drawn at
  random are of different datasets. Above 1 by chance only. NaN with one dataset.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.graph import SharedNeighbors
from tigon.scaling.embedding.leiden import leiden
from tigon.scaling.embedding.neighbors import neighbors

RESOLUTIONS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.35, 0.4, 0.45, 0.5, 0.6, 0.7, 0.8, 1.0)
N_ACCURACY = 15
N_MIXING = 30

NO_LABEL = frozenset({"", "nan", "na", "none", "unassigned", "undefined", "unknown", "unlabelled"})
"""Words that say a cell has no label, in any case."""


def scores(
    points: NDArray[np.float32],
    graph: SharedNeighbors,
    dataset_codes: NDArray[np.int32],
    clusters: NDArray[np.int32],
    labels: Sequence[str] | NDArray[np.str_],
    *,
    seed: int,
    n_threads: int = 1,
) -> dict[str, float]:
    """Scores of the cells given: all of an atlas, or its landmarks.

    Parameters
    ----------
    points
        Cells in the space of ``tigon.scaling.embedding.space``, float32, shape (n, k).
    graph
        Their shared neighbours.
    dataset_codes, clusters
        Dataset and cluster of each cell, int32, shape (n,).
    labels
        Known label of each cell, shape (n,); words of ``NO_LABEL`` say there is none.
    seed
        Seed of the Leiden clusters over ``RESOLUTIONS``.
    n_threads
        Threads of the search for neighbours.

    Returns
    -------
    dict
        Scores by name, and ``n_scored`` cells; only that where fewer than two
        cells have labels.
    """
    codes = label_codes(labels)
    known = np.flatnonzero(codes >= 0)
    result = {"n_scored": float(len(known))}
    if len(known) < 2:
        return result
    codes = codes[known]
    near = neighbors(points[known], min(N_MIXING, len(known) - 1), n_threads=n_threads).indices
    result |= agreement(clusters[known], codes)
    result["knn_accuracy"] = knn_accuracy(near[:, :N_ACCURACY], codes)
    result["mixing"] = mixing(near, dataset_codes[known])
    return result | _best_ari(graph, known, codes, seed)


def label_codes(labels: Sequence[str] | NDArray[np.str_]) -> NDArray[np.int32]:
    """Numbers of the labels in alphabetical order, int32, shape (n,); -1 for no label."""
    names, numbers = np.unique(np.asarray(labels, dtype=np.str_), return_inverse=True)
    known = np.array([name.strip().lower() not in NO_LABEL for name in names], dtype=bool)
    renumbered = np.where(known, np.cumsum(known) - 1, -1).astype(np.int32)
    return renumbered[numbers]


def agreement(clusters: NDArray[np.int32], labels: NDArray[np.int32]) -> dict[str, float]:
    """ARI and NMI of two partitions, int32, shape (n,)."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    return {
        "ari": float(adjusted_rand_score(labels, clusters)),
        "nmi": float(normalized_mutual_info_score(labels, clusters)),
    }


def knn_accuracy(near: NDArray[np.int32], labels: NDArray[np.int32]) -> float:
    """Share of labels that the nearest cells, int32, shape (n, n_neighbors), guess."""
    votes = np.zeros((len(labels), int(labels.max()) + 1), dtype=np.int32)
    cells = np.arange(len(labels))
    for rank in range(near.shape[1]):
        votes[cells, labels[near[:, rank]]] += 1
    return float((votes.argmax(axis=1) == labels).mean())


def mixing(near: NDArray[np.int32], dataset_codes: NDArray[np.int32]) -> float:
    """Cells of other datasets among the nearest, as a share of perfect mixing."""
    n = len(dataset_codes)
    n_cells = np.bincount(dataset_codes).astype(np.float64)
    perfect = (n_cells * (n - n_cells)).sum() / (n * (n - 1))
    if perfect == 0:
        return float("nan")
    return float((dataset_codes[near] != dataset_codes[:, None]).mean() / perfect)


def _best_ari(
    graph: SharedNeighbors, known: NDArray[np.int64], labels: NDArray[np.int32], seed: int
) -> dict[str, float]:
    whole = graph.to_igraph()
    found = [
        agreement(leiden(whole, resolution, seed=seed)[known], labels)["ari"]
        for resolution in RESOLUTIONS
    ]
    best = int(np.argmax(found))
    return {"best_ari": found[best], "best_resolution": RESOLUTIONS[best]}
