"""What a layout or clusters of a run's cells will cost, computed before a row is read.

The libraries, what there is of every cell, and what there is of every landmark; a sum of
products of known sizes, each rounded up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigon.scaling.budget import (
    BASE_BYTES,
    LAID_OUT_BYTES,
    LANDMARK_BYTES,
    LAYOUT_BYTES,
    MIB,
    NEIGHBOURS_BYTES,
    format_bytes,
    n_landmarks,
)
from tigon.scaling.embedding.rows import TILE_CELLS
from tigon.storage.errors import MemoryLimitError

if TYPE_CHECKING:
    from tigon.scaling.embedding.config import EmbedConfig
    from tigon.scaling.extending.config import LayoutConfig

_CELL_BYTES = 64
"""Of a cell: its dataset, whether it takes part, its cluster as found and as stored, its place."""

_NEIGHBOR_BYTES = 64
"""Of a neighbour in t-SNE: its number and distance, and affinities with both ways and copies."""

_TILES = 4
"""Rows of a tile: as stored, as float32, as points, and those that are placed."""


def layout_bytes(shape: tuple[int, ...], config: LayoutConfig) -> int:
    """Projected peak of a layout of a matrix of ``shape`` (n, k)."""
    n = n_landmarks(shape[0], config.embed_config())
    landmark = LAID_OUT_BYTES if config.perplexity is None else _NEIGHBOR_BYTES * config.n_sought
    # Of a sample the clusters are found too, which others are placed by.
    sampled = n < shape[0]
    return _always(shape, n) + LAYOUT_BYTES + n * max(landmark, LANDMARK_BYTES * sampled)


def clusters_bytes(shape: tuple[int, ...], config: EmbedConfig) -> int:
    """Projected peak of clusters of a matrix of ``shape`` (n, k)."""
    n = n_landmarks(shape[0], config)
    return _always(shape, n) + n * LANDMARK_BYTES


def check_fits(needed_bytes: int, limit: int | None) -> None:
    """Refuse a limit that is too small.

    Raises
    ------
    MemoryLimitError
        Naming one that is enough.
    """
    if limit is not None and needed_bytes > limit:
        raise MemoryLimitError(
            f"the memory limit of {format_bytes(limit)} is too small: the cells and what is found "
            f"of them need up to {format_bytes(needed_bytes)}; set --memory-limit "
            f"{-(-needed_bytes // MIB)}MiB"
        )


def _always(shape: tuple[int, ...], n: int) -> int:
    n_cells, k = shape
    tile = _TILES * 8 * min(TILE_CELLS, n_cells) * k
    return BASE_BYTES + NEIGHBOURS_BYTES + _CELL_BYTES * n_cells + 12 * k * n + tile
