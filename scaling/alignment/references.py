"""What the loadings are mapped onto: quantiles by dataset and cluster, and their reference."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.alignment.passes import Passes
from tigon.scaling.alignment.quantiles import (
    QuantileMaps,
    mean_quantiles,
    quantile_maps,
    quantiles,
)
from tigon.scaling.embedding.landmarks import sample
from tigon.scaling.embedding.rows import divide, gather

MAX_SAMPLED = 200_000
"""Cells sampled for quantiles, of all datasets and clusters together."""

Pair = tuple[int, int]
"""A dataset and a cluster."""


def count_pairs(passes: Passes, joint: NDArray[np.int32]) -> NDArray[np.int64]:
    """Cells of each dataset in each cluster, int64, shape (n_datasets, k)."""
    assigned = joint >= 0
    pair = passes.dataset_codes[assigned].astype(np.int64) * passes.k + joint[assigned]
    n_pairs = passes.n_datasets * passes.k
    return np.bincount(pair, minlength=n_pairs).reshape(passes.n_datasets, passes.k)


def sampled_quantiles(
    passes: Passes,
    joint: NDArray[np.int32],
    n_cells: NDArray[np.int64],
    scale: NDArray[np.float64],
    config: AlignConfig,
    seed: int,
) -> dict[Pair, NDArray[np.float64]]:
    """Quantiles, shape (n_quantiles + 1, k), of each pair with enough cells to be mapped.

    Notes
    -----
    One pass over the loadings.
    """
    drawn = _sampled_cells(passes, joint, n_cells, config, seed)
    if not drawn:
        return {}
    positions = np.sort(np.concatenate(list(drawn.values())))
    loadings = divide(gather(passes.rows, positions), scale)
    return {
        pair: quantiles(loadings[np.searchsorted(positions, cells)], config.n_quantiles)
        for pair, cells in drawn.items()
    }


def _sampled_cells(
    passes: Passes,
    joint: NDArray[np.int32],
    n_cells: NDArray[np.int64],
    config: AlignConfig,
    seed: int,
) -> dict[Pair, NDArray[np.int64]]:
    """Positions of the cells that stand for each pair, in the clusters that are shared."""
    enough = n_cells >= config.min_cells
    enough &= enough.sum(axis=0) > 1  # nothing to align a lone dataset with
    n_pairs = max(1, int(enough.sum()))
    n_wanted = min(config.n_sampled, max(config.min_cells, MAX_SAMPLED // n_pairs))
    pair = np.where(joint < 0, -1, passes.dataset_codes * passes.k + joint)
    order = np.argsort(pair, kind="stable")
    first = np.searchsorted(pair, np.arange(n_cells.size + 1), sorter=order)
    drawn = {}
    for dataset, cluster in np.argwhere(enough):
        number = int(dataset) * passes.k + int(cluster)
        cells = order[first[number] : first[number + 1]]
        drawn[int(dataset), int(cluster)] = sample(cells, n_wanted, (seed, number))
    return drawn


def reference_maps(
    by_pair: dict[Pair, NDArray[np.float64]],
    n_cells: NDArray[np.int64],
    config: AlignConfig,
) -> QuantileMaps:
    """The maps of every dataset and cluster onto the reference of the cluster.

    Parameters
    ----------
    by_pair
        Quantiles of datasets in clusters, each of shape (n_quantiles + 1, k).
    n_cells
        Cells of each dataset in each cluster, int64, shape (n_datasets, k).
    config
        Says whether one dataset is the reference. Where it has too few cells in
        a cluster, the mean over the others stands in.
    """
    n_datasets, k = n_cells.shape
    reference: dict[int, NDArray[np.float64]] = {}
    for cluster in sorted({cluster for _, cluster in by_pair}):
        datasets = [dataset for dataset, other in by_pair if other == cluster]
        if config.reference in datasets:
            datasets = [config.reference]
        stacked = np.stack([by_pair[dataset, cluster] for dataset in datasets])
        reference[cluster] = mean_quantiles(stacked, n_cells[datasets, cluster])
    pairs = {
        pair: (q, reference[pair[1]]) for pair, q in by_pair.items() if pair[0] != config.reference
    }
    return quantile_maps(pairs, n_datasets, k, config.n_quantiles)
