"""Joint clusters of all cells: draw the voters, then let every cell vote."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.clusters import UNASSIGNED, Voters, first_clusters, vote
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.alignment.passes import Passes, Tile
from tigon.scaling.alignment.scales import Scales
from tigon.scaling.embedding.landmarks import sample
from tigon.scaling.embedding.rows import divide, gather, read_tile

MAX_VOTERS = 100_000
"""Voters of all datasets together."""


def joint_clusters(
    passes: Passes, scale: Scales, config: AlignConfig, seed: int
) -> NDArray[np.int32]:
    """Joint cluster of each cell, int32, shape (n_cells,); -1 without loadings.

    Notes
    -----
    Two passes over the loadings, one of them for the voters.
    """
    voters = _voters(passes, scale, config, seed)

    def task(tile: Tile) -> NDArray[np.int32]:
        H = read_tile(passes.rows, *tile)
        codes = passes.dataset_codes[slice(*tile)]
        joint = first_clusters(H, scale.by_dataset[codes])
        for dataset in np.unique(codes):
            cells = np.flatnonzero((codes == dataset) & (joint != UNASSIGNED))
            joint[cells] = vote(
                voters[dataset],
                cells + tile[0],
                divide(H[cells], scale.overall),
                joint[cells],
                config.n_neighbors,
            )
        return joint

    joint = np.empty(passes.rows.shape[0], dtype=np.int32)
    for tile, of_tile in passes.run("joint clusters", task):
        joint[slice(*tile)] = of_tile
    return joint


def _voters(passes: Passes, scale: Scales, config: AlignConfig, seed: int) -> list[Voters]:
    """The voters of each dataset; all its cells where they are few."""
    n_wanted = max(config.n_neighbors, min(config.n_voters, MAX_VOTERS // passes.n_datasets))
    drawn = [
        sample(np.flatnonzero(passes.dataset_codes == dataset), n_wanted, (seed, dataset))
        for dataset in range(passes.n_datasets)
    ]
    positions = np.sort(np.concatenate(drawn))
    H = gather(passes.rows, positions)
    voters = []
    for dataset, cells in enumerate(drawn):
        H_dataset = H[np.searchsorted(positions, cells)]
        clusters = first_clusters(H_dataset, scale.by_dataset[dataset])
        kept = clusters != UNASSIGNED
        loadings = divide(H_dataset[kept], scale.overall)
        voters.append(Voters(cells[kept], loadings, clusters[kept]))
    return voters
