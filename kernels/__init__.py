"""Arrays in, arrays out: the numerical kernels of Tigon, usable on their own.

NumPy arrays are computed on the CPU (Numba), CuPy arrays on their GPU. Every function
checks what it is given and says what is wrong with it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tigon.kernels.factors import gram, hals
    from tigon.kernels.least_squares import LeastSquaresInfo, NotConvergedWarning, nnls
    from tigon.kernels.minibatch import minibatch_step
    from tigon.kernels.products import spmm
    from tigon.kernels.sketches import GeneProducts, sketch, sparse_gram
    from tigon.kernels.tile import CellTile, Metagenes, TileStatistics

_HOMES = {
    "CellTile": "tile",
    "GeneProducts": "sketches",
    "LeastSquaresInfo": "least_squares",
    "Metagenes": "tile",
    "NotConvergedWarning": "least_squares",
    "TileStatistics": "tile",
    "gram": "factors",
    "hals": "factors",
    "minibatch_step": "minibatch",
    "nnls": "least_squares",
    "sketch": "sketches",
    "sparse_gram": "sketches",
    "spmm": "products",
}

__all__ = [
    "CellTile",
    "GeneProducts",
    "LeastSquaresInfo",
    "Metagenes",
    "NotConvergedWarning",
    "TileStatistics",
    "gram",
    "hals",
    "minibatch_step",
    "nnls",
    "sketch",
    "sparse_gram",
    "spmm",
]


def __getattr__(name: str) -> Any:
    """Names load when they are first asked for: Numba takes a second to import."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
