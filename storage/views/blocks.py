"""Where an atlas is cut into the blocks of a lazy array."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from tigon.storage.reading.store import ChunkedArray
from tigon.storage.sources.matrices.csr import CsrMatrix
from tigon.storage.sources.matrices.offsets import STRIDE

if TYPE_CHECKING:
    from tigon.storage.atlas import Atlas
    from tigon.storage.part import Part

_BLOCK_CELLS = 8192


def block_sizes(atlas: Atlas, block_cells: int | None, n_chosen: int | None) -> tuple[int, ...]:
    """Cells of every block.

    Parameters
    ----------
    atlas
        What is cut.
    block_cells
        Cells a block; None for what a shard holds.
    n_chosen
        How many cells were chosen; None for all.

    Notes
    -----
    Blocks of a whole atlas of Tigon's end where shards do, at the last multiple of
    1,024 cells before, which is known without reading row starts. Blocks of chosen
    cells, and of other files, are of equal sizes.
    """
    n = atlas.n_cells if n_chosen is None else n_chosen
    if block_cells is not None:
        return _equal(n, block_cells)
    ends = atlas.shard_ends
    if n_chosen is None and ends:
        return tuple(np.diff([0, *ends]).tolist())
    return _equal(n, -(-atlas.n_cells // len(ends)) if ends else _BLOCK_CELLS)


def _equal(n: int, size: int) -> tuple[int, ...]:
    return tuple(min(size, n - start) for start in range(0, n, size))


def shard_ends(parts: Sequence[Part]) -> list[int]:
    """Cells after which the shards of one store end, the last after all; else nothing."""
    matrix = parts[0].source.matrix
    if len(parts) > 1 or not isinstance(matrix, CsrMatrix):
        return []
    values = matrix.values
    if not isinstance(values, ChunkedArray) or values.layout.shard_chunks == 1:
        return []
    shard = values.layout.chunk * values.layout.shard_chunks
    before = matrix.offsets.values  # cells 0, 1024, ..., and all
    entries = np.arange(shard, matrix.offsets.n_entries, shard)
    ends = np.unique((np.searchsorted(before[:-1], entries, side="right") - 1) * STRIDE)
    n_cells = matrix.shape[0]
    return [*ends[(ends > 0) & (ends < n_cells)].tolist(), n_cells]
