"""Over-correction: groups of a dataset that alignment may have merged with others' cells.

A sample of all cells is looked at before and after alignment. Cells are grouped by Leiden
clusters of the unaligned points, where a group that only one dataset has is still by itself.
For each dataset, cells of the others are asked which of its groups they are nearest to, by
shares of their 15 nearest cells of it. A batch effect that is taken out makes cells lie nearer
to the group that they were nearest to before; what they come to be nearest to only by the
alignment was not their like. A group of at least ``LEAST_CELLS`` sampled cells is told of if

    gained / after >= FRESH   and   gained / expected >= NOTABLE,

with ``after`` the cells of others (sums of shares) that are nearest to it after alignment,
``gained`` what that grew by, cell by cell, and ``expected`` its share of its dataset times
the cells of others, which is what a shared group has.

It cannot tell of a group that takes the place of one that its dataset lacks: to the others'
cells that is the nearest group before and after, as with a batch effect.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.passes import Passes, Tile
from tigon.scaling.embedding.graph import shared_neighbors
from tigon.scaling.embedding.landmarks import landmarks
from tigon.scaling.embedding.leiden import leiden
from tigon.scaling.embedding.neighbors import nearest, neighbors
from tigon.scaling.embedding.rows import divide, gather, within
from tigon.scaling.embedding.space import to_space

N_WITNESSES = 5000
"""Cells looked at, of all datasets together."""

LEAST_CELLS = 20
"""Sampled cells of a group that is judged."""

MERGED = "alignment may have merged"
"""What the notice of a group begins with."""

FRESH = 0.75
"""Least share of the cells near a group that are there by the alignment alone."""

NOTABLE = 0.25
"""Least number of them, as a share of what a group that all datasets have would expect."""

_RESOLUTION = 0.2
"""Of the Leiden clusters: groups that are well apart, not parts of one type."""

_N_NEIGHBORS = 20
_N_NEAREST = 15


@dataclass(frozen=True, slots=True)
class MergedGroup:
    """A group of a dataset that alignment may have merged with cells of others.

    Attributes
    ----------
    dataset
        Number of the dataset.
    share
        Share of the dataset's cells that are in the group.
    factor
        Column of the loadings that is strongest in the group before alignment.
    fresh
        Share of the others' cells nearest to it that were not before alignment.
    """

    dataset: int
    share: float
    factor: int
    fresh: float

    def warning(self, dataset_name: str, factor: int) -> str:
        """What a user is told, with the name of the dataset and the number of the factor."""
        return (
            f"{MERGED} a group that only {dataset_name!r} has with other cells: "
            f"{self.share:.0%} of its cells (strongest in factor {factor}) now lie among "
            f"cells of other datasets, {self.fresh:.0%} of which were nearer to other groups of "
            "it before; compare with --align none"
        )


@dataclass(frozen=True, slots=True)
class Witnesses:
    """Sampled cells before and after alignment.

    Attributes
    ----------
    positions
        Positions among all cells, ascending, int64, shape (m,).
    codes
        Dataset of each, int32, shape (m,).
    before, after
        Points, float32, shape (m, k); ``after`` is filled as tiles are seen.
    """

    positions: NDArray[np.int64]
    codes: NDArray[np.int32]
    before: NDArray[np.float32]
    after: NDArray[np.float32]

    @classmethod
    def drawn(
        cls, passes: Passes, scale: NDArray[np.float64], seed: int, *, judge: bool = True
    ) -> Witnesses:
        """A sample in proportion to the datasets; no cells if there is nothing to judge."""
        positions = np.empty(0, dtype=np.int64)
        if judge and np.count_nonzero(passes.n_cells) > 1:
            positions = landmarks(passes.dataset_codes, N_WITNESSES, seed=seed)
        shape = (len(positions), passes.k)
        before = np.empty(shape, dtype=np.float32)
        if len(positions):
            before = to_space(divide(gather(passes.rows, positions), scale))
        codes = passes.dataset_codes[positions]
        return cls(positions, codes, before, np.zeros(shape, dtype=np.float32))

    def see(self, tile: Tile, points: NDArray[np.float32]) -> None:
        """Take the aligned points of a tile."""
        here = within(self.positions, *tile)
        self.after[here] = points[self.positions[here] - tile[0]]

    def merged_groups(self, seed: int) -> tuple[MergedGroup, ...]:
        """Groups that may have been merged, by dataset, the largest first.

        Notes
        -----
        Neighbours among the sampled cells, twice; one thread, so that threads do not show.
        """
        loaded = (self.before > 0).any(axis=1)
        before, after, codes = self.before[loaded], self.after[loaded], self.codes[loaded]
        if len(before) < 2 * LEAST_CELLS:
            return ()
        graph = shared_neighbors(neighbors(before, _N_NEIGHBORS).indices)
        groups = leiden(graph.to_igraph(), _RESOLUTION, seed=seed)
        told: list[MergedGroup] = []
        for dataset in np.unique(codes):
            own = codes == dataset
            near_before = _nearest_groups(before, own, groups)
            near_after = _nearest_groups(after, own, groups)
            told += _judged(int(dataset), before[own], groups[own], near_before, near_after)
        return tuple(told)


def _nearest_groups(
    points: NDArray[np.float32], own: NDArray[np.bool_], groups: NDArray[np.int32]
) -> NDArray[np.float64]:
    """Shares of a dataset's groups among its cells nearest to each other cell, (n, n_groups)."""
    near = nearest(points[~own], points[own], _N_NEAREST).indices
    shares = np.zeros((len(near), int(groups.max()) + 1))
    cells = np.arange(len(near))
    for rank in range(near.shape[1]):
        shares[cells, groups[own][near[:, rank]]] += 1 / near.shape[1]
    return shares


def _judged(
    dataset: int,
    points: NDArray[np.float32],
    groups: NDArray[np.int32],
    before: NDArray[np.float64],
    after: NDArray[np.float64],
) -> list[MergedGroup]:
    """Groups of one dataset that are told of."""
    n_cells = np.bincount(groups, minlength=before.shape[1])
    gained = np.maximum(after - before, 0).sum(axis=0)
    there = after.sum(axis=0)
    expected = n_cells / len(groups) * len(before)
    told = (n_cells >= LEAST_CELLS) & (gained >= FRESH * there) & (gained >= NOTABLE * expected)
    told &= there > 0  # nobody else has cells
    return [
        MergedGroup(
            dataset=dataset,
            share=float(n_cells[group] / len(groups)),
            factor=int(np.square(points[groups == group], dtype=np.float64).sum(axis=0).argmax()),
            fresh=float(gained[group] / there[group]),
        )
        for group in np.flatnonzero(told)
    ]
