"""Sums that a correlation needs, over all cells and within groups of them.

Symbols: p (n x k) what is correlated, x (n) with what. With sums over cells c of group g

    n_g = sum 1,  x_g = sum x_c,  p_gf = sum p_cf,

the covariance over all cells is sum_c p_cf x_c - p_f x / n, and that within the groups,
every group's mean taken out, sum_c p_cf x_c - sum_g p_gf x_g / n_g; variances likewise.
All sums are float64, of values of the size of 1: nothing cancels that matters, and what is
constant is told by its relative size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

_CONSTANT = 1e-9
"""Variance relative to the mean square below which nothing varies but the last bits."""


@dataclass(frozen=True, slots=True)
class Moments:
    """Sums over cells; arrays are added to in place.

    Attributes
    ----------
    n, x, xx
        Cells of each group, their sums of x and of x^2, float64, shape (n_groups,).
    p
        Sums of p of each group, float64, shape (n_groups, k).
    pp, px
        Sums of p^2 and of p x over all cells, float64, shape (k,).
    """

    n: NDArray[np.float64]
    x: NDArray[np.float64]
    xx: NDArray[np.float64]
    p: NDArray[np.float64]
    pp: NDArray[np.float64]
    px: NDArray[np.float64]

    @classmethod
    def zeros(cls, n_groups: int, k: int) -> Self:
        """No cells."""
        n, x, xx = np.zeros((3, n_groups))
        return cls(n, x, xx, np.zeros((n_groups, k)), np.zeros(k), np.zeros(k))

    def add_cells(
        self, p: NDArray[np.float64], x: NDArray[np.float64], group: NDArray[np.int64]
    ) -> None:
        """Count in cells of values ``p``, (n, k), and ``x``, (n,), by their groups, (n,)."""
        n_groups = len(self.n)
        self.n[:] += np.bincount(group, minlength=n_groups)
        self.x[:] += np.bincount(group, x, n_groups)
        self.xx[:] += np.bincount(group, x * x, n_groups)
        self.p[:] += sums_by_group(p, group, n_groups)
        self.pp[:] += np.square(p).sum(axis=0)
        self.px[:] += (p * x[:, None]).sum(axis=0)

    def add(self, part: Moments, groups: NDArray[np.int64]) -> None:
        """Count in the cells of ``part``, whose groups are these here."""
        self.n[groups] += part.n
        self.x[groups] += part.x
        self.xx[groups] += part.xx
        self.p[groups] += part.p
        self.pp[:] += part.pp
        self.px[:] += part.px

    def overall(self) -> NDArray[np.float64]:
        """Correlation over all cells, float64, shape (k,); NaN where something is constant."""
        return self._correlation(
            self.n.sum(keepdims=True), self.x.sum(keepdims=True), self.p.sum(axis=0, keepdims=True)
        )

    def within(self) -> NDArray[np.float64]:
        """Correlation within the groups, float64, shape (k,); NaN where something is constant."""
        return self._correlation(self.n, self.x, self.p)

    @property
    def n_free(self) -> float:
        """Cells less groups: what a correlation within groups rests on."""
        return float(self.n.sum() - (self.n > 0).sum())

    def _correlation(
        self, n: NDArray[np.float64], x: NDArray[np.float64], p: NDArray[np.float64]
    ) -> NDArray[np.float64]:
        n = np.maximum(n, 1.0)[:, None]
        xx, pp = self.xx.sum(), self.pp
        covariance = self.px - (p * x[:, None] / n).sum(axis=0)
        var_x = xx - (x[:, None] ** 2 / n).sum()
        var_p = pp - (p**2 / n).sum(axis=0)
        varies = (var_x > _CONSTANT * xx) & (var_p > _CONSTANT * pp)
        found = np.full(len(pp), np.nan)
        found[varies] = (covariance[varies] / np.sqrt(var_x * var_p[varies])).clip(-1, 1)
        return found


def sums_by_group(
    values: NDArray[np.float64], group: NDArray[np.int64], n_groups: int
) -> NDArray[np.float64]:
    """Sums of the rows of ``values`` (n, k) that are of each group, float64, (n_groups, k)."""
    n = len(values)
    member = sparse.csr_array((np.ones(n), group, np.arange(n + 1)), shape=(n, n_groups))
    return np.asarray(member.T @ values)
