"""What cells that come after a run will cost, computed before any count is read.

That of a fit of the new cells alone (:mod:`tigon.scaling.budget`), with the datasets of the
run, and beside it what the run brings: its table of cells, its statistics, and the cells
that neighbours are sought among.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from tigon.scaling.alignment.centroids import offsets_bytes
from tigon.scaling.budget import (
    BASE_BYTES,
    LANDMARK_BYTES,
    LAYOUT_BYTES,
    MIB,
    NEIGHBOURS_BYTES,
    STREAMING_BYTES,
    format_bytes,
    plan_run,
)
from tigon.scaling.cells import chosen_cells
from tigon.scaling.datasets import datasets_of
from tigon.scaling.embedding.landmarks import N_LANDMARKS
from tigon.storage.errors import MemoryLimitError

if TYPE_CHECKING:
    from tigon.scaling.config import IntegrateConfig
    from tigon.scaling.preparing import PrepareConfig
    from tigon.storage import Atlas
    from tigon.storage.runs.run import Run

_TABLES = 3
"""How often the table of the run's cells is there: as read, less what is dropped, joined."""

_CELL_BYTES = 120
"""Of a cell of the run or after it, its table aside."""

_NAME_BYTES = 100
"""The name of a cell in memory."""

_STATISTICS = 32
"""Bytes for each dataset, factor and gene: V, B and their successors, and a base."""


def fitting_window(run: Run, atlas: Atlas | None, n_new: int, config: IntegrateConfig) -> int:
    """Tasks that may be under way within the memory limit.

    Parameters
    ----------
    run
        What the cells come after.
    atlas
        The cells; None for none.
    n_new
        Datasets that the run does not know.
    config
        Options; of the genes, only how many is looked at.

    Raises
    ------
    MemoryLimitError
        The limit is too small; names one that is enough.
    """
    limit, most = config.memory_limit_bytes, 2 * config.n_threads
    n_datasets = len(run.datasets) + n_new
    beside = _beside(run, n_datasets, 0 if atlas is None else atlas.n_cells)
    if atlas is None:
        needed = beside + _alone(run, config, most)
        if limit is not None and needed > limit:
            raise _too_small(limit, needed)
        return most
    if limit is None:
        return most
    beside += _tables_of_new(atlas)
    try:
        return plan_run(
            atlas, n_datasets, replace(config, memory_limit_bytes=limit - beside)
        ).window
    except MemoryLimitError:
        least = plan_run(atlas, n_datasets, replace(config, n_threads=1, memory_limit_bytes=None))
        raise _too_small(limit, least.peak_bytes + beside) from None


def count_new(run: Run, atlas: Atlas | None, prepare: PrepareConfig) -> int:
    """Datasets of the chosen cells that the run does not know.

    Raises
    ------
    InputError
        The batch key or the choice of cells cannot be used.
    """
    if atlas is None:
        return 0
    found = datasets_of(atlas, prepare.batch_key, chosen_cells(atlas, prepare.cells))
    return len(set(found.names) - set(run.datasets))


def _beside(run: Run, n_datasets: int, n_new_cells: int) -> int:
    """Bytes that the run brings."""
    n_cells, k = run.loadings.shape
    tables = _TABLES * int(run.obs.memory_usage(deep=True).sum()) + _CELL_BYTES * n_cells
    statistics = _STATISTICS * n_datasets * k * len(run.genes)
    landmarks = min(n_cells + n_new_cells, 2 * N_LANDMARKS) * (LANDMARK_BYTES + 12 * k)
    return tables + statistics + landmarks


def _tables_of_new(atlas: Atlas) -> int:
    """Of cells that are added to the table of a run, and of what reads and joins tables."""
    columns = atlas.obs_columns
    read = 2 * (columns.row_bytes + _NAME_BYTES) if not columns.held_bytes else 0
    return BASE_BYTES - STREAMING_BYTES + (_CELL_BYTES + read) * atlas.n_cells


def _alone(run: Run, config: IntegrateConfig, window: int) -> int:
    """Bytes of arranging the cells of a run by themselves."""
    n_cells, k = run.loadings.shape
    offsets = 0
    if config.align.align == "centroid":
        offsets = offsets_bytes(n_cells, len(run.datasets), k, window, config.n_threads)
    return BASE_BYTES + NEIGHBOURS_BYTES + LAYOUT_BYTES * config.embed.umap + offsets


def _too_small(limit: int, needed: int) -> MemoryLimitError:
    return MemoryLimitError(
        f"the memory limit of {format_bytes(limit)} is too small: the cells and what the run "
        f"brings need up to {format_bytes(needed)}; set --memory-limit {-(-needed // MIB)}MiB"
    )
