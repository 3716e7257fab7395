"""Alignment by quantiles: loadings of joint clusters mapped onto a common reference.

Symbols: H (n_cells x k) the loadings; s_f the root mean square of factor f over
all cells. The aligned loadings are m_ijf(H_cf / s_f) for cell c of dataset i in
joint cluster j, where m is a quantile map onto a common reference
(``tigon.scaling.alignment.quantiles``) and j comes from the strongest factor and
a vote (``tigon.scaling.alignment.clusters``). With one dataset every map is the
identity. A cell without loadings stays zero and gets cluster -1.

Invariant: with no more cells than are sampled, permuting the cells permutes the result.

References
----------
Welch et al. (2019), Cell 177, 1873, doi:10.1016/j.cell.2019.05.006.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.alignment.joint import joint_clusters
from tigon.scaling.alignment.passes import Passes, Tile
from tigon.scaling.alignment.quantiles import QuantileMaps
from tigon.scaling.alignment.references import count_pairs, reference_maps, sampled_quantiles
from tigon.scaling.alignment.scales import Scales
from tigon.scaling.embedding.rows import read_scaled


@dataclass(frozen=True, slots=True)
class Mapping:
    """Joint clusters, and what loadings are mapped by.

    Attributes
    ----------
    joint_clusters
        Joint cluster (a factor) of each cell, int32, shape (n_cells,); -1 for
        cells without loadings.
    n_cells
        Cells of each dataset in each cluster, int64, shape (n_datasets, k).
    maps
        Quantile maps; of group 0, the identity, where nothing is mapped.
    """

    joint_clusters: NDArray[np.int32]
    n_cells: NDArray[np.int64]
    maps: QuantileMaps


def find_maps(passes: Passes, scale: Scales, config: AlignConfig, seed: int) -> Mapping:
    """Joint clusters and quantile maps.

    Notes
    -----
    Three passes over the loadings. Holds about 20 bytes per cell, the voters, the
    sampled cells, and 12 bytes x k x n_quantiles per mapped dataset and cluster.
    """
    joint = joint_clusters(passes, scale, config, seed)
    n_cells = count_pairs(passes, joint)
    by_pair = sampled_quantiles(passes, joint, n_cells, scale.overall, config, seed)
    return Mapping(joint, n_cells, reference_maps(by_pair, n_cells, config))


def mapped_loadings(
    passes: Passes, scale: Scales, found: Mapping
) -> Callable[[Tile], NDArray[np.float32]]:
    """The task that maps the loadings of one tile, float32, shape (n, k)."""

    def task(tile: Tile) -> NDArray[np.float32]:
        scaled = read_scaled(passes.rows, *tile, scale.overall)
        clusters = found.joint_clusters[slice(*tile)]
        group = found.maps.group[passes.dataset_codes[slice(*tile)], clusters]
        return found.maps.apply(scaled, np.where(clusters < 0, np.int32(0), group))

    return task
