"""How random mini-batches are: entropy of datasets and labels, beside a perfect shuffle.

The entropy of a mini-batch's shares p of some K groups is -sum p ln p, in nats. For m
cells drawn without replacement from n it falls short of the whole's by about

    (K - 1) / 2 * (1/m) (n - m) / (n - 1)

the hypergeometric variance of the shares, to second order of -p ln p. Cells that lie
sorted by group and are drawn in runs of b, B runs to a window, of which a mini-batch is m
cells at random, fall short by

    (K - 1) / 2 * [ (1/B) (n/b - B) / (n/b - 1)  +  (1/m) (Bb - m) / (Bb - 1) ]

for which a run counts as one cell. Sorted by group is the worst case: groups that
do not depend on the place cost nothing beyond the perfect shuffle.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray


def entropy(groups: NDArray[np.integer]) -> float:
    """Entropy of the shares of the groups, in nats."""
    counts = np.bincount(groups)
    shares = counts[counts > 0] / len(groups)
    return float(-(shares * np.log(shares)).sum())


def mean_shortfall(groups: NDArray[np.integer], batches: Iterable[NDArray[np.int64]]) -> float:
    """By how much the entropy of mini-batches falls short of the whole's, on average.

    Parameters
    ----------
    groups
        Group of each cell, shape (n_cells,).
    batches
        Positions of each mini-batch's cells; count full ones only.
    """
    whole = entropy(groups)
    return float(np.mean([whole - entropy(groups[cells]) for cells in batches]))


def perfect_shortfall(n_groups: int, n_cells: int, batch: int) -> float:
    """What a perfect shuffle falls short by."""
    return (n_groups - 1) / 2 * (n_cells - batch) / (n_cells - 1) / batch


def block_shortfall(n_groups: int, n_cells: int, batch: int, block: int, window: int) -> float:
    """What mini-batches of runs fall short by, when cells are sorted by group."""
    n_runs, runs_taken = n_cells / block, window / block
    between = (n_runs - runs_taken) / (n_runs - 1) / runs_taken
    within = (window - batch) / (window - 1) / batch
    return (n_groups - 1) / 2 * (between + within)
