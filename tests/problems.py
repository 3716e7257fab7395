"""Small factorisation problems, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import nnls as scipy_nnls

from tigon.kernels.cpu.metagenes import MetageneTable, Tabulation
from tigon.kernels.tile import CellTile

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A tile, its metagenes, and the same things dense in float64."""

    tile: CellTile
    metagenes: MetageneTable
    X: sparse.csr_array
    W: NDArray[np.float64]
    V: NDArray[np.float64]
    lam: float


def draw_problem(
    seed: int, n: int = 300, m: int = 80, k: int = 7, density: float = 0.2, lam: float = 5.0
) -> Problem:
    """Integer counts with empty cells, and metagenes with zeros."""
    rng = np.random.default_rng(seed)
    counts = sparse.random_array((n, m), density=density, rng=rng, format="csr")
    counts.data = rng.integers(1, 30, counts.nnz).astype(np.float32)
    counts = sparse.csr_array(counts.multiply(np.arange(n)[:, None] % 17 != 3))
    counts.eliminate_zeros()
    counts.sort_indices()
    totals = np.asarray(counts.sum(axis=1)).ravel()
    weights = np.divide(1.0, totals, out=np.zeros(n), where=totals > 0).astype(np.float32)
    scale = rng.uniform(1, 200, m)
    W = (rng.gamma(0.4, 1.0, (k, m)) * (rng.random((k, m)) < 0.7)).astype(np.float32)
    V = (rng.gamma(0.2, 0.3, (k, m))).astype(np.float32)
    tile = CellTile(
        np.arange(n),
        counts.indptr.astype(np.int64),
        counts.indices.astype(np.uint16),
        counts.data.astype(np.uint16),
        weights,
    )
    metagenes = Tabulation(W, V, lam, scale, np.ones(m, bool)).whole()
    X = sparse.csr_array(counts.multiply(weights[:, None].astype(float)).multiply(scale[None, :]))
    return Problem(tile, metagenes, X, W.astype(float), V.astype(float), lam)


def draw_system(seed: int, n: int, k: int, m: int = 0) -> tuple[Array, Array]:
    """Gram matrix and products of gamma draws; about half of the loadings are zero."""
    rng = np.random.default_rng(seed)
    L = rng.gamma(0.5, 1.0, (k, m or 10 * k + 20))
    return L @ L.T, rng.gamma(0.3, 1.0, (n, L.shape[1])) @ L.T


def by_scipy(G: Array, R: Array) -> Array:
    """Loadings by SciPy: Cholesky turns the Gram form into its form, |U h - U^-T r|."""
    U = np.linalg.cholesky(G).T
    return np.array([scipy_nnls(U, np.linalg.solve(U.T, r))[0] for r in R])


def objectives(G: Array, R: Array, H: Array) -> Array:
    """What each cell minimises, h G h / 2 - r h, shape (n,)."""
    H = H.astype(float)
    return np.asarray(0.5 * np.einsum("ci,ij,cj->c", H, G, H) - (R * H).sum(axis=1))


DEGENERATE = ("duplicate", "zero", "parallel", "rank one", "wide", "signed and wide")


def degenerate_factors(kind: str, k: int) -> Array:
    """Factors (k, m) whose Gram matrix has no inverse, or next to none."""
    rng = np.random.default_rng(k)
    L = rng.gamma(0.5, 1.0, (k, 300))
    if kind == "duplicate":
        L[3], L[5] = L[1], 2 * L[1]
    elif kind == "zero":
        L[[0, 4]] = 0
    elif kind == "parallel":
        L[3] = L[1] * (1 + 1e-6 * rng.standard_normal(300))
    elif kind == "rank one":
        L = np.outer(rng.gamma(1.0, 1.0, k), L[0])
    elif kind == "wide":
        L = L[:, : k // 2]
    elif kind == "signed and wide":
        L = rng.standard_normal((k, k // 2))
    return L
