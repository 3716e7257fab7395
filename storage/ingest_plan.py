"""How many cells are read at a time while an atlas is written, and how many blocks ahead."""

from __future__ import annotations

import os
from dataclasses import dataclass

from tigon.storage.atlas import Atlas
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.space import tell_mib

_MOST_BLOCK_CELLS = 1 << 16
_BLOCK_BYTES = 48 << 20
_MOST_THREADS = 8
"""Beyond these, the one thread that puts pieces in order has enough to do."""

_CHUNK_BYTES = 16 << 20
"""Chunks of all arrays that wait, raw and compressed."""

_TABLE_BYTES = 64 << 20
"""Writing tables, with the libraries that takes."""


@dataclass(frozen=True, slots=True)
class IngestPlan:
    """How the counts are walked through.

    Attributes
    ----------
    n_threads
        Threads that read, check and compress.
    window
        Blocks under way or waiting to be written.
    block_cells
        Cells of a block, a power of two.
    """

    n_threads: int
    window: int
    block_cells: int


def plan_ingest(atlas: Atlas, n_threads: int | None, memory_limit: int | None) -> IngestPlan:
    """Blocks for the threads at hand, within the limit.

    Parameters
    ----------
    atlas
        What is to be written; only sizes are looked at.
    n_threads
        Threads; None for the processors at hand, up to 8.
    memory_limit
        Bytes that the process shall stay below; None for no limit.

    Raises
    ------
    InputError
        The number of threads is not positive.
    MemoryLimitError
        A block of one cell at a time does not fit.
    """
    if n_threads is not None and n_threads < 1:
        raise InputError(f"n_threads={n_threads}: at least 1 is needed")
    n_threads = n_threads or min(_MOST_THREADS, len(os.sched_getaffinity(0)))
    window = n_threads + 1
    if memory_limit is None:
        return IngestPlan(n_threads, window, block_cells(atlas, _BLOCK_BYTES))
    base = _base_bytes(atlas)
    smallest = base + 2 * atlas.estimate_block_bytes(1)
    if smallest > memory_limit:
        raise MemoryLimitError(
            f"memory limit {tell_mib(memory_limit)}: writing this atlas takes at least "
            f"{tell_mib(smallest)}; raise the limit to that"
        )
    room = memory_limit - base
    # Fewer blocks at a time rather than tiny ones.
    while window > 2 and room // (window + 1) < _BLOCK_BYTES // 4:
        window -= 1
    budget = min(_BLOCK_BYTES, room // (window + 1))
    return IngestPlan(min(n_threads, window), window, block_cells(atlas, budget))


def block_cells(atlas: Atlas, budget: int) -> int:
    """Cells to read at a time so that a block takes up to ``budget`` bytes; a power of two."""
    n_cells = _MOST_BLOCK_CELLS
    while n_cells > 1 and atlas.estimate_block_bytes(n_cells) > budget:
        n_cells //= 2
    return n_cells


def _base_bytes(atlas: Atlas) -> int:
    """What is in memory already, and what comes on top of the blocks."""
    import psutil

    sums = len(atlas.source_names) * atlas.n_genes * 24
    in_use: int = psutil.Process().memory_info().rss
    return in_use + sums + _CHUNK_BYTES + _TABLE_BYTES
