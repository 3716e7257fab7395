"""Counts with factors of cells' handling planted beside those of their types."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
from scipy import sparse

N_TYPES, OWN, COMMON, N_MITO, N_DEEP = 3, 16, 24, 8, 10


def handled_cells(n: int = 1500, seed: int = 0) -> anndata.AnnData:
    """Cells of three types in two batches, some damaged, some deeply sequenced.

    The share of the genes ``MT-*`` differs from cell to cell whatever its type or depth, and
    that of the genes ``deep*`` rises with the cell's depth.
    """
    rng = np.random.default_rng(seed)
    kind, batch = rng.integers(0, N_TYPES, n), rng.integers(0, 2, n)
    programmes = np.full((N_TYPES, N_TYPES * OWN + COMMON), 0.2)
    for j in range(N_TYPES):
        programmes[j, j * OWN : (j + 1) * OWN] += rng.gamma(3.0, 1.0, OWN)
    programmes[:, N_TYPES * OWN :] = rng.gamma(2.0, 0.4, COMMON)
    of_types = programmes[kind] * np.where(batch[:, None] == 0, 1.0, 1.15)
    z = rng.normal(size=n)
    shares = np.stack([rng.beta(1.2, 6.0, n), 0.3 / (1 + np.exp(-2.0 * z))])
    rate = np.hstack(
        [
            of_types / of_types.sum(axis=1, keepdims=True) * (1 - shares.sum(axis=0))[:, None],
            shares[0][:, None] * rng.dirichlet(np.full(N_MITO, 5.0)),
            shares[1][:, None] * rng.dirichlet(np.full(N_DEEP, 5.0)),
        ]
    )
    counts = rng.poisson(rate * np.exp(7.2 + 0.5 * z)[:, None]).astype(np.float32)
    genes = [f"g{i}" for i in range(programmes.shape[1])]
    genes += [f"MT-{i}" for i in range(N_MITO)] + [f"deep{i}" for i in range(N_DEEP)]
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical([f"b{i}" for i in batch]),
            "kind": pd.Categorical([f"t{i}" for i in kind]),
        },
        index=[f"cell{i}" for i in range(n)],
    )
    return anndata.AnnData(sparse.csr_matrix(counts), obs, pd.DataFrame(index=genes))
