"""Non-negative least squares on a GPU: G (k, k), products R (n, k), loadings H (n, k).

Coordinate descent with eight lanes to a cell and G in shared memory
(``descent.cu``). A cell's loadings depend on its own products and G alone, and
repeat to the bit on one type of GPU.

References
----------
Hsieh and Dhillon (2011), doi:10.1145/2020408.2020577.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tigon.kernels.gpu.modules import Kernel, contiguous, n_multiprocessors
from tigon.kernels.gpu.pivoting import pivot_into

if TYPE_CHECKING:
    import cupy

MAX_FACTORS = 128
"""Most factors k: what eight lanes hold in registers and a block in shared memory."""

MAX_SWEEPS = 500
"""Sweeps after which a cell keeps what it has."""

FAST = 1e-3
"""KKT residual from which pivoting starts."""

_THREADS = 128
_LANES = 8

_ROUNDING = {"fast": 2e-6, "tight": 0.0}
"""What float32 may hide of a residual, relative to the largest product."""

_INSIDE = 1.0 - 1e-6
"""Share of a tolerance that is asked for, so that a quotient rounded up still meets it."""


def slots(k: int) -> int:
    """Values that each of eight lanes holds; beyond four an even number, read in twos."""
    needed = -(-k // _LANES)
    return needed if needed <= 4 else needed + needed % 2


def descent_defines(k: int, mode: str) -> dict[str, int | str]:
    """Macros of ``descent.cu`` for k factors.

    In float32, two cells to a group share each read of G, which limits large k.
    """
    real = "float" if mode == "fast" else "double"
    columns = 2 if mode == "fast" and k > 64 else 1
    return {"FACTORS": k, "SLOTS": slots(k), "COLUMNS": columns, "Real": real}


def descent_kernel(name: str, k: int, mode: str, file: str = "descent.cu") -> Kernel:
    """A kernel built on ``descent.cuh`` for k factors, in float32 ("fast") or float64.

    Shared memory holds G padded to the lanes, its diagonal blocks and two scales.
    """
    rows, width = -(-k // _LANES) * _LANES, slots(k) * _LANES
    values = rows * width + rows * _LANES + width
    size = 4 if mode == "fast" else 8
    return Kernel(file, name, 8 * width + size * values, **descent_defines(k, mode))


class Descent:
    """Coordinate descent for one number of factors: what is compiled once and launched often.

    Parameters
    ----------
    k
        Factors, 1 to 128.
    mode
        "fast" (float32) or "tight" (float64).
    """

    def __init__(self, k: int, mode: str = "fast") -> None:
        import cupy

        self.k = k
        self.dtype = np.dtype(np.float32 if mode == "fast" else np.float64)
        self._rounding = _ROUNDING[mode]
        self.columns = int(descent_defines(k, mode)["COLUMNS"])
        self._kernel = descent_kernel("nnls", k, mode)
        self._max_blocks = 16 * n_multiprocessors(cupy.cuda.runtime.getDevice())

    def limit(self, tol: float) -> float:
        """The residual that is asked for: the tolerance, less what rounding may hide."""
        return max(tol - self._rounding, tol / 2) * _INSIDE

    def __call__(
        self,
        G: cupy.ndarray,
        R: cupy.ndarray,
        H: cupy.ndarray,
        sweeps: cupy.ndarray,
        residual: cupy.ndarray,
        *,
        warm: bool,
        tol: float,
        max_sweeps: int = MAX_SWEEPS,
    ) -> None:
        """Solve H in place, starting from it where ``warm`` and from zero elsewhere.

        Parameters
        ----------
        G
            float64, shape (k, k).
        R, H
            float32 ("fast") or float64 ("tight"), shape (n, k), row-major.
        sweeps
            Written: sweeps of each cell, int32, shape (n,).
        residual
            Written: KKT residual of each cell, of R's type, shape (n,).
        warm
            Whether H holds a start.
        tol
            KKT residual to reach, relative to each cell's largest |r|.
        max_sweeps
            None at all leaves a start as it is and measures its residual.
        """
        n = len(R)
        cells = _THREADS // _LANES * self.columns
        blocks = min(-(-n // cells), self._max_blocks)
        limit = np.float64(self.limit(tol))
        self._kernel(
            blocks, _THREADS, G, R, H, sweeps, residual,
            np.int32(n), np.int32(warm), limit, np.int32(max_sweeps),
        )  # fmt: skip


def solve(
    G: cupy.ndarray,
    R: cupy.ndarray,
    H0: cupy.ndarray | None,
    tol: float,
    mode: str,
    n_threads: int | None = None,
    largest: float | None = None,
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray]:
    """Solve H = argmin over H >= 0 of sum_c h_c G h_c^T - 2 r_c h_c^T.

    Parameters
    ----------
    G
        Gram matrix, shape (k, k), symmetric positive semi-definite, k <= 128.
    R
        Products, shape (n, k).
    H0
        Start, non-negative, shape (n, k); zero where None.
    tol
        KKT residual to reach.
    mode
        "fast" (float32), "tight" (float64), or "exact" (float64: pivoting from
        what "fast" finds).
    n_threads, largest
        Of no meaning here.

    Returns
    -------
    H
        Loadings, float32 in mode "fast" and float64 otherwise, shape (n, k).
    sweeps
        Sweeps of each cell, pivots in mode "exact", int32, shape (n,).
    residual
        KKT residual of these loadings, in float64, shape (n,).

    Raises
    ------
    ValueError
        With more factors than a group of lanes holds.

    Notes
    -----
    "fast" and "exact" take a few launches, "tight" one; none waits for the
    host. Beside input and output some 20 n k bytes are held.
    """
    k = len(G)
    if k > MAX_FACTORS:
        raise ValueError(
            f"too many factors for the GPU ({k}): at most {MAX_FACTORS}; "
            "pass NumPy arrays, or use fewer factors"
        )
    G, wide = contiguous(G, np.float64), contiguous(R, np.float64)
    if mode == "tight":
        return _descend(G, wide, H0, tol, mode)
    H, sweeps, _ = _descend(
        G, contiguous(R, np.float32), H0, FAST if mode == "exact" else tol, "fast"
    )
    found = H.astype(np.float64)
    if mode == "exact":
        return found, *_pivot(G, wide, found, tol)
    return H, sweeps, _residual(G, wide, found)


def _descend(
    G: cupy.ndarray, R: cupy.ndarray, H0: cupy.ndarray | None, tol: float, mode: str
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray]:
    import cupy

    H = cupy.empty_like(R) if H0 is None else cupy.array(H0, R.dtype, order="C")
    sweeps, residual = cupy.empty(len(R), np.int32), cupy.empty(len(R), R.dtype)
    Descent(len(G), mode)(G, R, H, sweeps, residual, warm=H0 is not None, tol=tol)
    return H, sweeps, residual


def _residual(G: cupy.ndarray, R: cupy.ndarray, H: cupy.ndarray) -> cupy.ndarray:
    """KKT residual of each cell, all arrays float64; H is a scratch copy."""
    import cupy

    sweeps, residual = cupy.empty(len(R), np.int32), cupy.empty(len(R), np.float64)
    Descent(len(G), "tight")(G, R, H, sweeps, residual, warm=True, tol=1.0, max_sweeps=0)
    return residual


def _pivot(
    G: cupy.ndarray, R: cupy.ndarray, H: cupy.ndarray, tol: float
) -> tuple[cupy.ndarray, cupy.ndarray]:
    import cupy

    pivots, residual = cupy.empty(len(R), np.int32), cupy.empty(len(R), np.float64)
    pivot_into(G, R, H, pivots, residual, tol * _INSIDE)
    return pivots, residual
