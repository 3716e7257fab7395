"""Exact non-negative least squares on a GPU: block principal pivoting, one warp a cell.

References
----------
Kim and Park (2011), doi:10.1137/110821172.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tigon.kernels.gpu.modules import Kernel, n_multiprocessors

if TYPE_CHECKING:
    import cupy

_THREADS = 128
_BLOCKS_PER_MULTIPROCESSOR = 32


def pivoting_bytes(k: int) -> int:
    """Shared memory of one cell: the triangle and its right-hand side, five vectors, a list."""
    return 8 * ((k + 1) * (k + 2) // 2 + 5 * k) + 4 * k


def pivot_into(
    G: cupy.ndarray,
    R: cupy.ndarray,
    H: cupy.ndarray,
    pivots: cupy.ndarray,
    residual: cupy.ndarray,
    tol: float,
) -> None:
    """Solve H exactly, in place, from the passive sets that it holds.

    Parameters
    ----------
    G
        Gram matrix, float64, shape (k, k), k <= 128.
    R
        Products, float64, shape (n, k), row-major.
    H
        float64, shape (n, k), row-major: its positive entries are the first
        passive sets; zeros are a cold start. Written.
    pivots
        Written: factorisations of each cell, int32, shape (n,).
    residual
        Written: KKT residual of each cell, float64, shape (n,), from a
        gradient computed afresh.
    tol
        KKT residual to reach.

    Notes
    -----
    A cell that goes in circles is solved by coordinate descent from its start,
    then once more on the variables found positive. Two launches.
    """
    import cupy

    n, k = R.shape
    N = cupy.empty((k, k), np.float64)
    Kernel("pivoting.cu", "scale_to_unit", FACTORS=k)(-(-k * k // _THREADS), _THREADS, G, N)
    device = cupy.cuda.runtime.getDevice()
    blocks = min(n, _BLOCKS_PER_MULTIPROCESSOR * n_multiprocessors(device))
    kernel = Kernel("pivoting.cu", "pivot_cells", pivoting_bytes(k), FACTORS=k)
    kernel(blocks, 32, G, N, R, H, pivots, residual, np.int32(n), np.float64(tol))
