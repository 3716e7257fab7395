"""Alignment: what cells of different datasets have in common brought to the same place.

Cells are points, the roots of their shares of the factors (``tigon.scaling.embedding.space``),
every factor divided by its root mean square over all cells. They are moved to common centroids
(``tigon.scaling.alignment.centroids``), or their loadings are mapped onto common quantiles
first (``tigon.scaling.alignment.quantile_mapping``), or nothing is done.

Invariant: the result depends on the loadings, the datasets, the options and the
seed only; not on threads, nor on how the loadings are stored. A cell without loadings
stays zero.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.centroids import find_offsets
from tigon.scaling.alignment.clusters import UNASSIGNED
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.alignment.overcorrection import MergedGroup, Witnesses
from tigon.scaling.alignment.passes import Passes, Tile
from tigon.scaling.alignment.quantile_mapping import find_maps, mapped_loadings
from tigon.scaling.alignment.scales import Scales, scales
from tigon.scaling.embedding.rows import WriteRows, read_scaled
from tigon.scaling.embedding.space import to_space
from tigon.scaling.engine import ThreadEngine
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.rows import RowReader

Aligned = tuple[NDArray[np.float32], NDArray[np.int32]]
"""Points of the cells of a tile, and their joint clusters."""


@dataclass(frozen=True, slots=True)
class AlignmentResult:
    """What an alignment finds besides the aligned points, which it writes.

    Attributes
    ----------
    joint_clusters
        A factor for each cell, int32, shape (n_cells,); -1 for cells without loadings. With
        quantile maps the cluster in which a cell was mapped, else its strongest factor in
        the points that were written.
    scale
        What the loadings were divided by, float64, shape (k,).
    merged
        Groups of cells that may have been merged with cells that they are not like.
    """

    joint_clusters: NDArray[np.int32]
    scale: NDArray[np.float64]
    merged: tuple[MergedGroup, ...]


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
    """Align all cells and write them as points.

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
        Decides which cells are sampled.
    engine
        Where it runs; the result does not depend on its threads.
    write
        Takes the aligned points, float32, in order.
    progress
        Told of the cells of each pass.

    Raises
    ------
    InputError
        If codes and loadings do not fit, or a loading is not finite.

    Notes
    -----
    Passes over the loadings: two, three more for quantile maps, one more for each round of
    centroids, and one for the cells that tell of merged groups.
    """
    _check(rows, dataset_codes, n_datasets, config)
    size = np.bincount(dataset_codes, minlength=n_datasets)
    passes = Passes(rows, dataset_codes, size, engine, progress)
    scale = scales(passes)
    task = _task(passes, scale, config, seed)
    witnesses = Witnesses.drawn(passes, scale.overall, seed, judge=config.align != "none")
    joint = np.empty(rows.shape[0], dtype=np.int32)
    for tile, (points, clusters) in passes.run("aligning", task):
        joint[slice(*tile)] = clusters
        witnesses.see(tile, points)
        write(tile[0], points)
    return AlignmentResult(joint, scale.overall, witnesses.merged_groups(seed))


def _task(
    passes: Passes, scale: Scales, config: AlignConfig, seed: int
) -> Callable[[Tile], Aligned]:
    """What aligns the cells of one tile."""
    if config.align == "quantile":
        found = find_maps(passes, scale, config, seed)
        mapped = mapped_loadings(passes, scale, found)
        return lambda tile: (to_space(mapped(tile)), found.joint_clusters[slice(*tile)])
    points = _points(passes, scale)
    if config.align == "centroid":
        offsets = find_offsets(passes, scale.overall)

        def moved(tile: Tile) -> NDArray[np.float32]:
            codes = passes.dataset_codes[slice(*tile)]
            return offsets.move(points(tile), codes).astype(np.float32)

        return lambda tile: _with_strongest(moved(tile))
    return lambda tile: _with_strongest(points(tile))


def _points(passes: Passes, scale: Scales) -> Callable[[Tile], NDArray[np.float32]]:
    """The task that makes points of the cells of one tile."""
    return lambda tile: to_space(read_scaled(passes.rows, *tile, scale.overall))


def _with_strongest(points: NDArray[np.float32]) -> Aligned:
    strongest = np.argmax(points, axis=1).astype(np.int32)
    strongest[~(points > 0).any(axis=1)] = UNASSIGNED
    return points, strongest


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
