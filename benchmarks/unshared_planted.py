"""Datasets that share some of their genes, drawn with known factors."""

from __future__ import annotations

from dataclasses import dataclass

import anndata
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import linear_sum_assignment


@dataclass(frozen=True)
class PlantedParts:
    """Counts of datasets that share some genes, with known factors."""

    parts: list[anndata.AnnData]
    H: NDArray[np.float64]


def planted_unshared(
    n: int = 600,
    n_shared: int = 30,
    n_own: int = 120,
    k: int = 6,
    d: int = 2,
    seed: int = 0,
    depth: float = 600.0,
) -> PlantedParts:
    """``d`` datasets of ``n`` cells; shared genes s0, ... tell little of the ``k`` programs.

    Every pair of datasets that follow each other has ``n_own`` genes besides that others lack
    where there are three or more; of two datasets each has ``n_own`` genes of its own.
    """
    rng = np.random.default_rng(seed)
    W = rng.gamma(0.4, 1.0, (k, n_shared)) + 0.5
    U = rng.gamma(0.3, 1.0, (d, k, n_own))
    parts, H = [], []
    for i in range(d):
        groups = [i] if d == 2 else [i, (i + 1) % d]
        V = rng.gamma(0.3, 0.3, (k, n_shared))
        kind = rng.integers(0, k, n)
        h = rng.gamma(0.2, 0.2, (n, k))
        h[np.arange(n), kind] += rng.gamma(4.0, 0.5, n)
        rate = h @ np.hstack([W + V, *U[groups]])
        total = rate.sum(axis=1, keepdims=True)
        counts = rng.poisson(rate / total * depth * rng.lognormal(0, 0.3, (n, 1)))
        genes = [f"s{g}" for g in range(n_shared)]
        genes += [f"u{j}_{g}" for j in groups for g in range(n_own)]
        obs = pd.DataFrame(
            {"batch": pd.Categorical([f"b{i}"] * n), "kind": [f"t{j}" for j in kind]},
            index=[f"b{i}cell{j}" for j in range(n)],
        )
        X = sparse.csr_matrix(counts.astype(np.float32))
        parts.append(anndata.AnnData(X, obs, pd.DataFrame(index=genes)))
        H.append(h / total)
    return PlantedParts(parts, np.vstack(H))


def cosines(found: NDArray[np.floating], true: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cosine of each planted loading, over all cells, with the found one it is matched to."""
    a = found / np.maximum(np.linalg.norm(found, axis=0), 1e-12)
    b = true / np.linalg.norm(true, axis=0)
    similar = b.T @ a
    rows, columns = linear_sum_assignment(-similar)
    matched: NDArray[np.float64] = similar[rows, columns]
    return matched
