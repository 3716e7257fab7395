"""Matrices by gene as a run stores them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.encoding import ARRAY
from tigon.storage.errors import InputError

if TYPE_CHECKING:
    import zarr


def write_matrix(root: zarr.Group, name: str, matrix: NDArray[Any]) -> None:
    """Write a matrix in one chunk, row by row."""
    rows = np.ascontiguousarray(matrix)
    array = root.create_array(
        name, shape=rows.shape, dtype=rows.dtype, chunks=rows.shape, attributes=ARRAY
    )
    array[...] = rows


def check_shape(what: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Refuse an array of another shape than the run needs.

    Raises
    ------
    InputError
        It is.
    """
    if shape != wanted:
        raise InputError(f"{what} has the wrong shape {shape}: the run needs {wanted}")
