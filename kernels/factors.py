"""Gram matrices and hierarchical alternating least squares: k factors by m genes."""

from __future__ import annotations

from importlib import import_module

import numpy as np

from tigon.kernels.checking import (
    Array,
    check_gram,
    check_matrix,
    check_not_negative,
    check_result,
    check_same_library,
)


def gram(L: Array, V: Array | None = None, lam: float = 0.0, n_threads: int | None = None) -> Array:
    """Gram matrix G = L L^T + lambda V V^T.

    Parameters
    ----------
    L
        Metagenes, real, shape (k, m) with k at least 1. NumPy or CuPy.
    V
        The part of them that is penalised, real, shape (k, m), of the same library.
    lam
        lambda, zero or above.
    n_threads
        Threads on the CPU; all available ones by default. Results do not depend on it.

    Returns
    -------
    Array
        G, float64, shape (k, k), symmetric to the bit.

    Raises
    ------
    TypeError
        Arrays of two libraries, or entries that are not real numbers.
    ValueError
        Wrong shapes, no factor, entries that are not finite, a negative lambda, or one
        without ``V``; results beyond float64.

    Notes
    -----
    float32 is read as it is and multiplied in float64; anything else is read as float64.
    The CPU takes k^2 m floating-point operations for each of L and V, and holds 8 k^2 bytes
    for every 1024 genes.

    Examples
    --------
    >>> import numpy as np
    >>> from tigon.kernels import gram
    >>> gram(np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 1.0]]))
    array([[5., 2.],
           [2., 2.]])
    """
    library = check_same_library(L=L, V=V)
    check_matrix("L", L, (None, None))
    if len(L) == 0:
        raise ValueError(f"L has shape {L.shape}: at least one factor is needed")
    if not (np.isfinite(lam) and lam >= 0):
        raise ValueError(f"lam is {lam}: a finite number, zero or above, is needed")
    if V is not None:
        check_matrix("V", V, L.shape)
    elif lam:
        raise ValueError(f"lam is {lam} and there is no V that it weighs: pass V as well")
    return check_result("the Gram matrix", _twin(library).gram(L, V, lam, n_threads))


def hals(
    factor: Array, target: Array, gram: Array, n_sweeps: int = 1, n_threads: int | None = None
) -> Array:
    """Improve a non-negative factor by hierarchical alternating least squares.

    Row after row, ``F_j <- max(0, F_j + (T_j - S_j F) / S_jj)``: each minimises
    ``tr(F^T S F) - 2 tr(F^T T)`` over itself, which for S = H^T H and T = H^T X is
    |X - H F|^2 up to a constant.

    Parameters
    ----------
    factor
        F, non-negative, shape (k, m). NumPy or CuPy.
    target
        T, real, shape (k, m), of the same library.
    gram
        S, real, shape (k, k), symmetric, positive semi-definite. A row with
        ``S[j, j] == 0`` is not used by any cell and stays as it is.
    n_sweeps
        Passes over the rows, at least 1.
    n_threads
        Threads on the CPU; all available ones by default. Results do not depend on it.

    Returns
    -------
    Array
        The new factor, float32, shape (k, m); ``factor`` is not written.

    Raises
    ------
    TypeError
        Arrays of two libraries, or entries that are not real numbers.
    ValueError
        Wrong shapes, entries that are not finite, a negative factor, a Gram matrix that is
        none, no sweep, more than 128 factors on a GPU, results beyond float32.

    Notes
    -----
    Genes are independent of each other: a gene's column has the same bits whatever stands
    beside it. The CPU rounds every row of F to float32 as it is updated, a GPU after the last
    sweep. 2 k^2 m floating-point operations a sweep; 12 k m bytes beside the input.

    References
    ----------
    Cichocki and Phan (2009), doi:10.1587/transfun.E92.A.708.

    Examples
    --------
    >>> import numpy as np
    >>> from tigon.kernels import hals
    >>> H = np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
    >>> X = H @ np.array([[1.0, 0.0], [3.0, 2.0]])
    >>> hals(np.zeros((2, 2)), H.T @ X, H.T @ H, n_sweeps=50).round(3)
    array([[1., 0.],
           [3., 2.]], dtype=float32)
    """
    library = check_same_library(factor=factor, target=target, gram=gram)
    check_gram(gram, import_module(library), "gram")
    lowest, _ = check_matrix("factor", factor, (len(gram), None))
    check_matrix("target", target, factor.shape)
    check_not_negative("factor", lowest, "clip it")
    if isinstance(n_sweeps, bool) or not isinstance(n_sweeps, int):
        raise TypeError(f"n_sweeps is {n_sweeps!r}: a whole number is needed")
    if n_sweeps < 1:
        raise ValueError(f"n_sweeps is {n_sweeps}: at least 1 sweep is needed")
    found = _twin(library).hals(factor, target, gram, n_sweeps, n_threads)
    return check_result("the factor", found)


def _twin(library: str) -> Array:
    return import_module(f"tigon.kernels.{'gpu' if library == 'cupy' else 'cpu'}.whole")
