"""Arrays in, arrays out: the numerical kernels of Tigon, usable on their own.

NumPy arrays are computed on the CPU (Numba), CuPy arrays on their GPU. Every function
checks what it is given and says what is wrong with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tigon.kernels.least_squares import LeastSquaresInfo, NotConvergedWarning, nnls

_HOMES = {
    "LeastSquaresInfo": "least_squares",
    "NotConvergedWarning": "least_squares",
    "nnls": "least_squares",
}

__all__ = ["LeastSquaresInfo", "NotConvergedWarning", "nnls"]


def __getattr__(name: str) -> Any:
    """Names load when they are first asked for: Numba takes a second to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
