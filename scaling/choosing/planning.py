"""What a choice of k and lambda costs, before counts are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigon.scaling.alignment.centroids import offsets_bytes
from tigon.scaling.budget import NEIGHBOURS_BYTES, Plan, plan_run
from tigon.scaling.choosing.config import MIXED_CELLS, ChooseConfig
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.state import state_bytes
from tigon.scaling.preparing import chosen_datasets

if TYPE_CHECKING:
    from tigon.storage import Atlas


@dataclass(frozen=True, slots=True)
class ChoosePlan:
    """Cost of a choice.

    Attributes
    ----------
    run
        Passes over the atlas, window and memory, as of an integration with the most factors.
    n_cells
        Cells that are fitted at most.
    n_fits
        Fits of all settings and folds.
    pack_passes
        Passes over the sampled cells, at least.
    """

    run: Plan
    n_cells: int
    n_fits: int
    pack_passes: int


def plan_choice(atlas: Atlas, config: ChooseConfig) -> ChoosePlan:
    """Project the cost; reads metadata only.

    Raises
    ------
    InputError
        The batch key cannot be used, or k is larger than the cells of a dataset, the cells or
        the genes there are.
    MemoryLimitError
        The memory limit is too small.
    """
    n_datasets = len(chosen_datasets(atlas, config.prepare, config.k[-1]).names)
    whole = IntegrateConfig(
        prepare=config.prepare,
        inmf=config.largest,
        embed=EmbedConfig(umap=False),
        n_threads=config.n_threads,
        memory_limit_bytes=config.memory_limit_bytes,
    )
    plan = plan_run(atlas, n_datasets, whole, besides=_besides(atlas, n_datasets, config))
    n_cells = min(config.n_cells, atlas.n_cells)
    config.check_cells(n_cells)
    n_training = n_cells - n_cells // config.n_folds
    epochs = plan_schedule(config.inmf, n_training).min_epochs
    # Each fit reads the cells outside of its fold an epoch, and those in it twice.
    passes = config.n_fits * (epochs * n_training + 2 * (n_cells - n_training)) / max(n_cells, 1)
    return ChoosePlan(plan, n_cells, config.n_fits, round(passes))


def _besides(atlas: Atlas, n_datasets: int, config: ChooseConfig) -> dict[str, int]:
    """Stages of a choice, and what it holds there besides one fit.

    That is the state that a fit grows from, the factors of a lambda, and what scores them.
    """
    k, m = config.k[-1], config.prepare.at_most_genes(atlas.n_genes)
    factors = 8 * config.n_folds * m * (sum(config.k) + 2 * k)
    cosines = 24 * (config.n_folds * k) ** 2
    moved = offsets_bytes(MIXED_CELLS, n_datasets, k, 2 * config.n_threads, config.n_threads)
    besides = state_bytes(n_datasets, m, k) + factors + cosines + NEIGHBOURS_BYTES + moved
    reading = dict.fromkeys(("reading cells", "ordering cells", "packing cells"), 0)
    return reading | dict.fromkeys(("the epochs", "solving loadings"), besides)
