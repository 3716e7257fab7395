"""Root mean squares of the factors: over all cells, and dataset by dataset.

s_f = sqrt(sum_c H_cf^2 / n) and s_if = sqrt(sum_{c in i} H_cf^2 / n_i), 1 for a
factor that is not used. The sums are float64, folded over tiles cut at fixed
positions.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.passes import Passes, Tile
from tigon.scaling.embedding.rows import read_tile
from tigon.storage.errors import InputError


@dataclass(frozen=True, slots=True)
class Scales:
    """Scales of the factors.

    Attributes
    ----------
    overall
        Root mean square over all cells, float64, shape (k,).
    by_dataset
        Root mean square over the cells of a dataset, float64, shape (n_datasets, k).
    """

    overall: NDArray[np.float64]
    by_dataset: NDArray[np.float64]


def scales(passes: Passes) -> Scales:
    """Scales of the factors, in one pass.

    Raises
    ------
    InputError
        If a loading is not finite.
    """

    def task(tile: Tile) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        squares = np.square(read_tile(passes.rows, *tile), dtype=np.float64)
        return sums_by_dataset(squares, passes.dataset_codes[slice(*tile)])

    sums = np.zeros((passes.n_datasets, passes.k))
    for _, (present, of_tile) in passes.run("scaling loadings", task):
        sums[present] += of_tile
    if not np.isfinite(sums).all():
        n_bad = int((~np.isfinite(sums).all(axis=0)).sum())
        raise InputError(
            f"loadings are not finite (in {n_bad} factors of {passes.k}): factorise again"
        )
    n_cells = passes.n_cells
    overall = _root(sums.sum(axis=0) / max(1, int(n_cells.sum())))
    return Scales(overall, _root(sums / np.maximum(n_cells, 1)[:, None]))


def sums_by_dataset(
    values: NDArray[np.float64], codes: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
    """The datasets present, and the sums of ``values`` (n, k) over the cells of each."""
    present = np.unique(codes)
    return present, np.array([values[codes == dataset].sum(axis=0) for dataset in present])


def _root(mean_squares: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(mean_squares > 0, np.sqrt(mean_squares), 1.0)
