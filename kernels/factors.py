"""Kernels over genes: Gram matrices and HALS for the metagenes W and V (Numba).

Genes are independent given the statistics, so they lie in SIMD lanes: factor
matrices are k x m and every inner loop runs along a row. Sums over genes are
float64 in a fixed order.

References
----------
Cichocki and Phan (2009), doi:10.1587/transfun.E92.A.708; Gao et al. (2021),
online iNMF, doi:10.1038/s41587-021-00867-x.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def _row_dot(a, b):  # type: ignore[no-untyped-def]
    # Four partial sums let the additions overlap; their order is fixed.
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    n = len(a) // 4 * 4
    for i in range(0, n, 4):
        s0 += np.float64(a[i]) * np.float64(b[i])
        s1 += np.float64(a[i + 1]) * np.float64(b[i + 1])
        s2 += np.float64(a[i + 2]) * np.float64(b[i + 2])
        s3 += np.float64(a[i + 3]) * np.float64(b[i + 3])
    for i in range(n, len(a)):
        s0 += np.float64(a[i]) * np.float64(b[i])
    return (s0 + s1) + (s2 + s3)


@njit(cache=True, nogil=True)
def gram(L: NDArray[np.float32], V: NDArray[np.float32], lam: float) -> NDArray[np.float64]:
    """Gram matrix G = L L^T + lambda V V^T of metagenes.

    Parameters
    ----------
    L, V
        Metagenes W + V and V, float32, shape (k, m); genes that the dataset
        does not measure are zero in both.
    lam
        Weight of the dataset-specific part.

    Returns
    -------
    ndarray of float64, shape (k, k)
    """
    k = len(L)
    G = np.empty((k, k))
    for i in range(k):
        for j in range(i + 1):
            G[i, j] = _row_dot(L[i], L[j]) + lam * _row_dot(V[i], V[j])
            G[j, i] = G[i, j]
    return G


@njit(cache=True, nogil=True, fastmath={"contract"})
def _add_scaled(out, a, x):  # type: ignore[no-untyped-def]
    for i in range(len(out)):
        out[i] += a * x[i]


@njit(cache=True, nogil=True)
def add_product(
    out: NDArray[np.float64],
    A: NDArray[np.float64],
    factor: NDArray[np.float32],
    sign: float,
) -> None:
    """Add ``sign * A @ factor`` to ``out`` in place.

    Parameters
    ----------
    out
        float64, shape (k, m), written.
    A
        float64, shape (k, k).
    factor
        float32, shape (k, m).
    sign
        Usually 1 or -1.
    """
    k = len(A)
    for i in range(k):
        for j in range(k):
            _add_scaled(out[i], sign * A[i, j], factor[j])


@njit(cache=True, nogil=True)
def _hals_row(row, gradient, step):  # type: ignore[no-untyped-def]
    for i in range(len(row)):
        row[i] = max(np.float32(0.0), np.float32(row[i] + gradient[i] * step))


@njit(cache=True, nogil=True)
def hals(
    factor: NDArray[np.float32],
    target: NDArray[np.float64],
    gram: NDArray[np.float64],
    n_sweeps: int,
) -> None:
    """Hierarchical alternating least squares, in place.

    Each row j in turn minimises ``tr(F^T S F) - 2 tr(F^T T)`` over itself:
    ``F_j <- max(0, F_j + (T_j - S_j F) / S_jj)``.

    Parameters
    ----------
    factor
        F, float32, shape (k, m), non-negative; written.
    target
        T, float64, shape (k, m).
    gram
        S, float64, shape (k, k). A row with ``S[j, j] == 0`` has had no cell
        and stays as it is.
    n_sweeps
        Passes over the rows.
    """
    k, m = factor.shape
    gradient = np.empty(m)
    for _ in range(n_sweeps):
        for j in range(k):
            if gram[j, j] <= 0.0:
                continue
            gradient[:] = target[j]
            for o in range(k):
                _add_scaled(gradient, -gram[j, o], factor[o])
            _hals_row(factor[j], gradient, 1.0 / gram[j, j])
