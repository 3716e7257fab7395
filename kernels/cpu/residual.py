"""KKT residuals computed anew, for the few cells whose bound did not reach the tolerance."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def replace_bounds(
    residual: NDArray[np.float64],
    tol: float,
    G: NDArray[np.float64],
    R: NDArray[Any],
    H: NDArray[Any],
) -> None:
    """Put the residual itself where its bound exceeds ``tol``, in place.

    Parameters
    ----------
    residual
        Bounds, shape (n,); written.
    tol
        What is good enough.
    G, R, H
        The problem and its loadings, shapes (k, k), (n, k), (n, k).
    """
    if (residual <= tol).all():
        return
    cells = np.flatnonzero(~(residual <= tol))
    products, loadings = R[cells].astype(np.float64), H[cells].astype(np.float64)
    # einsum and not BLAS, whose bits change with its threads.
    # Products that overflowed leave nothing to be computed but an infinite residual.
    products[~np.isfinite(products).all(axis=1)] = np.inf
    gradient = np.einsum("cj,jo->co", loadings, G) - products
    missed = np.abs(np.minimum(loadings * G.diagonal(), gradient))[:, G.diagonal() > 0]
    size = np.abs(products).max(axis=1)
    worst = missed.max(axis=1, initial=0.0)
    sound = (size > 0) & np.isfinite(size)
    relative = np.where(np.isfinite(size), worst, np.inf)
    residual[cells] = np.divide(worst, size, out=relative, where=sound)
