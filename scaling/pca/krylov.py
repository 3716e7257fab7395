"""Leading eigenvectors of A^T A from a few products with blocks: block Krylov iterations.

Each product is one pass over the cells. All products C Q of the basis Q are kept, so that
Ritz vectors, their residuals and the completeness come without a further pass. After the
first block, which comes from a sample of the cells and random directions, the basis grows by
the residuals of the vectors that are wanted (they span the Krylov space of the wanted part)
and by the products of the probe.

References
----------
Musco and Musco (2015), arXiv:1504.05477; Stathopoulos and Saad (1998),
doi:10.1137/S1064827595288450, for bases that grow by residuals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigh, qr

from tigon.scaling.pca.certificate import PROBES, completeness_of, residuals_of

Float64 = NDArray[np.float64]
Product = Callable[[Float64], Float64]
"""C Q for a block Q, shape (m, l): one pass."""

MOST_MISSED = 2.0
"""Iterations go on while a singular value this much larger than the last may be missing."""

_FAR_BELOW = 0.1
"""Vectors whose residual is below this share of what is asked for are not improved."""

_TO_COME = 7.5e-4
"""Share of the variance of the components that a further pass may be expected to bring, at most."""

_ROUNDING = 1e-6
"""Residuals below this share of the first singular value are rounding: squares were summed."""

_ALL = 16
"""Degree of polynomials where the basis holds the whole Krylov space of the probe."""

_DEPENDENT = 1e-10
"""What is left of a column, relative to its length, below which it lies in the basis already."""

_OF_PRODUCTS = 1e-14
"""Parts of C U below this share of the largest eigenvalue are rounding."""


@dataclass(frozen=True, slots=True)
class Eigenpairs:
    """What iterations found.

    Attributes
    ----------
    values
        Eigenvalues of A^T A, descending, shape (k,).
    vectors
        Shape (m, k).
    residuals
        |A^T u - sigma v|, shape (k,).
    completeness
        How much larger than the last singular value a missed one may be, at least 1.
    converged
        Whether every residual is at most ``tol`` sigma.
    """

    values: Float64
    vectors: Float64
    residuals: Float64
    completeness: float
    converged: bool


def block_krylov(
    product: Product,
    start: Float64,
    probe: Float64,
    n_components: int,
    tol: float,
    max_passes: int,
    tell: Callable[[float], None] | None = None,
) -> Eigenpairs:
    """Leading eigenpairs of C = A^T A.

    Parameters
    ----------
    product
        C Q; called once a pass.
    start
        Directions to begin with, shape (m, l).
    probe
        Independent standard normal numbers, shape (m, p), not those of the start.
    n_components
        k.
    tol
        Relative residual at which all is done, see :class:`Eigenpairs`, if hardly any of the
        variance is still to come then.
    max_passes
        Products at most.
    tell
        Told after each pass of the largest residual, relative to its singular value.

    Returns
    -------
    Eigenpairs
        The best there is after ``max_passes``.

    Notes
    -----
    Holds 16 m bytes for each column of the basis: l + p of the first pass, and at most
    1.6 k + p of every other.
    """
    basis, explained = _Basis(len(start)), [0.0]
    chain = _Chain(probe, np.full(probe.shape[1], _OF_PRODUCTS))
    block = basis.beyond(start, chain)
    for n_passes in range(1, max_passes + 1):
        basis.grow(block, product(block))
        found = basis.ritz(improved(n_components))
        if tell is not None:
            tell(found.largest(n_components))
        chain = basis.after(chain)
        block = basis.beyond(found.to_improve(tol), chain)
        exhausted = not block.shape[1]
        last = exhausted or n_passes == max_passes
        explained.append(float(found.values[:n_components].sum()))
        if last or (found.are_good(n_components, tol) and to_come(explained) <= _TO_COME):
            degree = _ALL if exhausted else n_passes - 1
            pairs = basis.told(found, probe, n_components, tol, degree)
            if last or pairs.converged:
                return pairs
    raise AssertionError("the last pass returns")


def improved(n_components: int) -> int:
    """How many vectors are improved, to have ``n_components`` good ones.

    Those beyond decide how fast the last ones converge where singular values lie close
    together. With 80 for 50, a tenth is still to come of what is with 60 after as many passes,
    on real atlases and simulated ones, for 1.3 times the arithmetic.
    """
    return n_components + max(10, 3 * n_components // 5)


def to_come(explained: list[float]) -> float:
    """What further passes bring, as a share of all, if each brings as much less as the last did.

    Residuals alone do not tell: where singular values lie close together, the variance settles
    long before the vectors do, and where there are many of these, later than it seems.

    Parameters
    ----------
    explained
        Variance of the components after each pass, from none on.
    """
    growth = explained[-1] - explained[-2]
    if growth <= _DEPENDENT * explained[-1]:
        return 0.0
    if len(explained) < 3 or growth >= explained[-2] - explained[-3]:
        return np.inf
    ratio = growth / (explained[-2] - explained[-3])
    return growth * ratio / (1.0 - ratio) / explained[-1]


def basis_bytes(n_begun: int, n_components: int, max_passes: int, n_genes: int) -> int:
    """Bytes that iterations hold at most: the basis, its products, and what is made of them.

    Parameters
    ----------
    n_begun
        Directions of the start, without those of the probe.
    n_components, max_passes, n_genes
        As they are asked for.
    """
    each = improved(n_components) + PROBES
    first = n_begun + PROBES
    columns = min(first + (max_passes - 1) * each, n_genes)
    # One of the two is there twice while it grows, beside blocks, vectors and their products.
    return 24 * n_genes * columns + 6 * 8 * n_genes * max(first, each) + 5 * 8 * columns**2


@dataclass(frozen=True, slots=True)
class _Ritz:
    """Leading Ritz pairs (values descending) and their residuals."""

    values: Float64
    vectors: Float64
    products: Float64
    residuals: Float64

    def to_improve(self, tol: float) -> Float64:
        """Residual vectors of those that are not much better than asked for, shape (m, l)."""
        some = self.residuals > _FAR_BELOW * self.allowed(tol)
        vectors: Float64 = self.products[:, some] - self.vectors[:, some] * self.values[some]
        return vectors

    def are_good(self, n: int, tol: float) -> bool:
        """Whether the first ``n`` are as good as asked for."""
        return bool((self.residuals <= self.allowed(tol))[:n].all())

    def largest(self, n: int) -> float:
        """The largest residual of the first ``n``, relative to their singular values."""
        return float((self.residuals / np.maximum(self.allowed(1.0), 1e-300))[:n].max(initial=0))

    def allowed(self, tol: float) -> Float64:
        """Residuals at which vectors are as good as asked for."""
        sigma = np.sqrt(np.maximum(self.values, 0.0))
        most: Float64 = np.maximum(tol * sigma, _ROUNDING * sigma[:1])
        return most


@dataclass(frozen=True, slots=True)
class _Chain:
    """Columns that span C^t G, and what of each, relative to its length, may be left out."""

    columns: Float64
    least: Float64


class _Basis:
    """Orthonormal columns Q and their products C Q."""

    def __init__(self, n_rows: int) -> None:
        self.Q: Float64 = np.zeros((n_rows, 0))
        self.products: Float64 = np.zeros((n_rows, 0))
        self._values: Float64 = np.zeros(0)
        self._vectors: Float64 = np.zeros((0, 0))

    def grow(self, block: Float64, product: Float64) -> None:
        """Add columns and diagonalise T = Q^T C Q."""
        self.Q = np.hstack([self.Q, block])
        self.products = np.hstack([self.products, product])
        T = self.Q.T @ self.products
        values, vectors = eigh((T + T.T) / 2)
        self._values, self._vectors = values[::-1], vectors[:, ::-1]

    def ritz(self, n: int) -> _Ritz:
        """The ``n`` leading pairs, or all."""
        y, values = self._vectors[:, :n], self._values[:n]
        V, CV = self.Q @ y, self.products @ y
        return _Ritz(values, V, CV, residuals_of(CV, V, values))

    def after(self, chain: _Chain) -> _Chain:
        """C^(t + 1) G of C^t G, which lies in the basis."""
        product: Float64 = self.products @ (self.Q.T @ chain.columns)
        unit, longest = _unit(product), np.linalg.norm(product, axis=0).max(initial=0.0)
        columns, R, _ = qr(unit, mode="economic", pivoting=True)
        # How much of C U each column stands for, in units of the largest eigenvalue.
        sizes = np.abs(R.diagonal()) * longest / max(self._values[0], 1e-300)
        some = sizes > _OF_PRODUCTS
        least = np.minimum(_OF_PRODUCTS / sizes[some], _DEPENDENT)
        return _Chain(np.asarray(columns[:, some]), least)

    def told(
        self, found: _Ritz, probe: Float64, n_components: int, tol: float, degree: int
    ) -> Eigenpairs:
        """The first pairs with what is proven of them."""
        k = n_components
        rest = self._vectors.T @ (self.Q.T @ probe)
        completeness = completeness_of(self._values, rest, k, degree, len(probe))
        return Eigenpairs(
            np.maximum(found.values[:k], 0.0),
            found.vectors[:, :k],
            found.residuals[:k],
            completeness,
            found.are_good(k, tol) and completeness <= MOST_MISSED,
        )

    def beyond(self, block: Float64, chain: _Chain) -> Float64:
        """Orthonormal columns that span what ``block`` (m, l) and a chain add to the basis."""
        first = _unit(block)
        unit = np.hstack([first, _unit(chain.columns)])
        least = np.append(np.full(first.shape[1], _DEPENDENT), chain.least)
        columns = independent(unit - self.Q @ (self.Q.T @ unit), least)
        # Once is not enough where most of a column lay in the basis.
        return np.asarray(qr(columns - self.Q @ (self.Q.T @ columns), mode="economic")[0])


def independent(block: Float64, least: Float64) -> Float64:
    """Orthonormal columns that span those of ``block`` (m, l), but for parts of up to ``least``."""
    columns, R, order = qr(block, mode="economic", pivoting=True)
    more = np.flatnonzero(np.abs(R.diagonal()) > least[order][: len(R)])
    # Parts of a column lie along all those before it.
    return np.asarray(columns[:, : more.max(initial=-1) + 1])


def _unit(block: Float64) -> Float64:
    """Columns that are not zero, of length 1."""
    lengths = np.linalg.norm(block, axis=0)
    columns: Float64 = block[:, lengths > 0] / lengths[lengths > 0]
    return columns
