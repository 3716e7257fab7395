"""Landmarks: the cells that stand for all in neighbours, clusters and layout.

Up to ``n_landmarks`` cells all are landmarks. Above, a seeded sample without
replacement in proportion to the datasets, of which each keeps at least
``min(n_i, n_landmarks / (2 D))`` cells, so that small ones stay in the picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N_LANDMARKS = 25_000


def landmarks(
    dataset_codes: NDArray[np.int32],
    n_landmarks: int = N_LANDMARKS,
    *,
    seed: int,
    eligible: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Positions of the landmarks, ascending.

    Parameters
    ----------
    dataset_codes
        Dataset of each cell, int32, shape (n_cells,).
    n_landmarks
        Landmarks at most.
    seed
        Decides the sample.
    eligible
        Cells that may be landmarks, bool, shape (n_cells,); all by default.
    """
    cells = np.arange(len(dataset_codes)) if eligible is None else np.flatnonzero(eligible)
    if len(cells) <= n_landmarks:
        return cells.astype(np.int64)
    codes = dataset_codes[cells]
    wanted = quotas(np.bincount(codes), n_landmarks)
    drawn = [
        cells[sample(np.flatnonzero(codes == dataset), n, (seed, dataset))]
        for dataset, n in enumerate(wanted)
    ]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def quotas(n_cells: NDArray[np.int64], n_wanted: int) -> NDArray[np.int64]:
    """Cells to take of each dataset, int64, shape (n_datasets,): ``n_wanted`` or all in sum.

    Each dataset first gets its floor; what is left is shared in proportion to
    the cells left, the largest remainders rounded up.
    """
    if n_cells.sum() <= n_wanted:
        return n_cells
    floor = np.minimum(n_cells, n_wanted // (2 * max(1, int((n_cells > 0).sum()))))
    left = n_cells - floor
    share = left * (n_wanted - floor.sum()) / left.sum()
    taken: NDArray[np.int64] = np.floor(share).astype(np.int64)
    missing = n_wanted - int((floor + taken).sum())
    taken[np.argsort(taken - share, kind="stable")[:missing]] += 1
    return floor + taken


def sample(cells: NDArray[np.int64], n_wanted: int, seed: tuple[int, ...]) -> NDArray[np.int64]:
    """``n_wanted`` of ``cells`` (all where there are fewer), in their order."""
    if len(cells) <= n_wanted:
        return cells
    kept = np.random.default_rng(seed).choice(len(cells), size=n_wanted, replace=False)
    return cells[np.sort(kept)]
