"""The kernels of Tigon in plain NumPy, float64: their specification and oracle.

Symbols, for one dataset (k factors, m genes, n cells):

- ``X``: scaled counts, n x m, ``X[c, g] = weight[c] * count[c, g] * scale[g]``;
- ``L``: metagenes W + V, k x m;
- ``G``: Gram matrix of the penalised metagenes, L L^T + lambda V V^T, k x k;
- ``R``: products X L^T, n x k;
- ``H``: loadings, n x k, argmin over H >= 0 of sum_c h_c G h_c^T - 2 r_c h_c^T;
- ``A = H^T H`` (k x k) and ``B = H^T X`` (k x m), summed over cells;
- ``Y``: counts as principal components see them, n x m (:func:`transformed`).

The kernels of the same names, on the CPU and on a GPU, agree with these to rounding.
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
    return spmm(X, L.T)


def spmm(X: sparse.csr_array, D: Float64, *, transpose: bool = False) -> Float64:
    """X D, shape (n, l), or X^T D, shape (m, l)."""
    wide = X.astype(np.float64)
    product: Float64 = (wide.T if transpose else wide) @ D
    return product


def kkt_residual(G: Float64, R: Float64, H: Float64) -> Float64:
    """How far each cell is from optimal, shape (n,): max_j |min(h_j G_jj, gradient_j)| / max|r|.

    At the optimum of a non-negative least-squares problem the gradient is zero
    where h is positive and non-negative where h is zero. A factor whose
    ``G[j, j]`` is zero explains nothing, whatever it loads, and is left out.
    """
    gradient = H @ G - R
    missed = np.abs(np.minimum(H * np.diag(G), gradient))
    violation = missed[:, np.diag(G) > 0].max(axis=1, initial=0.0)
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


def transformed(
    X: sparse.csr_array,
    row_scale: Float64 | float = 1.0,
    column_scale: Float64 | float = 1.0,
    *,
    log1p: bool = False,
) -> Float64:
    """Y = f(row_scale * X) * column_scale, dense, shape (n, m), f being log(1 + x) or x.

    Entries of one gene in one cell are added up first.
    """
    x = X.toarray().astype(np.float64) * np.reshape(row_scale, (-1, 1))
    return np.asarray((np.log1p(x) if log1p else x) * column_scale)


def sketch(Y: Float64, Q: Float64) -> Float64:
    """Y^T (Y Q), shape (m, l), neither centred."""
    return np.asarray(Y.T @ (Y @ Q))


def sparse_gram(Y: Float64) -> Float64:
    """Y^T Y, shape (m, m), not centred."""
    return np.asarray(Y.T @ Y)


def cell_sums(
    X: sparse.csr_array, kinds: NDArray[np.uint8], n_kinds: int
) -> tuple[Float64, NDArray[np.int64], Float64]:
    """Total and detected genes of each cell, (n,), and totals of kinds of genes, (n, n_kinds)."""
    dense = X.toarray().astype(np.float64)
    of_kinds = dense @ np.equal.outer(kinds, np.arange(1, n_kinds + 1))
    return dense.sum(axis=1), (dense > 0).sum(axis=1), of_kinds


def gene_sums(
    X: sparse.csr_array, weights: Float64, codes: NDArray[np.int64], n_datasets: int
) -> tuple[Float64, Float64, NDArray[np.int64]]:
    """Sums of x, of x^2 and of x > 0 over each dataset's cells, shapes (n_datasets, m).

    x is the count times its cell's weight; cells with a negative code are left out.
    """
    member = np.equal.outer(np.arange(n_datasets), codes).astype(np.float64)
    x = X.toarray().astype(np.float64) * weights[:, None]
    return member @ x, member @ x**2, (member @ (x > 0)).astype(np.int64)
