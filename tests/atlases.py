"""Small atlases in memory, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse


@dataclass(frozen=True)
class Planted:
    """Counts with known factors: ``H (W + V)``, whose rows sum to 1, times a cell's depth."""

    adata: anndata.AnnData
    H: NDArray[np.float64]
    W: NDArray[np.float64]


def planted(
    n: int = 1200, m: int = 150, k: int = 5, d: int = 2, seed: int = 0, depth: float = 2000.0
) -> Planted:
    """Cells of ``k`` programs in ``d`` datasets with a small effect of the dataset.

    Each program has its own genes beside shared ones, each cell uses one
    program mostly, and counts are Poisson.
    """
    rng = np.random.default_rng(seed)
    W = rng.gamma(0.5, 0.2, (k, m))
    for j in range(k):
        own = np.arange(j * m // k, (j + 1) * m // k)
        W[j, own] += rng.gamma(2.0, 1.0, len(own))
    V = rng.gamma(0.5, 0.1, (d, k, m))
    kind = rng.integers(0, k, n)
    H = rng.gamma(0.2, 0.2, (n, k))
    H[np.arange(n), kind] += rng.gamma(4.0, 0.5, n)
    batch = rng.integers(0, d, n)
    rate = np.einsum("nk,nkm->nm", H, W[None] + V[batch])
    rate[:, -8:] = 0.0
    H /= rate.sum(axis=1, keepdims=True)
    rate /= rate.sum(axis=1, keepdims=True)
    rate[:, -8:] = 0.002  # genes that tell nothing
    rate *= depth * rng.lognormal(0, 0.3, (n, 1))
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical([f"b{i}" for i in batch]),
            "kind": pd.Categorical([f"t{i}" for i in kind]),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    var = pd.DataFrame(index=[f"gene{g}" for g in range(m - 2)] + ["MT-A", "MT-B"])
    return Planted(anndata.AnnData(counts, obs, var), H, W)
