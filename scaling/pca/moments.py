"""Means and deviations of genes, and the operator that centring and scaling make of sums.

With Y the transformed counts (n x m), u their means and d their deviations (1 where genes are
not scaled), the matrix that is decomposed is A = (Y - 1 u) D^-1, and

    A^T A Q = D^-1 (Y^T Y Q' - n u^T (u Q')),  Q' = D^-1 Q.

Only Y^T Y Q' and the sums of Y and Y^2 are streamed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.sketches import GeneProducts
from tigon.storage.errors import InputError

Float64 = NDArray[np.float64]

_FLAT = 1e-12
"""A variance below this share of the mean square is rounding."""

_LARGEST = 1e150
"""Sums of squares at most: they are squared again for residuals."""


@dataclass(frozen=True, slots=True)
class Moments:
    """What centring and scaling need.

    Attributes
    ----------
    n_cells
        n.
    average
        Means of the genes, shape (m,).
    centred
        Whether they are subtracted.
    deviation
        d, shape (m,); ones where genes are not scaled, and for constant genes.
    squares
        Sum of squares of each column of A, shape (m,).
    """

    n_cells: int
    average: Float64
    centred: bool
    deviation: Float64
    squares: Float64

    @classmethod
    def of(cls, found: GeneProducts, *, center: bool, scale: bool) -> Moments:
        """From the sums of a pass.

        Raises
        ------
        InputError
            Squares of entries are beyond float64.
        """
        if not found.squares.max() < _LARGEST:
            raise InputError(
                f"the sum of the squares of a gene is {found.squares.max():g}, too large for "
                f"float64: {_LARGEST:g} is the limit; divide the matrix by a number, or look for "
                "entries that are wrong"
            )
        n = found.n_cells
        mean = found.sums / n
        about = found.squares - n * mean**2
        varies = about > _FLAT * found.squares
        about = np.where(varies, about, 0.0)
        deviation = np.ones(len(mean))
        if scale:
            deviation = np.where(varies, np.sqrt(about / max(n - 1, 1)), 1.0)
        return cls(n, mean, center, deviation, (about if center else found.squares) / deviation**2)

    @property
    def mean(self) -> Float64:
        """u, shape (m,): what is subtracted, zeros where nothing is."""
        return self.average if self.centred else np.zeros(len(self.average))

    @property
    def total(self) -> float:
        """|A|^2, the sum of the squares of all singular values."""
        return float(self.squares.sum())

    @property
    def rounding(self) -> float:
        """How far A^T A may be off, about: by what rounding leaves of sums over all cells.

        Of the sums before means are subtracted, which may be much larger than what is left.
        """
        means = self.n_cells * float(((self.mean / self.deviation) ** 2).sum())
        return float(np.finfo(np.float64).eps * np.sqrt(self.n_cells)) * (self.total + means)

    def onto_genes(self, Q: Float64) -> Float64:
        """Q' = D^-1 Q, shape (m, l): what the transformed counts are multiplied with."""
        scaled: Float64 = Q / self.deviation[:, None]
        return scaled

    def finish(self, product: Float64, onto: Float64) -> Float64:
        """A^T A Q of the streamed Y^T Y Q' and of Q', shape (m, l)."""
        centred = product - self.n_cells * np.outer(self.mean, self.mean @ onto)
        done: Float64 = centred / self.deviation[:, None]
        return done

    def gram(self, product: Float64) -> Float64:
        """A^T A of the streamed Y^T Y, shape (m, m), in its place."""
        product -= self.n_cells * np.outer(self.mean, self.mean)
        product /= self.deviation
        product /= self.deviation[:, None]
        return product
