"""What a run will cost, computed before any count is read.

The model is a sum of terms that are each a product of known sizes; what it
promises is an upper bound, so terms are rounded up.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigon.scaling.embedding.landmarks import N_LANDMARKS
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.solving import SOLVE_CELLS
from tigon.scaling.inmf.state import state_bytes
from tigon.scaling.packing import BUCKET_BYTES
from tigon.scaling.statistics import BLOCK_CELLS
from tigon.storage.errors import InputError, MemoryLimitError

if TYPE_CHECKING:
    from tigon.storage import Atlas

MIB = 2**20
BASE_BYTES = 320 * MIB
"""The interpreter, and the libraries and kernels that streaming needs."""

LAYOUT_BYTES = 190 * MIB
"""The libraries for neighbours, clusters and UMAP, and what they compile."""

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
    """

    stages: dict[str, int]
    window: int
    atlas_passes: int
    pack_passes: int
    atlas_bytes: int | None

    @property
    def peak_bytes(self) -> int:
        """Projected peak of the whole run."""
        return max(self.stages.values())


def plan_run(
    atlas: Atlas,
    n_datasets: int,
    n_genes: int,
    config: INMFConfig,
    n_threads: int,
    pack_passes: int,
    memory_limit: int | None,
) -> Plan:
    """Project the memory of a run, and fit the reading window to the limit.

    Parameters
    ----------
    atlas
        The counts; only sizes are looked at.
    n_datasets, n_genes
        Datasets, and genes to be selected.
    config
        Options of the factorisation.
    n_threads
        Threads that compute.
    pack_passes
        Least number of passes over the pack.
    memory_limit
        Bytes, or None for no limit.

    Raises
    ------
    MemoryLimitError
        Even one task at a time does not fit; names the smallest limit that does.
    """
    widest = 2 * n_threads
    for window in range(widest, 0, -1):
        stages = _stages(atlas, n_datasets, n_genes, config, window)
        if memory_limit is None or max(stages.values()) <= memory_limit:
            break
    else:
        need = max(stages.values())
        stage = max(stages, key=lambda name: stages[name])
        smallest = -(-need // MIB)
        raise MemoryLimitError(
            f"the memory limit of {format_bytes(memory_limit or 0)} is too small: "
            f"{stage} needs {format_bytes(need)}; set --memory-limit {smallest}MiB or more"
        )
    known = atlas.n_nonzeros
    atlas_bytes = None if known is None else known * 4 + 8 * atlas.n_cells
    return Plan(stages, window, 2, pack_passes, atlas_bytes)


def _stages(
    atlas: Atlas, n_datasets: int, n_genes: int, config: INMFConfig, window: int
) -> dict[str, int]:
    k = config.n_components
    obs_bytes = int(atlas.obs.memory_usage(deep=True).sum())
    always = BASE_BYTES + 2 * obs_bytes + CELL_BYTES * atlas.n_cells
    block = atlas.estimate_block_bytes(BLOCK_CELLS)
    # Reading from a file takes at least 16 bytes a non-zero, the pack half of
    # that: two blocks of it are read ahead of the one that is worked on.
    packed = 2 * block / min(BLOCK_CELLS, max(1, atlas.n_cells))
    moments = 16 * n_datasets * atlas.n_genes
    tiles = window * 32 * k * n_genes
    final = int(packed * min(SOLVE_CELLS, atlas.n_cells)) + 12 * n_datasets * k * n_genes
    minibatch = int(packed * min(config.minibatch_size, atlas.n_cells))
    bucket = min(BUCKET_BYTES, int(packed * atlas.n_cells))
    stages = {
        "reading cells": always + 2 * moments + window * (block + moments),
        "packing cells": always + moments + window * block + 3 * bucket,
        "the epochs": always + moments + state_bytes(n_datasets, n_genes, k) + minibatch + tiles,
        "solving loadings": always + moments + final + tiles,
    }
    # What streaming has freed need not have gone back to the system by then.
    landmarks = min(atlas.n_cells, 2 * N_LANDMARKS) * (LANDMARK_BYTES + 12 * k)
    stages["neighbours and layout"] = max(stages.values()) + LAYOUT_BYTES + landmarks
    return stages
