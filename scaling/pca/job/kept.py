"""A decomposition as arrays that a job keeps, and back to the last bit."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.pca.decomposing import Decomposition
from tigon.scaling.pca.moments import Moments


def decomposition_arrays(found: Decomposition) -> dict[str, NDArray[Any]]:
    """All of a decomposition, by name."""
    own = {f.name: getattr(found, f.name) for f in fields(found) if f.name != "moments"}
    moments = {f"moments.{f.name}": getattr(found.moments, f.name) for f in fields(Moments)}
    return {name: np.asarray(value) for name, value in (own | moments).items()}


def decomposition_of(arrays: Mapping[str, NDArray[Any]]) -> Decomposition:
    """What :func:`decomposition_arrays` was given."""
    moments = Moments(**{f.name: _plain(arrays[f"moments.{f.name}"]) for f in fields(Moments)})
    names = [f.name for f in fields(Decomposition) if f.name != "moments"]
    return Decomposition(**{name: _plain(arrays[name]) for name in names}, moments=moments)


def _plain(array: NDArray[Any]) -> Any:
    return array.item() if array.ndim == 0 else array
