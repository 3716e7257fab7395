"""The order of the cells of an epoch: runs of cells shuffled, then cells among runs.

Reading single cells at random is slow wherever they lie, so an epoch is shuffled
twice. Runs of ``block_cells`` consecutive cells are drawn across the whole atlas,
and the cells of the many runs that make a window are shuffled in memory.

Both shuffles keep every stretch near-proportional over the strata (the datasets, as
a rule). Within a stratum of n_i members the one of random rank r sorts by
(r + u) / n_i, with u uniform, so that a stretch of any length holds nearly the same
share of every stratum.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def proportional_order(strata: NDArray[np.integer], rng: np.random.Generator) -> NDArray[np.int64]:
    """A random order of which every stretch is near-proportional over the strata.

    Parameters
    ----------
    strata
        Stratum of each member, shape (n,).
    rng
        2n numbers are drawn from it.

    Returns
    -------
    ndarray of int64, shape (n,)
        Members in their order, each once.
    """
    shuffled = rng.permutation(len(strata))
    by_stratum = shuffled[np.argsort(strata[shuffled], kind="stable")]
    _, first, sizes = np.unique(strata[by_stratum], return_index=True, return_counts=True)
    rank = np.arange(len(strata)) - np.repeat(first, sizes)
    key = (rank + rng.random(len(strata))) / np.repeat(sizes, sizes)
    return np.asarray(by_stratum[np.argsort(key, kind="stable")], np.int64)


def shuffled_runs(
    strata: NDArray[np.integer], block_cells: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Runs of consecutive cells that cover the atlas, in random order.

    Parameters
    ----------
    strata
        Stratum of each cell of the atlas, shape (n_cells,). A run counts for that of
        the cell in its middle.
    block_cells
        Cells of a run; the first and the last may be shorter, for the cuts are at
        another offset each time, so that neighbours differ between epochs.
    rng
        Drawn from.

    Returns
    -------
    ndarray of int64, shape (n_runs, 2)
        First cell of each run and the one after its last.
    """
    n_cells = len(strata)
    cuts = np.arange(rng.integers(block_cells), n_cells, block_cells)
    edges = np.concatenate([[0], cuts[cuts > 0], [n_cells]])
    runs = np.stack([edges[:-1], edges[1:]], axis=1)
    middle = runs.sum(axis=1) // 2
    return runs[proportional_order(strata[middle], rng)]


def stretch(runs: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    """The cells from ``start`` to ``stop`` of those that runs hold one after another.

    Parameters
    ----------
    runs
        Shape (n_runs, 2).
    start, stop
        Places in the order of the runs, not positions in the atlas.

    Returns
    -------
    ndarray of int64, shape (stop - start,)
        Positions of the cells in the atlas, ascending.
    """
    ends = np.cumsum(runs[:, 1] - runs[:, 0])
    first, last = np.searchsorted(ends, [start, stop - 1], side="right")
    chosen, ends = runs[first : last + 1].copy(), ends[first : last + 1]
    chosen[0, 0] = chosen[0, 1] - (ends[0] - start)
    chosen[-1, 1] -= ends[-1] - stop
    return cells_of(chosen[np.argsort(chosen[:, 0])])


def cells_of(runs: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every cell of the runs, one run after another."""
    lengths = runs[:, 1] - runs[:, 0]
    before = np.cumsum(lengths) - lengths
    return np.repeat(runs[:, 0] - before, lengths) + np.arange(int(lengths.sum()))


def runs_of(cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """The longest runs that ascending cells make, shape (n_runs, 2)."""
    breaks = np.flatnonzero(np.diff(cells) != 1)
    first = np.concatenate([[0], breaks + 1]) if len(cells) else breaks
    last = np.concatenate([breaks, [len(cells) - 1]]) if len(cells) else breaks
    return np.stack([cells[first], cells[last] + 1], axis=1)
