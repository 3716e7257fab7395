"""Non-negative least squares of whole matrices on the CPU: tiles of cells on threads."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.descent import fast_limit, solve_cells
from tigon.kernels.cpu.pivoting import pivot_into
from tigon.kernels.cpu.sweep import SolverGram
from tigon.kernels.threads import map_tiles

TILE_CELLS = 640
"""Cells of a task; fixed, so that results never depend on the threads."""

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
) -> tuple[NDArray[Any], NDArray[np.int32], NDArray[np.float64]]:
    """Loadings, sweeps and KKT residuals; see :func:`tigon.kernels.least_squares.nnls`."""
    n, k = R.shape
    R = np.ascontiguousarray(R, None if R.dtype in (np.float32, np.float64) else np.float64)
    start = np.empty((0, k), R.dtype) if H0 is None else np.ascontiguousarray(H0, R.dtype)
    H = np.empty((n, k), np.float32 if mode == "fast" else np.float64)
    sweeps, residual = np.empty(n, np.int32), np.empty(n, np.float64)
    scales = _power_of_two(G), _power_of_two(R)
    system = SolverGram.of((G * scales[0]).astype(np.float64 if mode == "tight" else np.float32))
    seed_tol, max_sweeps = (
        (SEED_TOL, MAX_SWEEPS["fast"]) if mode == "exact" else (tol, MAX_SWEEPS[mode])
    )
    limit = fast_limit(seed_tol) if system.step.dtype == np.float32 else np.float64(tol)
    wide = np.ascontiguousarray(G, np.float64)

    def solve_tile(first: int) -> None:
        cells = slice(first, min(first + TILE_CELLS, n))
        own = start if H0 is None else start[cells]
        done = H[cells], sweeps[cells], residual[cells]
        solve_cells(*system.arrays, scales, R[cells], own, limit, max_sweeps, *done)
        if mode == "exact":
            pivot_into(wide, R[cells].astype(np.float64), H[cells], tol, 10 * k, *done[1:])

    map_tiles(solve_tile, range(0, n, TILE_CELLS), n_threads)
    return H, sweeps, residual


def _power_of_two(array: NDArray[Any]) -> float:
    """What brings the largest entry to between 1/2 and 1."""
    largest = max(float(array.max(initial=0)), -float(array.min(initial=0)))
    return float(2.0 ** -np.frexp(largest)[1])
