"""What a run will cost, computed before any count is read.

The model is a sum of terms that are each a product of known sizes; what it
promises is an upper bound, so terms are rounded up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigon.scaling.embedding.landmarks import N_LANDMARKS
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.solving import SOLVE_CELLS
from tigon.scaling.inmf.state import state_bytes
from tigon.scaling.packing import most_datasets, sorting_bytes
from tigon.scaling.statistics import BLOCK_CELLS
from tigon.storage.counts import index_dtype
from tigon.storage.errors import InputError, MemoryLimitError

if TYPE_CHECKING:
    from tigon.scaling.config import IntegrateConfig
    from tigon.storage import Atlas

MIB = 2**20
BASE_BYTES = 320 * MIB
"""The interpreter, and the libraries and kernels that streaming needs."""

NEIGHBOURS_BYTES = 90 * MIB
"""The libraries for neighbours and clusters."""

LAYOUT_BYTES = 100 * MIB
"""UMAP, and what it compiles."""

LANDMARK_BYTES = 4000
"""Neighbours, graph and layout of one landmark cell."""

CELL_BYTES = 120
"""Kept for every cell from first to last: totals, codes, places, clusters."""


_UNITS = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_UNITS |= {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_UNITS |= {"KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}


def parse_bytes(text: str | int) -> int:
    """Bytes of a size such as ``2GiB``, ``512MiB``, ``1.5G`` or a plain number.

    Raises
    ------
    InputError
        It is not a size.
    """
    match = re.fullmatch(r"\s*([0-9.]+)\s*([A-Za-z]*)\s*", str(text))
    unit = _UNITS.get(match[2].upper()) if match else None
    if match is None or unit is None or match[1].count(".") > 1 or match[1] == ".":
        raise InputError(
            f"{text!r} is not a size: a number and a unit are needed; for instance 2GiB or 512MiB"
        )
    return int(float(match[1]) * unit)


def format_bytes(n_bytes: float) -> str:
    """A size in the largest unit that keeps it at 1 or more: ``1.5 GiB``."""
    for unit, size in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if n_bytes >= size:
            return f"{n_bytes / size:.1f} {unit}"
    return f"{n_bytes:.0f} bytes"


@dataclass(frozen=True, slots=True)
class Plan:
    """Cost of a run.

    Attributes
    ----------
    stages
        Projected peak of each stage in bytes, base and per-cell arrays included.
    window
        Tasks in flight while reading.
    atlas_passes, pack_passes
        How often counts are read; at least, when epochs are automatic.
    atlas_bytes
        Bytes of one pass over the atlas once decoded; None where unknown.
    task_bytes
        What a worker of a cluster needs at most for each task that it runs at once,
        beside :data:`BASE_BYTES`.
    """

    stages: dict[str, int]
    window: int
    atlas_passes: int
    pack_passes: int
    atlas_bytes: int | None
    task_bytes: int

    @property
    def peak_bytes(self) -> int:
        """Projected peak of the whole run."""
        return max(self.stages.values())


def plan_run(atlas: Atlas, n_datasets: int, config: IntegrateConfig, n_workers: int = 0) -> Plan:
    """Project the cost of a run, and fit the reading window to the memory limit.

    Parameters
    ----------
    atlas
        The counts; only sizes are looked at.
    n_datasets
        Datasets of the batch key.
    config
        Options of the run.
    n_workers
        Worker processes on this machine whose tasks count towards the limit; what each
        takes before it has a task, :data:`BASE_BYTES`, does not.

    Raises
    ------
    MemoryLimitError
        Even one task at a time does not fit; names the smallest limit that does.
    """
    limit = config.memory_limit_bytes
    task_bytes = _task_bytes(atlas, n_datasets, config)
    for window in range(2 * config.n_threads, 0, -1):
        stages = _stages(atlas, n_datasets, config, window)
        stages = {name: n_bytes + n_workers * task_bytes for name, n_bytes in stages.items()}
        if limit is None or max(stages.values()) <= limit:
            break
    else:
        stage = max(stages, key=lambda name: stages[name])
        raise MemoryLimitError(
            f"the memory limit of {format_bytes(limit or 0)} is too small: "
            f"{stage} needs {format_bytes(stages[stage])}; set --memory-limit "
            f"{-(-stages[stage] // MIB)}MiB or more"
        )
    known = atlas.n_nonzeros
    return Plan(
        stages,
        window,
        atlas_passes=2,
        pack_passes=plan_schedule(config.inmf, atlas.n_cells).min_epochs + 1,
        atlas_bytes=None if known is None else known * 4 + 8 * atlas.n_cells,
        task_bytes=task_bytes,
    )


def bytes_to_spare(plan: Plan, limit: int | None) -> int:
    """What a limit leaves beyond the projected peak, for data that files would do for.

    0 without a limit: nobody has said then what may be taken.
    """
    return 0 if limit is None else max(0, limit - plan.peak_bytes)


def _stages(atlas: Atlas, n_datasets: int, config: IntegrateConfig, window: int) -> dict[str, int]:
    k = config.inmf.n_components
    n_genes = config.prepare.at_most_genes(atlas.n_genes)
    minibatch_cells = min(config.inmf.minibatch_size, atlas.n_cells)
    obs_bytes = int(atlas.obs.memory_usage(deep=True).sum())
    always = BASE_BYTES + 2 * obs_bytes + CELL_BYTES * atlas.n_cells
    block = atlas.estimate_block_bytes(BLOCK_CELLS)
    packed = _packed_bytes(atlas, n_genes, k)
    moments = 20 * n_datasets * atlas.n_genes
    # Metagenes and statistics of the datasets that the tasks under way touch.
    task_cells = min(minibatch_cells * config.inmf.minibatches_per_task, atlas.n_cells)
    flying = config.inmf.staleness + 1
    touched = 20 * flying * most_datasets(n_datasets, task_cells) * k * n_genes
    tiles = window * 32 * k * n_genes
    solved_cells = min(SOLVE_CELLS, atlas.n_cells)
    solved = 2 * packed * solved_cells + 8 * most_datasets(n_datasets, solved_cells) * k * n_genes
    final = window * solved + 16 * n_datasets * k * n_genes
    # Two are read ahead of the one that is worked on.
    minibatch = (flying + 2) * packed * minibatch_cells
    sorting = sorting_bytes(packed * atlas.n_cells)
    stages = {
        "reading cells": always + 2 * moments + window * (block + moments),
        "packing cells": always + moments + window * block + sorting,
        "the epochs": always
        + moments
        + state_bytes(n_datasets, n_genes, k)
        + minibatch
        + tiles
        + touched,
        "solving loadings": always + moments + final + tiles,
    }
    # What streaming has freed need not have gone back to the system by then.
    landmarks = min(atlas.n_cells, 2 * N_LANDMARKS) * (LANDMARK_BYTES + 12 * k)
    libraries = NEIGHBOURS_BYTES + LAYOUT_BYTES * config.embed.umap
    stages["neighbours and layout"] = max(stages.values()) + libraries + landmarks
    return stages


def _packed_bytes(atlas: Atlas, n_genes: int, n_components: int) -> int:
    """Most that a cell takes of a stretch of the pack, its starts and loadings included.

    Stretches are shuffled: none is fuller than the fullest run of the atlas.
    """
    n_cells = min(BLOCK_CELLS, max(1, atlas.n_cells))
    entries = min(n_genes, -(-atlas.most_entries(n_cells) // n_cells))
    entry = index_dtype(n_genes).itemsize + atlas.values_dtype.itemsize
    return entries * entry + 64 + 12 * n_components


def _task_bytes(atlas: Atlas, n_datasets: int, config: IntegrateConfig) -> int:
    """Most that a task takes where it runs, with what it shares with others of its kind.

    A result waits there until it is asked for, and its task's successor runs meanwhile.
    """
    k = config.inmf.n_components
    n_genes = config.prepare.at_most_genes(atlas.n_genes)
    block = atlas.estimate_block_bytes(BLOCK_CELLS)
    packed = _packed_bytes(atlas, n_genes, k)
    codes = 12 * atlas.n_cells + n_datasets * atlas.n_genes
    moments = 20 * most_datasets(n_datasets, BLOCK_CELLS) * atlas.n_genes
    problem = 9 * n_datasets * n_genes
    size = min(config.inmf.minibatch_size, atlas.n_cells)
    touched = most_datasets(n_datasets, size * config.inmf.minibatches_per_task)
    solved_cells = min(SOLVE_CELLS, atlas.n_cells)
    solved = 8 * most_datasets(n_datasets, solved_cells) * k * n_genes
    metagenes = 32 * k * n_genes
    return max(
        codes + block + 2 * moments,
        codes + 2 * block,
        # The mini-batch, the metagenes as sent and as read, and statistics here and waiting.
        problem + 2 * packed * size + touched * (metagenes + 20 * k * n_genes) + metagenes,
        n_datasets * metagenes + 2 * packed * solved_cells + 2 * solved + metagenes,
    )
