"""The kernels of Tigon in plain NumPy, float64: their specification and oracle.

Symbols, for one dataset (k factors, m genes, n cells):

- ``X``: scaled counts, n x m, ``X[c, g] = weight[c] * count[c, g] * scale[g]``;
- ``L``: metagenes W + V, k x m;
- ``G``: Gram matrix of the penalised metagenes, L L^T + lambda V V^T, k x k;
- ``R``: products X L^T, n x k;
- ``H``: loadings, n x k, argmin over H >= 0 of sum_c h_c G h_c^T - 2 r_c h_c^T;
- ``A = H^T H`` (k x k) and ``B = H^T X`` (k x m), summed over cells.

The Numba kernels of the same names agree with these to rounding.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Float64 = NDArray[np.float64]


def gram(L: Float64, V: Float64, lam: float) -> Float64:
    """Gram matrix G = L L^T + lambda V V^T, shape (k, k)."""
    return np.asarray(L @ L.T + lam * (V @ V.T))


def products(X: sparse.csr_array, L: Float64) -> Float64:
    """Products R = X L^T, shape (n, k)."""
    product: Float64 = X.astype(np.float64) @ L.T
    return product


def kkt_residual(G: Float64, R: Float64, H: Float64) -> Float64:
    """How far each cell is from optimal, shape (n,): max_j |min(h_j G_jj, gradient_j)| / max|r|.

    At the optimum of a non-negative least-squares problem the gradient is zero
    where h is positive and non-negative where h is zero.
    """
    gradient = H @ G - R
    violation = np.abs(np.minimum(H * np.diag(G), gradient)).max(axis=1)
    size = np.abs(R).max(axis=1)
    relative = np.zeros(len(R))
    np.divide(violation, size, out=relative, where=size > 0)
    return relative


def nnls(G: Float64, R: Float64, tol: float = 1e-10, max_sweeps: int = 100_000) -> Float64:
    """Non-negative least squares by cyclic coordinate descent, all cells, shape (n, k).

    A factor whose ``G[j, j]`` is zero explains nothing and keeps loading 0.
    """
    H = np.zeros_like(R)
    usable = [j for j in range(len(G)) if G[j, j] > 0]
    for _ in range(max_sweeps):
        for j in usable:
            H[:, j] = np.maximum(0.0, H[:, j] + (R[:, j] - H @ G[:, j]) / G[j, j])
        if kkt_residual(G, R, H).max(initial=0.0) <= tol:
            break
    return H


def statistics(X: sparse.csr_array, H: Float64) -> tuple[Float64, Float64]:
    """A = H^T H, shape (k, k), and B = H^T X, shape (k, m)."""
    return H.T @ H, np.asarray(H.T @ X.astype(np.float64))


def hals(factor: Float64, target: Float64, gram: Float64, n_sweeps: int = 1) -> Float64:
    """Hierarchical alternating least squares for one factor matrix, shape (k, m).

    Each row in turn minimises ``tr(F^T S F) - 2 tr(F^T T)`` over itself, where F
    is the non-negative factor, S the Gram matrix and T the target. A row whose
    ``S[j, j]`` is zero has had no cell and stays as it is.
    """
    F = factor.copy()
    for _ in range(n_sweeps):
        for j in range(len(F)):
            if gram[j, j] > 0:
                F[j] = np.maximum(0.0, F[j] + (target[j] - gram[j] @ F) / gram[j, j])
    return F


def objective(X: sparse.csr_array, H: Float64, W: Float64, V: Float64, lam: float) -> float:
    """One dataset's share of F: |X - H (W + V)|^2 + lambda |H V|^2, from its definition."""
    residual = X.toarray().astype(np.float64) - H @ (W + V)
    return float((residual**2).sum() + lam * ((H @ V) ** 2).sum())
