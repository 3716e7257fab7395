"""What a run will cost, computed before any count is read.

The model is a sum of terms that are each a product of known sizes; what it
promises is an upper bound, so terms are rounded up.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigon.scaling.alignment.centroids import offsets_bytes
from tigon.scaling.alignment.overcorrection import N_WITNESSES
from tigon.scaling.inmf.cutting import SOLVE_CELLS, task_cells
from tigon.scaling.inmf.nndsvd import SAMPLE_CELLS, start_bytes
from tigon.scaling.inmf.schedule import plan_schedule, step_cells
from tigon.scaling.inmf.several import FEWEST_REFINING, several_bytes
from tigon.scaling.inmf.state import state_bytes
from tigon.scaling.inmf.tiles import TILE_CELLS
from tigon.scaling.packing import most_datasets, run_bytes
from tigon.scaling.statistics import BLOCK_CELLS, moments_bytes, together_bytes
from tigon.storage.counts import index_dtype
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.scattering import BUCKET_BYTES

if TYPE_CHECKING:
    from tigon.scaling.config import IntegrateConfig
    from tigon.scaling.embedding.config import EmbedConfig
    from tigon.scaling.inmf.config import INMFConfig
    from tigon.scaling.preparing import PrepareConfig
    from tigon.storage import Atlas

MIB = 2**20
BASE_BYTES = 320 * MIB
"""A process that also reads tables, or has the protocol of a cluster."""

STREAMING_BYTES = 250 * MIB
"""The interpreter, and the libraries and kernels that streaming needs."""

NEIGHBOURS_BYTES = 90 * MIB
"""The libraries for neighbours and clusters."""

LAYOUT_BYTES = 90 * MIB
"""UMAP, and what it compiles."""

WRITING_BYTES = 60 * MIB
"""anndata, and the names of a stretch of cells."""

LANDMARK_BYTES = 4000
"""Neighbours and graph of one landmark cell, which are let go before the layout."""

LAID_OUT_BYTES = 2000
"""What is left of them, and the layout, of one landmark cell."""

CELL_BYTES = 44
"""Kept for every cell from the first pass on: totals, detected genes, codes, clusters."""

PACKED_BYTES = 32
"""Of a cell while the pack is written: its place, and its record and length in the pack."""

PLACED_BYTES = 56
"""Of a cell while places are drawn: keys, and orders by dataset and key."""

ALIGNED_BYTES = 24
"""Of a cell while cells are sampled from datasets and clusters."""

WRITTEN_BYTES = 24
"""Of a cell while the run is written: its own columns of the table, once more as stored."""

_TYPICAL_CELLS = 1 << 14
"""Cells whose fullest run stands for stretches of the pack, which are shuffled."""

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


def plan_run(
    atlas: Atlas,
    n_datasets: int,
    config: IntegrateConfig,
    n_workers: int = 0,
    *,
    besides: Mapping[str, int] | None = None,
) -> Plan:
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
    besides
        Of a job that has some of the stages only: their names, and the bytes that it holds
        there besides. None for a whole run.

    Raises
    ------
    MemoryLimitError
        Even one task at a time does not fit; names the smallest limit that does.
    """
    limit = config.memory_limit_bytes
    task_bytes = _task_bytes(atlas, n_datasets, config)
    for window in range(2 * config.n_threads, 0, -1):
        stages = _stages(atlas, n_datasets, config, window, solves=n_workers == 0)
        if besides is not None:
            stages = {name: stages[name] + n_bytes for name, n_bytes in besides.items()}
        stages = {name: n_bytes + n_workers * task_bytes for name, n_bytes in stages.items()}
        if limit is None or max(stages.values()) <= limit:
            break
    else:
        raise too_small(limit, stages)
    known = atlas.n_nonzeros
    return Plan(
        stages,
        window,
        atlas_passes=2,
        pack_passes=_fewest_passes(config.inmf, atlas.n_cells),
        atlas_bytes=None if known is None else known * 4 + 8 * atlas.n_cells,
        task_bytes=task_bytes,
    )


def too_small(limit: int | None, stages: Mapping[str, int]) -> MemoryLimitError:
    """The error of a limit that not even one task at a time fits in.

    Parameters
    ----------
    limit
        The limit, in bytes.
    stages
        Bytes of each stage then.
    """
    stage = max(stages, key=lambda name: stages[name])
    return MemoryLimitError(
        f"the memory limit of {format_bytes(limit or 0)} is too small: "
        f"for {stage} {format_bytes(stages[stage])} are needed; set --memory-limit "
        f"{-(-stages[stage] // MIB)}MiB or more"
    )


def bytes_to_spare(plan: Plan, limit: int | None) -> int:
    """What a limit leaves beyond the projected peak, for data that files would do for.

    0 without a limit: nobody has said then what may be taken.
    """
    return 0 if limit is None else max(0, limit - plan.peak_bytes)


def _stages(
    atlas: Atlas, n_datasets: int, config: IntegrateConfig, window: int, *, solves: bool
) -> dict[str, int]:
    k = config.inmf.n_components
    n_genes = config.prepare.at_most_genes(atlas.n_genes)
    always = STREAMING_BYTES + CELL_BYTES * atlas.n_cells + table_bytes(atlas, config.prepare)
    block = atlas.estimate_block_bytes(BLOCK_CELLS)
    packed = _packed_bytes(atlas, n_genes, k)
    moments = 20 * n_datasets * atlas.n_genes
    # Metagenes and statistics of the datasets that the tasks under way touch.
    flying = config.inmf.staleness + 1
    most_touched = most_datasets(n_datasets, step_cells(config.inmf, atlas.n_cells))
    touched = 20 * flying * most_touched * k * n_genes
    tiles = window * 32 * k * n_genes
    solved_cells = min(SOLVE_CELLS, atlas.n_cells)
    solved = _solved_bytes(atlas.n_cells, n_datasets, n_genes, k)
    # Blocks are there while they are worked on, what is found in them until it is folded.
    running = min(window, config.n_threads)
    final = running * packed * _with_a_tile(solved_cells) + window * solved
    # Loadings that are held, and once more with their places as they are put in order.
    final += 16 * n_datasets * k * n_genes + 3 * BUCKET_BYTES
    # Workers count their mini-batches as their tasks'.
    minibatch = _minibatch_bytes(config.inmf, atlas.n_cells, packed, window)
    # Entries take as much again when they are put together, tile by tile.
    minibatch += running * packed * min(TILE_CELLS, config.inmf.minibatch_size)
    minibatch *= solves
    starts = several_bytes(config.inmf.n_starts, n_datasets, n_genes, k)
    stages = {
        "reading cells": always + 2 * moments + running * block + window * moments,
        "ordering cells": always + moments + PLACED_BYTES * atlas.n_cells,
        "packing cells": always
        + PACKED_BYTES * atlas.n_cells
        + moments
        + running * run_bytes(block, packed * BLOCK_CELLS, atlas.n_cells),
    }
    state = always + moments + state_bytes(n_datasets, n_genes, k) + tiles
    if config.inmf.init == "nndsvd":
        sampled = packed * min(SAMPLE_CELLS, atlas.n_cells)
        # Of a tile the entries put together, and by gene as well.
        sampled += 3 * packed * min(TILE_CELLS, atlas.n_cells)
        stages["the start"] = state + sampled + start_bytes(k, n_genes)
    if config.inmf.solver == "online":
        stages["the epochs"] = state + minibatch + touched + starts
    if config.inmf.max_iterations or config.inmf.n_starts > 1:
        # Instead of A and B the metagenes that are tried are there, and their tables.
        stages["the iterations"] = state + final + starts
    stages["solving loadings"] = always + moments + final + tiles + starts
    result = moments + 28 * n_datasets * k * n_genes
    arranging = always + result + NEIGHBOURS_BYTES
    judged = min(atlas.n_cells, N_WITNESSES)
    landmarks = n_landmarks(atlas.n_cells, config.embed)
    offsets = 0
    if config.align.align == "centroid":
        offsets = offsets_bytes(atlas.n_cells, n_datasets, k, window, config.n_threads)
    layout = (LAYOUT_BYTES + landmarks * LAID_OUT_BYTES) * config.embed.umap
    written = WRITTEN_BYTES + 2 * atlas.obs_columns.row_bytes
    return stages | {
        # Groups are judged when offsets are no longer needed.
        "aligning": arranging
        + ALIGNED_BYTES * atlas.n_cells
        + max(offsets, judged * LANDMARK_BYTES),
        "neighbours and clusters": arranging + landmarks * (LANDMARK_BYTES + 12 * k),
        "layout": arranging + layout,
        "writing": arranging
        + LAYOUT_BYTES * config.embed.umap
        + WRITING_BYTES
        + written * atlas.n_cells,
    }


def _fewest_passes(config: INMFConfig, n_cells: int) -> int:
    """Passes over the pack: epochs, an iteration where any are asked for, and the last.

    Of several starts the last is for F, and their consensus is refined besides.
    """
    online = config.solver == "online"
    epochs = plan_schedule(config, n_cells).min_epochs if online else 0
    of_start = epochs + bool(config.max_iterations) + 1
    return of_start if config.n_starts == 1 else config.n_starts * of_start + FEWEST_REFINING


def n_landmarks(n_cells: int, embed: EmbedConfig) -> int:
    """Cells that are clustered and laid out: all, or a sample where there are many."""
    return n_cells if n_cells <= 2 * embed.n_landmarks else embed.n_landmarks


def table_bytes(atlas: Atlas, config: PrepareConfig) -> int:
    """Of the table of cells, which only a choice of cells needs whole; read, and as it is kept."""
    if config.cells is not None:
        return 2 * int(atlas.obs.memory_usage(deep=True).sum())
    return 2 * atlas.obs_columns.held_bytes


def _packed_bytes(atlas: Atlas, n_genes: int, n_components: int) -> int:
    """Most that a cell takes of a stretch of the pack, its starts and loadings included.

    Stretches are shuffled: none is fuller than the fullest run of the atlas.
    """
    n_cells = min(_TYPICAL_CELLS, max(1, atlas.n_cells))
    entries = min(n_genes, -(-atlas.most_entries(n_cells) // n_cells))
    entry = index_dtype(n_genes).itemsize + atlas.values_dtype.itemsize
    return entries * entry + 64 + 12 * n_components


def _solved_bytes(n_cells: int, n_datasets: int, n_genes: int, n_components: int) -> int:
    """Most that a task of the final pass yields: statistics, and loadings with positions."""
    size = min(task_cells(n_cells, n_datasets), n_cells)
    statistics = 8 * most_datasets(n_datasets, size) * n_components * n_genes
    return statistics + (4 * n_components + 8) * size


def _with_a_tile(n_cells: int) -> int:
    """Cells that are held as they are written, and those of a tile of them put together."""
    return n_cells + min(TILE_CELLS, n_cells)


def _minibatch_bytes(config: INMFConfig, n_cells: int, cell_bytes: int, window: int) -> int:
    """Mini-batches that are there at once, and the loadings of all cells of a step."""
    size = min(config.minibatch_size, n_cells)
    step = step_cells(config, n_cells)
    # Tiles under way may be of several, beside which one is read; where each is a step of its
    # own, two are read ahead.
    spanned = 1 + -(-(window - 1) // max(1, size // TILE_CELLS))
    held = max(config.staleness + 3, 1 + min(spanned, -(-step // size)))
    return held * cell_bytes * size + (config.staleness + 1) * 4 * config.n_components * step


def _task_bytes(atlas: Atlas, n_datasets: int, config: IntegrateConfig) -> int:
    """Most that a task takes where it runs, with what it shares with others of its kind.

    A result waits there until it is asked for, and its task's successor runs meanwhile.
    """
    k = config.inmf.n_components
    n_genes = config.prepare.at_most_genes(atlas.n_genes)
    block = atlas.estimate_block_bytes(BLOCK_CELLS)
    packed = _packed_bytes(atlas, n_genes, k)
    codes = 4 * atlas.n_cells + n_datasets * atlas.n_genes
    # Some tasks travel together, and their results are there once more as they are sent.
    moments = 2 * together_bytes(
        moments_bytes(most_datasets(n_datasets, BLOCK_CELLS), atlas.n_genes)
    )
    problem = 9 * n_datasets * n_genes
    size = min(config.inmf.minibatch_size, atlas.n_cells)
    touched = most_datasets(n_datasets, step_cells(config.inmf, atlas.n_cells))
    solved_cells = min(SOLVE_CELLS, atlas.n_cells)
    solved = _solved_bytes(atlas.n_cells, n_datasets, n_genes, k)
    metagenes = 32 * k * n_genes
    return max(
        codes + block + moments,
        run_bytes(block, packed * BLOCK_CELLS, atlas.n_cells),
        # Mini-batches and all loadings, the metagenes as sent and as read, and statistics here
        # and waiting.
        problem
        + packed * (size + _with_a_tile(size))
        + 4 * k * step_cells(config.inmf, atlas.n_cells)
        + touched * (metagenes + 20 * k * n_genes)
        + metagenes,
        n_datasets * metagenes
        + packed * (solved_cells + _with_a_tile(solved_cells))
        + 2 * solved
        + metagenes,
    )
