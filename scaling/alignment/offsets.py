"""Offsets of the datasets near each factor, from sums over cells.

Symbols: r_cj the share of cell c in factor j, P_c its point of unit length, i its dataset;
N_ij = sum r_cj, Q_ij = sum r_cj^2 and T_ij = sum r_cj P_c over the cells of i, m_ij = T_ij / N_ij.

    v_j     = sum_i N_ij (1 - |m_ij|^2) / sum_i (N_ij - Q_ij / N_ij)          within datasets
    tau_j^2 = (sum_i N_ij |m_ij - m_j|^2 - v_j sum_i (1 - N_ij / N_j) Q_ij / N_ij)
              / (N_j - sum_i N_ij^2 / N_j),  at least 0                          between them
    b_ij    = N_ij / (N_ij + lambda_j) (m_ij - mu_j),  lambda_j = max(1, v_j / tau_j^2)
    mu_j    = sum_i w_ij m_ij / sum_i w_ij,  w_ij = N_ij lambda_j / (N_ij + lambda_j)

The last two lines solve the ridge regression with an intercept and one offset for each dataset:
its normal equations are an arrow, and taking the offsets out leaves one equation for the
intercept, so that the cost is linear in the datasets.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

_LEAST_CELLS = 1e-6
"""Cells near a factor, by their shares, below which a dataset has no mean there."""


@dataclass(frozen=True, slots=True)
class Sums:
    """Sums over the cells of each dataset.

    Attributes
    ----------
    n_cells
        Of the shares, N, float64, shape (n_datasets, k).
    squares
        Of their squares, Q, same shape.
    points
        Of the points times the shares, T, float64, shape (n_datasets, k, k): dataset, factor
        that cells are near, coordinate.
    """

    n_cells: NDArray[np.float64]
    squares: NDArray[np.float64]
    points: NDArray[np.float64]

    @classmethod
    def nothing(cls, n_datasets: int, k: int) -> Sums:
        """Sums over no cells."""
        shape = (n_datasets, k)
        return cls(np.zeros(shape), np.zeros(shape), np.zeros((*shape, k)))

    @classmethod
    def of_cells(
        cls,
        points: NDArray[np.float64],
        near: NDArray[np.float64],
        groups: list[NDArray[np.int64]],
    ) -> Sums:
        """Sums over the cells of each group, given points and shares, each of shape (n, k)."""
        sums = cls.nothing(len(groups), points.shape[1])
        for group, cells in enumerate(groups):
            shares = near[cells]
            sums.n_cells[group] = shares.sum(axis=0)
            sums.squares[group] = np.square(shares).sum(axis=0)
            sums.points[group] = np.einsum("cj,cf->jf", shares, points[cells])
        return sums

    def add(self, datasets: NDArray[np.int32], more: Sums) -> None:
        """Add sums of some datasets, in place."""
        self.n_cells[datasets] += more.n_cells
        self.squares[datasets] += more.squares
        self.points[datasets] += more.points


def fit_offsets(sums: Sums) -> NDArray[np.float64]:
    """Offsets b of each dataset near each factor, float64, shape (n_datasets, k, k).

    Zero where no variance between datasets shows, and for a dataset without cells there.
    """
    has_cells = sums.n_cells > _LEAST_CELLS
    N = np.where(has_cells, sums.n_cells, 0.0)
    means = np.zeros_like(sums.points)
    np.divide(sums.points, N[:, :, None], out=means, where=has_cells[:, :, None])
    within, between = _variances(N, sums.squares, means)
    spread = np.maximum(within, between)  # the penalty is at least one cell's
    weights = _ratio(N * spread, between * N + spread)
    centre = _ratio((weights[:, :, None] * means).sum(axis=0), weights.sum(axis=0)[:, None])
    kept = _ratio(between * N, between * N + spread)
    return kept[:, :, None] * (means - centre)


def step_size(change: NDArray[np.float64], n_cells: NDArray[np.float64]) -> float:
    """Root mean square of a change of the offsets, each counted by the cells that it moves."""
    squares = np.square(change).sum(axis=2)
    return float(np.sqrt((n_cells * squares).sum() / max(n_cells.sum(), 1.0)))


def _variances(
    N: NDArray[np.float64], Q: NDArray[np.float64], means: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Variance of a cell within datasets and of a mean between them, each of shape (k,)."""
    mean_share = _ratio(Q, N)
    N_all = N.sum(axis=0)
    apart = N * (1 - np.square(means).sum(axis=2))
    within = _ratio(np.maximum(apart, 0).sum(axis=0), (N - mean_share).sum(axis=0))
    overall = _ratio((N[:, :, None] * means).sum(axis=0), N_all[:, None])
    found = (N * np.square(means - overall).sum(axis=2)).sum(axis=0)
    noise = within * (mean_share * (1 - _ratio(N, N_all))).sum(axis=0)
    between = _ratio(found - noise, N_all - _ratio(np.square(N).sum(axis=0), N_all))
    return within, np.maximum(between, 0)


def _ratio(numerator: NDArray[np.float64], denominator: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quotient, 0 where there is nothing to divide by."""
    shape = np.broadcast_shapes(numerator.shape, denominator.shape)
    quotient: NDArray[np.float64] = np.divide(
        numerator, denominator, out=np.zeros(shape), where=denominator > 0
    )
    return quotient
