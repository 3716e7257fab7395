"""The loadings of all cells summed up, factor by factor, in one pass.

Symbols: H (n x k) the loadings; s_f the root mean square of factor f over all cells;
p_cf = (H_cf / s_f) / sum_f' (H_cf' / s_f') the share of factor f in cell c, in units in
which all factors are equally strong, as alignment and the transfer of labels compare them.
Cells without loadings count in nothing.

What a cell's share is compared with: the logarithm of its counts (depth) and of its
detected genes, and the percentages of its counts in mitochondrial and in ribosomal genes.

Invariant: sums are float64 and folded in the order of the cells over stretches and tiles
cut at fixed positions, whatever the number of threads.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.rows import TILE_CELLS, read_tile, tiles
from tigon.scaling.factors.moments import Moments, sums_by_group
from tigon.storage.progress import Progress, silent
from tigon.storage.rows import RowReader

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

STRETCH_CELLS = 8 * TILE_CELLS
"""Cells whose columns are read at once: they are stored in larger chunks than loadings."""


@dataclass(frozen=True, slots=True)
class Cells:
    """What is known of the cells of a run, streamed.

    Attributes
    ----------
    loadings
        H, float32, shape (n, k).
    scale
        s, float64, shape (k,), above 0.
    datasets, clusters
        Numbers of each cell's dataset and cluster, shape (n,); a cluster may be -1, and
        there may be no clusters.
    n_datasets, n_clusters
        How many there are.
    figures
        What shares are compared with, by name, shape (n,) each.
    logarithmic
        Names of those of which the logarithm is taken.
    """

    loadings: RowReader
    scale: NDArray[np.float64]
    datasets: RowReader
    clusters: RowReader | None
    n_datasets: int
    n_clusters: int
    figures: Mapping[str, RowReader]
    logarithmic: frozenset[str] = frozenset()

    @property
    def n_groups(self) -> int:
        """Groups of cells of one cluster and dataset."""
        return (self.n_clusters + 1) * self.n_datasets

    def groups(self, start: int, stop: int) -> NDArray[np.int64]:
        """Group of each of these cells, int64."""
        datasets = np.asarray(self.datasets.read(start, stop), np.int64)
        if self.clusters is None:
            return datasets
        clusters = np.asarray(self.clusters.read(start, stop), np.int64)
        return (clusters + 1) * self.n_datasets + datasets

    def figure(self, name: str, start: int, stop: int) -> NDArray[np.float64]:
        """A figure of each of these cells, float64; NaN where there is none."""
        values = np.asarray(self.figures[name].read(start, stop), np.float64)
        if name not in self.logarithmic:
            return values
        return np.log(np.where(values > 0, values, np.nan))


@dataclass(frozen=True, slots=True)
class FactorSums:
    """Sums over the cells that have loadings; arrays are added to in place.

    Attributes
    ----------
    n_strongest
        Cells whose largest share is the factor's, int64, shape (k,).
    loadings
        Sums of H, float64, shape (k,).
    n, shares
        Cells of each group, shape (n_groups,), and sums of their shares, shape
        (n_groups, k), float64.
    moments
        Of the shares with each figure, by name.
    """

    n_strongest: NDArray[np.int64]
    loadings: NDArray[np.float64]
    n: NDArray[np.float64]
    shares: NDArray[np.float64]
    moments: Mapping[str, Moments]

    @classmethod
    def zeros(cls, n_groups: int, cells: Cells) -> FactorSums:
        """No cells."""
        k = cells.loadings.shape[1]
        return cls(
            np.zeros(k, np.int64),
            np.zeros(k),
            np.zeros(n_groups),
            np.zeros((n_groups, k)),
            {name: Moments.zeros(n_groups, k) for name in cells.figures},
        )

    def add(self, part: FactorSums, groups: NDArray[np.int64]) -> None:
        """Count in the cells of ``part``, whose groups are these here."""
        self.n_strongest[:] += part.n_strongest
        self.loadings[:] += part.loadings
        self.n[groups] += part.n
        self.shares[groups] += part.shares
        for name, moments in self.moments.items():
            moments.add(part.moments[name], groups)


def sum_factors(cells: Cells, engine: ThreadEngine, progress: Progress = silent) -> FactorSums:
    """Sum up the loadings of all cells.

    Parameters
    ----------
    cells
        The cells.
    engine, progress
        Where it runs and who is told.

    Notes
    -----
    One pass over the loadings and the columns. Holds 16 k bytes for each cell of the tiles
    under way, and 8 (k + 3) bytes for each figure, cluster and dataset; nothing by cell.
    """
    n = cells.loadings.shape[0]
    total = FactorSums.zeros(cells.n_groups, cells)

    def task(stretch: tuple[int, int]) -> tuple[NDArray[np.int64], FactorSums]:
        return _sum_stretch(cells, *stretch)

    cuts = list(tiles(n, STRETCH_CELLS))
    for (_, stop), (groups, part) in zip(cuts, engine.ordered_map(task, cuts), strict=True):
        total.add(part, groups)
        progress("summing up factors", stop, n)
    return total


def _sum_stretch(cells: Cells, start: int, stop: int) -> tuple[NDArray[np.int64], FactorSums]:
    """The groups of these cells, and the sums by these groups."""
    groups, local = np.unique(cells.groups(start, stop), return_inverse=True)
    figures = {name: cells.figure(name, start, stop) for name in cells.figures}
    sums = FactorSums.zeros(len(groups), cells)
    for first, last in tiles(stop - start):
        here = slice(first, last)
        H = read_tile(cells.loadings, start + first, start + last).astype(np.float64)
        of_tile = {name: values[here] for name, values in figures.items()}
        _add_tile(sums, H, H / cells.scale, local[here], of_tile)
    return groups, sums


def _add_tile(
    sums: FactorSums,
    H: NDArray[np.float64],
    scaled: NDArray[np.float64],
    group: NDArray[np.int64],
    figures: Mapping[str, NDArray[np.float64]],
) -> None:
    size = scaled.sum(axis=1)
    loaded = size > 0
    group, p = group[loaded], scaled[loaded] / size[loaded, None]
    sums.n_strongest[:] += np.bincount(p.argmax(axis=1), minlength=p.shape[1])
    sums.loadings[:] += H.sum(axis=0)
    sums.n[:] += np.bincount(group, minlength=len(sums.n))
    sums.shares[:] += sums_by_group(p, group, len(sums.n))
    for name, moments in sums.moments.items():
        x = figures[name][loaded]
        known = np.isfinite(x)
        moments.add_cells(p[known], x[known], group[known])
