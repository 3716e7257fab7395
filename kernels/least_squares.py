"""Non-negative least squares for many cells that share one Gram matrix.

    H = argmin over H >= 0 of |X - H L|^2,   with G = L L^T and R = X L^T,

which needs G (k, k) and R (n, k) only. The quality of a cell's loadings h is its KKT
residual, max_j |min(h_j G_jj, (G h - r)_j)| / max_j |r_j|: zero at the optimum.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

import numpy as np

from tigon.kernels.checking import (
    Array,
    check_gram,
    check_matrix,
    check_not_negative,
    check_same_library,
    module_of,
)

Mode = Literal["fast", "tight", "exact"]

TOLERANCES: dict[str, float] = {"fast": 1e-3, "tight": 1e-6, "exact": 1e-10}
"""KKT residual that each mode reaches unless told otherwise."""

SMALLEST: dict[str, float] = {"fast": 1e-5, "tight": 1e-12, "exact": 1e-14}
"""Tolerance that the arithmetic of each mode can certify."""


_WAY_OUT = {
    "fast": "mode='exact' solves them",
    "tight": "mode='exact' solves them",
    "exact": "compute G in float64; or R is not a product with the L of G, and there is no optimum",
}


class NotConvergedWarning(UserWarning):
    """Some cells did not reach the tolerance; ``info.converged`` says which."""


@dataclass(frozen=True, slots=True)
class LeastSquaresInfo:
    """What was reached, for each cell.

    Attributes
    ----------
    sweeps
        Sweeps of coordinate descent, in mode "exact" passive sets solved after them;
        int32, shape (n,).
    kkt_residual
        KKT residual, float64, shape (n,): in mode "exact" computed anew from the loadings,
        otherwise an upper bound of it, up to a few times as large.
    converged
        Whether it is within the tolerance, bool, shape (n,).
    """

    sweeps: Array
    kkt_residual: Array
    converged: Array


def nnls(
    G: Array,
    R: Array,
    H0: Array | None = None,
    tol: float | None = None,
    mode: Mode = "fast",
    n_threads: int | None = None,
) -> tuple[Array, LeastSquaresInfo]:
    """Solve non-negative least squares in Gram form for every row of ``R``.

    Parameters
    ----------
    G
        Gram matrix L L^T, real, shape (k, k): symmetric, positive semi-definite; it may
        be singular, with zero or equal factors. NumPy or CuPy.
    R
        Products X L^T, real, shape (n, k), of the same library.
    H0
        Where to start, non-negative, shape (n, k); zero by default. Loadings of similar
        factors about halve the time.
    tol
        Largest KKT residual of a cell. By default 1e-3 in mode "fast", 1e-6 in "tight",
        1e-10 in "exact".
    mode
        "fast": coordinate descent in float32. "tight": the same in float64. "exact":
        block principal pivoting in float64, started from the factors in use after "fast".
    n_threads
        Threads on the CPU; all available ones by default. Results do not depend on it.

    Returns
    -------
    H
        Loadings, shape (n, k), of the library of ``G``; float32 in mode "fast", float64
        otherwise. Where no product is positive they are exactly zero.
    info
        Sweeps, residual and convergence of each cell.

    Raises
    ------
    TypeError
        Arrays of two libraries, or entries that are not real numbers.
    ValueError
        Wrong shapes, no factor, entries that are not finite, G not symmetric or not
        positive semi-definite beyond rounding, negative ``H0``, an unknown mode, a
        tolerance that the mode cannot certify, more factors than the GPU kernels take.

    Warns
    -----
    NotConvergedWarning
        Once per call, if cells did not reach the tolerance.

    Notes
    -----
    Every cell is solved by itself: its loadings have the same bits whatever cells stand
    beside it and however many threads there are. A sweep takes 2 k^2 floating-point
    operations a cell, and 5 to 15 sweeps are usual. Beside input and output at
    most 16 n k bytes are held: copies of what comes in another type or order.

    References
    ----------
    Hsieh and Dhillon (2011), doi:10.1145/2020408.2020577; Kim and Park (2011),
    doi:10.1137/110821172.

    Examples
    --------
    >>> import numpy as np
    >>> from tigon.kernels import nnls
    >>> L = np.array([[1.0, 0.0, 1.0], [0.0, 1.0, 1.0]])
    >>> X = np.array([[2.0, 0.0, 2.0], [0.0, 3.0, 2.0]])
    >>> H, info = nnls(L @ L.T, X @ L.T, mode="exact")
    >>> H.round(3)
    array([[2. , 0. ],
           [0. , 2.5]])
    """
    tol = _checked_tolerance(mode, tol)
    for needed in (G, R):
        module_of(needed)
    library = check_same_library(G=G, R=R, H0=H0)
    largest = _check_problem(G, R, H0, library)
    twin = import_module(f"tigon.kernels.{'gpu' if library == 'cupy' else 'cpu'}.least_squares")
    H, sweeps, residual = twin.solve(G, R, H0, tol, mode, n_threads, largest)
    info = LeastSquaresInfo(sweeps, residual, residual <= tol)
    if not info.converged.all():
        n_left = int((~info.converged).sum())
        warnings.warn(
            f"{n_left} of {len(H)} cells did not reach a KKT residual of {tol:g} (largest: "
            f"{float(residual.max()):.2g}): see info.converged; {_WAY_OUT[mode]}",
            NotConvergedWarning,
            stacklevel=2,
        )
    return H, info


def _checked_tolerance(mode: Any, tol: Any) -> float:
    if not isinstance(mode, str) or mode not in TOLERANCES:
        raise ValueError(f"mode is {mode!r}: it is one of 'fast', 'tight' and 'exact'")
    if tol is None:
        return TOLERANCES[mode]
    if isinstance(tol, bool) or not isinstance(tol, int | float | np.number):
        raise TypeError(f"tol is {tol!r}: a number is needed, {SMALLEST[mode]:g} or more")
    if not SMALLEST[mode] <= tol < 1:
        raise ValueError(
            f"tol is {tol}: mode {mode!r} takes {SMALLEST[mode]:g} or more, and less than 1"
            + ("" if mode == "exact" or tol >= 1 else "; mode 'exact' reaches further")
        )
    return float(tol)


def _check_problem(G: Array, R: Array, H0: Array | None, library: str) -> float:
    """Refuse what cannot be solved; returns the largest |R|."""
    check_gram(G, import_module(library))
    lowest, highest = check_matrix("R", R, (None, len(G)))
    unused = G.diagonal() == 0
    if unused.any() and R.shape[0] and bool((R[:, unused] > 0).any()):
        raise ValueError(
            f"R has positive entries for factor {int(unused.argmax())}, whose diagonal entry of G "
            "is zero: G and R are of different metagenes; compute both from the same L"
        )
    if H0 is not None:
        check_not_negative("H0", check_matrix("H0", H0, R.shape)[0], "clip it")
    return max(-lowest, highest)
