"""Loadings read by rows, in memory or not.

Everything that touches all cells reads them in tiles cut at fixed positions, so
that no result depends on how the loadings are stored.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tigon.storage.rows import RowReader

TILE_CELLS = 16_384
"""Cells per tile; fixed, so that sums folded by tile have fixed bits."""


class WriteRows(Protocol):
    """Takes finished rows in the order of the cells."""

    def __call__(self, start: int, rows: NDArray[np.float32]) -> None: ...


def tiles(n_cells: int, tile_cells: int = TILE_CELLS) -> Iterator[tuple[int, int]]:
    """Start and stop of every tile, in order."""
    for start in range(0, n_cells, tile_cells):
        yield start, min(start + tile_cells, n_cells)


def read_tile(rows: RowReader, start: int, stop: int) -> NDArray[np.float32]:
    """Rows ``start`` to ``stop`` in one memory layout, so that sums have fixed bits."""
    return np.ascontiguousarray(rows.read(start, stop), dtype=np.float32)


def read_scaled(
    rows: RowReader, start: int, stop: int, scale: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Rows ``start`` to ``stop`` divided by the scale of their columns, shape (k,)."""
    return divide(read_tile(rows, start, stop), scale)


def divide(H: NDArray[np.float32], scale: NDArray[np.float64]) -> NDArray[np.float32]:
    """Columns of ``H`` divided by ``scale``, shape (k,), in float32."""
    divided: NDArray[np.float32] = np.divide(H, scale.astype(np.float32), dtype=np.float32)
    return divided


def within(positions: NDArray[np.int64], start: int, stop: int) -> slice:
    """Where the ascending ``positions`` fall between ``start`` and ``stop``."""
    first, last = np.searchsorted(positions, (start, stop))
    return slice(int(first), int(last))


def gather(rows: RowReader, positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Rows at ascending ``positions``, shape (len(positions), k), read tile by tile."""
    n_cells, k = rows.shape
    gathered = np.empty((len(positions), k), dtype=np.float32)
    for start, stop in tiles(n_cells):
        here = within(positions, start, stop)
        if here.start < here.stop:
            gathered[here] = rows.read(start, stop)[positions[here] - start]
    return gathered
