"""How many cells are read at a time while an atlas is written, and how many blocks ahead."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from tigon.storage.atlas import Atlas
from tigon.storage.counts import index_dtype
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.reading.sharing import available_cpus
from tigon.storage.space import tell_mib
from tigon.storage.sums import TILE_CELLS

_MOST_BLOCK_CELLS = 1 << 16
_READ_BYTES = 24 << 20
"""Arrays of this size are given the same memory again and again, larger ones new pages."""

_BLOCK_BYTES = 16 << 20
"""A block has whole tiles where they fit in the memory, and more than one below this."""

_WINDOW_BYTES = 512 << 20
_MOST_THREADS = 8
"""Beyond these, the one thread that puts blocks in order has enough to do."""

_SUM_BYTES = 12
"""Beside each count while it is summed: its gene as int32 and a float64 number."""

_CHUNK_BYTES = 26 << 20
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
        Cells of a block, a power of two: what a thread works on and hands over.
    read_cells
        Cells it reads at a time, a power of two.
    """

    n_threads: int
    window: int
    block_cells: int
    read_cells: int


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
        raise InputError(f"n_threads is {n_threads}: at least 1 is needed; set --n-threads")
    n_threads = n_threads or min(_MOST_THREADS, available_cpus())
    if memory_limit is None:
        return _fitted(atlas, n_threads, _WINDOW_BYTES)
    base = _base_bytes(atlas)
    smallest = base + _peak(atlas, IngestPlan(1, 2, 1, 1))
    if smallest > memory_limit:
        raise MemoryLimitError(
            f"memory limit {tell_mib(memory_limit)}: writing this atlas takes at least "
            f"{tell_mib(smallest)}; raise the limit to that"
        )
    return _fitted(atlas, n_threads, min(_WINDOW_BYTES, memory_limit - base))


def _fitted(atlas: Atlas, n_threads: int, room: int) -> IngestPlan:
    """The quickest plan that takes up to ``room`` bytes: whole tiles before many threads."""
    block = block_cells(atlas)
    for n_cells in _halved(block):
        for n in range(n_threads, 0, -1):
            plan = IngestPlan(n, n + 1, n_cells, min(n_cells, _read_cells(atlas)))
            if _peak(atlas, plan) <= room:
                return plan
    return IngestPlan(1, 2, 1, 1)


def block_cells(atlas: Atlas) -> int:
    """Cells of a block where memory is no concern: a tile, or more of cells with few counts."""
    n_cells = _MOST_BLOCK_CELLS
    while n_cells > TILE_CELLS and _clean_bytes(atlas, n_cells) > _BLOCK_BYTES:
        n_cells //= 2
    return n_cells


def _read_cells(atlas: Atlas) -> int:
    fitting = (n for n in _halved(_MOST_BLOCK_CELLS) if _read_bytes(atlas, n) <= _READ_BYTES)
    return next(fitting, 1)


def _halved(n_cells: int) -> Iterator[int]:
    while n_cells:
        yield n_cells
        n_cells //= 2


def _peak(atlas: Atlas, plan: IngestPlan) -> int:
    """Bytes of the blocks of a plan: as counts, and those being read and summed."""
    reading = plan.n_threads * _read_bytes(atlas, plan.read_cells)
    return (plan.window + 1) * _clean_bytes(atlas, plan.block_cells) + reading


def _read_bytes(atlas: Atlas, n_cells: int) -> int:
    return atlas.estimate_block_bytes(n_cells) + atlas.most_entries(n_cells) * _SUM_BYTES


def _clean_bytes(atlas: Atlas, n_cells: int) -> int:
    values = atlas.values_dtype.itemsize
    return atlas.most_entries(n_cells) * (index_dtype(atlas.n_genes).itemsize + values)


def _base_bytes(atlas: Atlas) -> int:
    """What is in memory already, and what comes on top of the blocks."""
    import psutil

    sums = len(atlas.source_names) * atlas.n_genes * 24
    in_use: int = psutil.Process().memory_info().rss
    return in_use + sums + _CHUNK_BYTES + _TABLE_BYTES
