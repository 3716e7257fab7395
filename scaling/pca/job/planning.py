"""What a job of principal components will cost, computed before any count is read.

An upper bound, as :mod:`tigon.scaling.budget` makes one for an integration: sums over cells are
there as a whole, for each task under way, and once more while they are added. The
window of tasks follows from the memory limit. Cells of a task do not: sums would then be added
in another order, and be other bits.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigon.scaling.budget import (
    CELL_BYTES,
    MIB,
    STREAMING_BYTES,
    WRITING_BYTES,
    WRITTEN_BYTES,
    Plan,
    table_bytes,
    too_small,
)
from tigon.scaling.first_pass import is_stored
from tigon.scaling.pca.job.begin import Beginning
from tigon.scaling.pca.job.first import stretches_riding
from tigon.scaling.pca.krylov import basis_bytes, improved
from tigon.scaling.pca.sampling import SAMPLE_BYTES
from tigon.scaling.pca.size import block_bytes, padded, sums_bytes
from tigon.scaling.pca.sources import bytes_of
from tigon.scaling.pca.starting import RANDOM, SAMPLE_PASSES
from tigon.scaling.statistics import BLOCK_CELLS, BlockCounting, moments_bytes

if TYPE_CHECKING:
    from tigon.storage import Atlas

SOLVING_BYTES = 60 * MIB
"""SciPy's linear algebra and statistics, and what is compiled of the kernels."""

_FEWEST_PRODUCTS = 2
"""Of iterations: the certificate needs as many."""


@dataclass(frozen=True, slots=True)
class DecomposePlan(Plan):
    """Cost of a job of principal components.

    Attributes
    ----------
    solver, reason
        Which solver, and why it.
    """

    solver: str
    reason: str


def plan_decomposition(atlas: Atlas, beginning: Beginning, n_workers: int = 0) -> DecomposePlan:
    """Project the cost of a job, and fit the window to the memory limit.

    Parameters
    ----------
    atlas
        The counts; only sizes are looked at.
    beginning
        What is done with them.
    n_workers
        Worker processes on this machine whose tasks count towards the limit.

    Raises
    ------
    MemoryLimitError
        Even one task at a time does not fit; names the smallest limit that does.
    """
    sizes = _Sizes.of(atlas, beginning)
    limit = beginning.config.memory_limit_bytes
    for window in range(2 * beginning.config.n_threads, 0, -1):
        stages = {
            name: n_bytes + n_workers * sizes.task
            for name, n_bytes in _stages(atlas, beginning, sizes, window).items()
        }
        if limit is None or max(stages.values()) <= limit:
            break
    else:
        raise too_small(limit, stages)
    return DecomposePlan(
        stages,
        window,
        atlas_passes=_fewest_passes(atlas, beginning),
        pack_passes=0,
        atlas_bytes=bytes_of(atlas),
        task_bytes=sizes.task,
        solver=beginning.pca.solver,
        reason=beginning.reason,
    )


@dataclass(frozen=True, slots=True)
class _Sizes:
    """Bytes of what the stages have in common.

    Attributes
    ----------
    block
        A block of cells while it is worked on.
    riding
        Sums that ride on the first pass.
    counted
        Statistics of the blocks of a task of the first pass.
    product
        Sums of another pass.
    scores
        Of a block of cells.
    """

    block: int
    riding: int
    counted: int
    product: int
    scores: int

    @classmethod
    def of(cls, atlas: Atlas, beginning: Beginning) -> _Sizes:
        pca, m = beginning.pca, beginning.at_most_genes
        product = sums_bytes(pca, m)
        what = beginning.riding()
        riding = product if beginning.begins_with_a_product else 0
        size = 1
        if what is not None:
            riding = max(what.n_bytes, 8 * len(beginning.summed_genes) * padded(1))
        counting = BlockCounting.of(atlas, beginning.datasets, beginning.config.prepare.cell_filter)
        if riding:
            size = stretches_riding(riding, counting, atlas.n_genes)
        n = min(BLOCK_CELLS, atlas.n_cells)
        return cls(
            block=block_bytes(atlas),
            riding=riding,
            counted=size * moments_bytes(counting.most_datasets, atlas.n_genes),
            product=product,
            scores=n * 4 * pca.n_components,
        )

    @property
    def task(self) -> int:
        """Most that a task takes where it runs; its result is there once more as it is sent."""
        return self.block + 3 * max(self.product, self.riding + self.counted, self.scores)


def _stages(atlas: Atlas, beginning: Beginning, sizes: _Sizes, window: int) -> dict[str, int]:
    pca, m = beginning.pca, beginning.at_most_genes
    datasets = beginning.datasets
    always = STREAMING_BYTES + CELL_BYTES * atlas.n_cells
    always += table_bytes(atlas, beginning.config.prepare)
    moments = moments_bytes(len(datasets.names), atlas.n_genes)
    running = min(window, beginning.config.n_threads)
    reading = running * sizes.block
    # Results of tasks, the total, and what was added to it last and is not yet let go. Sketches
    # are copied at the end of a task, without the padding of their rows.
    flying = window + 2 + (running if pca.solver == "krylov" else 0)
    stages = {
        "reading cells": always + 2 * moments + reading + flying * (sizes.riding + sizes.counted),
    }
    always += moments + SOLVING_BYTES
    if pca.solver == "gram":
        stages["sums over cells"] = always + reading + flying * sizes.product
        # The matrix, and what centring makes of it and LAPACK copies; or all that was summed.
        solving = sizes.product + max(sizes.riding, 2 * sizes.product)
        stages["components"] = always + solving + 4 * 8 * m * pca.n_components
    else:
        wanted = improved(pca.n_components)
        basis = basis_bytes(wanted + RANDOM, pca.n_components, pca.max_passes, m)
        stages["the sample"] = (
            always
            + 4 * min(SAMPLE_BYTES, bytes_of(atlas))
            + basis_bytes(improved(wanted), wanted, SAMPLE_PASSES, m)
            + flying * sizes.product
        )
        stages["sums over cells"] = always + basis + reading + flying * sizes.product
    vectors = 3 * 8 * m * padded(pca.n_components)
    stages["scores"] = always + vectors + reading + running * 4 * sizes.scores
    stages["scores"] += window * sizes.scores
    written = WRITTEN_BYTES + 2 * atlas.obs_columns.row_bytes
    stages["writing"] = always + vectors + WRITING_BYTES + written * atlas.n_cells
    return stages


def _fewest_passes(atlas: Atlas, beginning: Beginning) -> int:
    """Passes over the counts: of iterations at least."""
    rides = beginning.riding() is not None or beginning.begins_with_a_product
    cell_filter = beginning.config.prepare.cell_filter
    spared = int(not rides and is_stored(atlas, beginning.datasets, cell_filter))
    if beginning.pca.solver == "gram":
        return 2 if rides else 3 - spared
    return 1 + _FEWEST_PRODUCTS + (0 if beginning.begins_with_a_product else 1) - spared
