"""Non-negative least squares of whole matrices on the CPU: tiles of cells on threads."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.descent import descend, fast_limit
from tigon.kernels.cpu.pivoting import pivot_into
from tigon.kernels.cpu.residual import replace_bounds
from tigon.kernels.cpu.sweep import SolverGram
from tigon.kernels.cpu.whole import even_cuts
from tigon.kernels.threads import map_tiles

_TILE_CELLS = 1280
"""Cells of a task at least; no cell depends on how they are cut."""

_WORTH_A_THREAD = 1_000_000
"""n k^2 of mode "fast" that are worth another thread, which takes some 50 microseconds."""

MAX_SWEEPS = {"fast": 500, "tight": 20_000}
"""Sweeps after which a cell keeps what it has: singular systems converge slowly."""

SEED_TOL = 1e-3
"""Residual at which exact mode takes over from coordinate descent."""


def solve(
    G: NDArray[Any],
    R: NDArray[Any],
    H0: NDArray[Any] | None,
    tol: float,
    mode: str,
    n_threads: int | None,
    largest: float,
) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.float64]]:
    """Loadings, sweeps and KKT residuals; see :func:`tigon.kernels.least_squares.nnls`.

    ``largest`` is the largest |R|.
    """
    n, k = R.shape
    R = np.ascontiguousarray(R, _float_dtype(R))
    if not R.flags.writeable:
        R = R.copy()  # Numba takes arrays that cannot be written for another type.
    dtype = np.float32 if mode == "fast" else np.float64
    H = np.zeros((n, k), dtype) if H0 is None else np.empty((n, k), dtype)
    start = H if H0 is None else _without_unused(H0, G.diagonal() > 0)
    sweeps, residual = np.empty(n, np.int32), np.empty(n)
    wide = np.array(G, np.float64, order="C")
    scales = _power_of_two(float(abs(wide).max())), _power_of_two(largest)
    system = SolverGram.of((wide * scales[0]).astype(np.float64 if mode == "tight" else np.float32))
    reached = SEED_TOL if mode == "exact" else tol
    limit = np.float64(tol) if mode == "tight" else fast_limit(reached)
    _check_range(scales, mode)
    # With negative entries of G sums may cancel, and rounding can hide what is left.
    proven = -1.0 if float(wide.min()) < 0 else tol
    most = MAX_SWEEPS["tight" if mode == "tight" else "fast"]

    flat_R, flat_start, flat_H = R.ravel(), start.ravel(), H.ravel()

    def solve_tile(cells: slice) -> None:
        part = slice(k * cells.start, k * cells.stop)
        done = sweeps[cells], residual[cells]
        rows = flat_R[part], k, flat_start[part], flat_H[part], k, k
        descend(*system.arrays, scales, *rows, limit, most, *done)
        if mode == "exact":
            pivot_into(wide, R[cells].astype(np.float64), H[cells], tol, 10 * k, *done)
        else:
            replace_bounds(residual[cells], proven, wide, R[cells], H[cells])

    fewest = _WORTH_A_THREAD // k**2 if mode == "fast" else 0
    map_tiles(solve_tile, even_cuts(n, max(_TILE_CELLS, fewest)), n_threads)
    return H, sweeps, residual


def _without_unused(H0: NDArray[Any], used: NDArray[np.bool_]) -> NDArray[Any]:
    """Where to start, with zeros for factors that explain nothing."""
    start = np.ascontiguousarray(H0, _float_dtype(H0))
    if not used.all():
        return start * used
    return start if start.flags.writeable else start.copy()


def _check_range(scales: tuple[float, float], mode: str) -> None:
    """Float32 loadings, which are about as large as R over G, must not leave its range."""
    size = scales[0] / scales[1]
    if mode == "fast" and not 1e-37 < size < 1e37:
        raise ValueError(
            f"loadings are about {size:.0e} in size: mode 'fast' computes them in float32; "
            "multiply R by a constant, or choose mode='tight' or 'exact'"
        )


def _float_dtype(array: NDArray[Any]) -> Any:
    return array.dtype if array.dtype in (np.float32, np.float64) else np.float64


def _power_of_two(largest: float) -> float:
    """What brings it to between 1/2 and 1."""
    return float(2.0 ** -math.frexp(largest)[1])
