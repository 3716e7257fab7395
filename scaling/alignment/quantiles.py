"""Quantile maps: what takes a factor's loadings in a dataset onto the reference.

In joint cluster j, dataset i has for factor f the quantiles q_0 <= ... <= q_P of
its cells (linear interpolation, type 7) and the reference r_0 <= ... <= r_P. The
map is piecewise linear through (q_p, r_p), where equal q_p share the mean of
their r_p; it starts at the origin and goes on beyond q_P with slope r_P / q_P, at
most 1. It never decreases, and it is the identity where there is nothing to map:
a dataset with few cells in the cluster, a factor without spread in the dataset or
in the reference. So no factor is erased.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_CHUNK_CELLS = 512
"""Cells whose knots are held at once."""

_STEEPEST = 1e6
"""Slope at most; steeper pieces are narrower than float32 tells apart and become steps."""


@dataclass(frozen=True, slots=True)
class QuantileMaps:
    """Piecewise-linear maps y = values + slopes * (x - knots), right of each knot.

    Attributes
    ----------
    group
        Map of each dataset in each cluster, int32, shape (n_datasets, k); 0 is
        the identity.
    knots, values, slopes
        float32, shape (n_maps, P + 2, k); knots never decrease along axis 1.
    """

    group: NDArray[np.int32]
    knots: NDArray[np.float32]
    values: NDArray[np.float32]
    slopes: NDArray[np.float32]

    def apply(self, loadings: NDArray[np.float32], group: NDArray[np.int32]) -> NDArray[np.float32]:
        """Mapped loadings, float32, shape (n, k), of cells with the given maps, shape (n,)."""
        mapped = np.empty_like(loadings)
        for start in range(0, len(loadings), _CHUNK_CELLS):
            here = slice(start, start + _CHUNK_CELLS)
            x, g = loadings[here], group[here]
            at = (x[:, None, :] >= self.knots[g]).sum(axis=1) - 1  # (n, k)
            pick = (g[:, None], at, np.arange(x.shape[1]))
            mapped[here] = self.values[pick] + self.slopes[pick] * (x - self.knots[pick])
        return mapped


def quantiles(loadings: NDArray[np.float32], n_quantiles: int) -> NDArray[np.float64]:
    """Type 7 quantiles of each factor, float64, shape (n_quantiles + 1, k)."""
    probabilities = np.linspace(0, 1, n_quantiles + 1)
    return np.quantile(loadings.astype(np.float64), probabilities, axis=0)


def mean_quantiles(
    by_dataset: NDArray[np.float64], n_cells: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Mean of the datasets' quantiles, shape (P + 1, k), weighted by their cells.

    Parameters
    ----------
    by_dataset
        Quantiles, float64, shape (n, P + 1, k).
    n_cells
        Cells of each dataset in the cluster, int64, shape (n,).
    """
    weights = n_cells / n_cells.sum()
    weighted: NDArray[np.float64] = (by_dataset * weights[:, None, None]).sum(axis=0)
    return weighted


def piecewise(
    q: NDArray[np.float64], r: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Knots, values and slopes, each of shape (P + 2,), of the map of one factor.

    Parameters
    ----------
    q, r
        Quantiles of the dataset and of the reference, shape (P + 1,).
    """
    length = len(q) + 1
    knots, values, slopes = np.full(length, np.inf), np.zeros(length), np.ones(length)
    knots[0] = 0
    if q[-1] <= q[0] or r[-1] <= r[0]:
        return knots, values, slopes
    x, first, n_equal = np.unique(q, return_index=True, return_counts=True)
    y = np.add.reduceat(r, first) / n_equal
    if x[0] > 0:
        x, y = np.insert(x, 0, 0.0), np.insert(y, 0, 0.0)
    n = len(x)
    knots[:n], values[:n] = x, y
    slopes[: n - 1] = np.minimum(np.diff(y) / np.diff(x), _STEEPEST)
    slopes[n - 1] = min(1.0, y[-1] / x[-1])
    return knots, values, slopes


def quantile_maps(
    pairs: dict[tuple[int, int], tuple[NDArray[np.float64], NDArray[np.float64]]],
    n_datasets: int,
    k: int,
    n_quantiles: int,
) -> QuantileMaps:
    """Maps of every (dataset, cluster) in ``pairs``: its quantiles and its reference's."""
    shape = (len(pairs) + 1, n_quantiles + 2, k)
    knots = np.full(shape, np.inf, dtype=np.float32)
    values, slopes = np.zeros(shape, dtype=np.float32), np.ones(shape, dtype=np.float32)
    knots[0, 0] = 0
    group = np.zeros((n_datasets, k), dtype=np.int32)
    for number, (pair, (q, r)) in enumerate(pairs.items(), start=1):
        group[pair] = number
        for f in range(k):
            knots[number, :, f], values[number, :, f], slopes[number, :, f] = piecewise(
                q[:, f], r[:, f]
            )
    return QuantileMaps(group, knots, values, slopes)
