"""Alignment: joint clusters and quantile normalisation of the loadings of all cells.

Symbols: H (n_cells x k) the loadings; s_f the root mean square of factor f over
all cells. The aligned loadings are m_ijf(H_cf / s_f) for cell c of dataset i in
joint cluster j, where m is a quantile map onto a common reference
(``tigon.scaling.alignment.quantiles``) and j comes from the strongest factor and
a vote (``tigon.scaling.alignment.clusters``). With one dataset every map is the
identity. A cell without loadings stays zero and gets cluster -1.

Invariant: the result depends on the loadings, the datasets, the options and the
seed only; not on threads, nor on how the loadings are stored. With no more cells
than are sampled, permuting the cells permutes the result.

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
from tigon.scaling.alignment.references import (
    count_pairs,
    reference_and_maps,
    sampled_quantiles,
)
from tigon.scaling.alignment.scales import scales
from tigon.scaling.embedding.rows import WriteRows, read_scaled
from tigon.scaling.engine import ThreadEngine
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.rows import RowReader


@dataclass(frozen=True, slots=True)
class AlignmentResult:
    """What an alignment finds besides the aligned loadings, which it writes.

    Attributes
    ----------
    joint_clusters
        Joint cluster (a factor) of each cell, int32, shape (n_cells,); -1 for
        cells without loadings.
    scale
        What the loadings were divided by, float64, shape (k,).
    reference
        Quantiles that the clusters were mapped onto, float64, shape
        (k clusters, n_quantiles + 1, k factors); zero where nothing was mapped.
    n_cells
        Cells of each dataset in each cluster, int64, shape (n_datasets, k).
    mapped
        Whether a dataset was mapped in a cluster, bool, shape (n_datasets, k).
    """

    joint_clusters: NDArray[np.int32]
    scale: NDArray[np.float64]
    reference: NDArray[np.float64]
    n_cells: NDArray[np.int64]
    mapped: NDArray[np.bool_]


def align(
    rows: RowReader,
    dataset_codes: NDArray[np.int32],
    n_datasets: int,
    config: AlignConfig,
    seed: int,
    engine: ThreadEngine,
    write: WriteRows,
    progress: Progress = silent,
) -> AlignmentResult:
    """Align the loadings of all cells and write them.

    Parameters
    ----------
    rows
        Loadings H, float32, shape (n_cells, k), not negative.
    dataset_codes
        Dataset of each cell, int32, shape (n_cells,).
    n_datasets
        Number of datasets.
    config
        Options.
    seed
        Decides which cells vote and which are sampled for quantiles.
    engine
        Where it runs; the result does not depend on its threads.
    write
        Takes the aligned loadings, float32, in order.
    progress
        Told of the cells of each pass.

    Raises
    ------
    InputError
        If codes and loadings do not fit, or a loading is not finite.

    Notes
    -----
    Five passes over the loadings. Holds about 20 bytes per cell, the voters, the
    sampled cells, and 12 bytes x k x n_quantiles per mapped dataset and cluster.
    """
    _check(rows, dataset_codes, n_datasets, config)
    size = np.bincount(dataset_codes, minlength=n_datasets)
    passes = Passes(rows, dataset_codes, size, engine, progress)
    scale = scales(passes)
    joint = joint_clusters(passes, scale, config, seed)
    n_cells = count_pairs(passes, joint)
    by_pair = sampled_quantiles(passes, joint, n_cells, scale.overall, config, seed)
    reference, maps = reference_and_maps(by_pair, n_cells, config)
    task = _mapping(passes, joint, scale.overall, maps)
    for (start, _), aligned in passes.run("aligning", task):
        write(start, aligned)
    return AlignmentResult(joint, scale.overall, reference, n_cells, maps.group > 0)


def _mapping(
    passes: Passes,
    joint: NDArray[np.int32],
    scale: NDArray[np.float64],
    maps: QuantileMaps,
) -> Callable[[Tile], NDArray[np.float32]]:
    """The task that aligns the cells of one tile."""

    def task(tile: Tile) -> NDArray[np.float32]:
        scaled = read_scaled(passes.rows, *tile, scale)
        clusters = joint[slice(*tile)]
        group = maps.group[passes.dataset_codes[slice(*tile)], clusters]
        return maps.apply(scaled, np.where(clusters < 0, np.int32(0), group))

    return task


def _check(
    rows: RowReader, dataset_codes: NDArray[np.int32], n_datasets: int, config: AlignConfig
) -> None:
    n_cells = rows.shape[0]
    if len(dataset_codes) != n_cells:
        raise InputError(
            f"datasets are given for the wrong number of cells ({len(dataset_codes)}): "
            f"the loadings have {n_cells}; give one code per cell"
        )
    if n_cells and not 0 <= dataset_codes.min() <= dataset_codes.max() < n_datasets:
        raise InputError(
            f"a dataset code is out of range ({dataset_codes.min()} to "
            f"{dataset_codes.max()}): codes run from 0 to {n_datasets - 1}"
        )
    if config.reference is not None and config.reference >= n_datasets:
        raise InputError(
            f"the reference is no dataset ({config.reference}): there are {n_datasets}, "
            "numbered from 0; leave it out to use all"
        )
