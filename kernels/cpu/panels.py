"""Rows of factors, padded and cut into panels that stay in registers.

The k factors of a row fill whole machine vectors; up to five or twelve of these, a panel, are
summed in registers while a kernel walks over non-zeros. More factors take several
panels, all of one width. The width is passed to kernels as the length of a tuple
(``shape``), which Numba knows when it compiles.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.lanes import PART_BYTES

MOST_PARTS = 5
"""Of kernels that keep two or four sums of a panel at a time."""

MOST_PARTS_ALONE = 12
"""Of kernels that keep one: it and what it is multiplied with fit into the registers of AVX2."""


def panels_of(k: int, dtype: Any, most: int = MOST_PARTS) -> tuple[int, tuple[int, ...]]:
    """Number of panels, and their common shape: one zero for each vector.

    Parameters
    ----------
    k
        Number of factors.
    dtype
        float32 or float64.
    most
        Vectors of a panel at most.
    """
    n_parts = -(-k * np.dtype(dtype).itemsize // PART_BYTES)
    n_panels = -(-n_parts // most)
    return n_panels, (0,) * -(-n_parts // n_panels)


def row_width(k: int, dtype: Any, most: int = MOST_PARTS) -> int:
    """Entries of a padded row: k rounded up to whole panels."""
    n_panels, shape = panels_of(k, dtype, most)
    return n_panels * len(shape) * (PART_BYTES // int(np.dtype(dtype).itemsize))


def padded_rows(rows: NDArray[Any]) -> NDArray[Any]:
    """Copy of ``rows`` (n, k) with zeros appended so that a row is a whole number of panels."""
    n, k = rows.shape
    width = row_width(k, rows.dtype)
    padded: NDArray[Any] = aligned_zeros(n * width, rows.dtype).reshape(n, width)
    padded[:, :k] = rows
    return padded
