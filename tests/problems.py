"""Small factorisation problems, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.kernels.cpu.step import MetageneTable
from tigon.kernels.tile import CellTile


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
    metagenes = MetageneTable.of(W, V, lam, scale, np.ones(m, bool))
    X = sparse.csr_array(counts.multiply(weights[:, None].astype(float)).multiply(scale[None, :]))
    return Problem(tile, metagenes, X, W.astype(float), V.astype(float), lam)
