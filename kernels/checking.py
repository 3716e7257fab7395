"""Refusing what the kernels cannot solve, before anything is launched.

Every check works on NumPy and CuPy arrays alike, through their own methods.
"""

from __future__ import annotations

from math import isfinite
from typing import Any, NoReturn, TypeAlias

import numpy as np
from scipy.linalg.lapack import dpotrf

Array: TypeAlias = Any
"""A NumPy or a CuPy array: CuPy ships no types."""


def module_of(array: Any) -> str:
    """``"numpy"`` or ``"cupy"``, the library that an array belongs to.

    Raises
    ------
    TypeError
        It belongs to neither.
    """
    library = type(array).__module__.partition(".")[0]
    if isinstance(array, np.ma.MaskedArray | np.matrix):
        raise TypeError(
            f"a {type(array).__name__} is not read as an array would be: convert it with "
            "numpy.asarray(...).ravel() or numpy.ma.filled"
        )
    if library not in ("numpy", "cupy"):
        raise TypeError(
            f"{type(array).__module__}.{type(array).__qualname__} is neither a NumPy nor a CuPy "
            "array: convert it with numpy.asarray or cupy.asarray"
        )
    return library


def check_same_library(**arrays: Any) -> str:
    """The library that all given arrays belong to; those that are None are passed over.

    Raises
    ------
    TypeError
        They do not agree: nothing is copied between host and device behind the scenes.
    """
    found = {name: module_of(array) for name, array in arrays.items() if array is not None}
    libraries = set(found.values())
    if len(libraries) > 1:
        listed = ", ".join(f"{name} of {library}" for name, library in found.items())
        raise TypeError(f"arrays of two libraries ({listed}): move all to the host or the device")
    return libraries.pop()


def check_matrix(
    name: str, array: Any, shape: tuple[int | None, int | None]
) -> tuple[float, float]:
    """A real matrix of the given shape (None: any), with finite entries.

    Returns
    -------
    lowest, highest
        Entries of it; both zero where there are none.

    Raises
    ------
    TypeError
        Its entries are not real numbers.
    ValueError
        Wrong shape, or entries that are not finite.
    """
    if array.dtype.kind not in "fiu":
        raise TypeError(
            f"{name} has dtype {array.dtype}: real numbers are needed; convert it to float32 "
            "or float64"
        )
    fits = array.ndim == 2 and all(
        wanted is None or wanted == found for wanted, found in zip(shape, array.shape, strict=True)
    )
    if not fits:
        wanted_shape = ", ".join("any" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} has shape {array.shape}: ({wanted_shape}) is needed")
    found = extent(array)
    if not all(map(isfinite, found)):
        _refuse_not_finite(name, array)
    return found


def check_finite(name: str, array: Any) -> None:
    """An array of any shape whose entries are finite.

    Raises
    ------
    ValueError
        Some are not.
    """
    if array.dtype.kind == "f" and not all(map(isfinite, extent(array))):
        _refuse_not_finite(name, array)


def _refuse_not_finite(name: str, array: Any) -> NoReturn:
    n_bad = int(array.size - (abs(array) < np.inf).sum())
    raise ValueError(
        f"{name} has {n_bad} entries that are not finite: look for overflow or missing "
        "values in what it was computed from"
    )


def check_result(name: str, array: Any) -> Any:
    """What was computed from finite entries, if it stayed within the range of its type.

    Raises
    ------
    ValueError
        Some entries did not.
    """
    if not all(map(isfinite, extent(array))):
        raise ValueError(
            f"{name} leaves the range of {array.dtype}: what it is computed from is too large; "
            "multiply it by a constant"
        )
    return array


def extent(array: Any) -> tuple[float, float]:
    """Lowest and highest entry, in one pass; zeros of none, not a number where one is none."""
    if array.size == 0:
        return 0.0, 0.0
    if type(array) is np.ndarray and array.dtype in (np.float32, np.float64):
        from tigon.kernels.cpu import scanning

        lowest, highest = scanning.extent(np.ascontiguousarray(array).ravel())
    else:
        lowest, highest = array.min(), array.max()
    return float(lowest), float(highest)


def check_not_negative(name: str, lowest: float, remedy: str) -> None:
    """An array whose lowest entry is zero or above.

    Raises
    ------
    ValueError
        It is below.
    """
    if not lowest >= 0:
        raise ValueError(
            f"{name} has negative entries (lowest: {lowest:g}): zero or above is needed; {remedy}"
        )


def check_gram(G: Any, library: Any = np, name: str = "G") -> None:
    """A symmetric positive semi-definite matrix of at least one factor, up to rounding.

    Parameters
    ----------
    G
        Shape (k, k).
    library
        numpy or cupy: whose ``linalg`` looks at it.
    name
        What messages call it.

    Raises
    ------
    TypeError, ValueError
        As :func:`check_matrix`; or not symmetric; or not positive semi-definite.

    Notes
    -----
    One Cholesky factorisation of G with a ridge of the size of its rounding: k^3 / 3
    multiplications.
    """
    check_matrix(name, G, (None, None))
    k = G.shape[0]
    if k != G.shape[1]:
        raise ValueError(f"{name} has shape {G.shape}: a Gram matrix is square")
    if k == 0:
        raise ValueError(f"{name} has shape (0, 0): at least one factor is needed")
    # Computed in float64, whatever came.
    eps = float(np.finfo(np.float64).eps)
    if G.dtype.kind == "f":
        eps = max(eps, float(np.finfo(G.dtype).eps))
    wide = G.astype(np.float64)
    uneven, size = _unevenness(wide, library)
    if size == 0.0:
        return
    if uneven > 10 * eps * k * size:
        raise ValueError(
            f"{name} is not symmetric (entries differ by {uneven / size:.2g} of the largest): a "
            "Gram matrix L L^T is; average it with its transpose if that is what you mean"
        )
    lowest = _negative_eigenvalue(wide / size, 100 * eps * k, library)
    if lowest is not None:
        raise ValueError(
            f"{name} is not positive semi-definite (eigenvalue {lowest:.2g} of the largest entry): "
            "a Gram matrix L L^T is; check how it was computed"
        )


def _unevenness(G: Any, library: Any) -> tuple[float, float]:
    """Largest difference of G to its transpose, and its largest absolute value."""
    if library is np:
        from tigon.kernels.cpu.scanning import unevenness

        uneven, size = unevenness(G)
        return float(uneven), float(size)
    return float(abs(G - G.T).max()), float(abs(G).max())


def _negative_eigenvalue(G: Any, slack: float, library: Any) -> float | None:
    """None if no eigenvalue of G lies below ``-slack``; otherwise the lowest one."""
    if library is np:
        # LAPACK itself: linalg.cholesky takes longer to call than to compute.
        definite = dpotrf(G + slack * np.eye(len(G)))[1] == 0
    else:
        factor = library.linalg.cholesky(G + slack * library.eye(len(G)))
        definite = bool(library.isfinite(factor).all())
    if definite:
        return None
    lowest = float(library.linalg.eigvalsh(G)[0])
    return lowest if lowest < -slack else None
