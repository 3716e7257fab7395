"""One step: fold a task's statistics into the state, then update W and V.

W and V_i are updated by HALS with the statistics fixed; for gene g, with S and T
as in ``state``:

    W_j   <- max(0, W_j + (T - S W)_j / S_jj)
    V_i,j <- max(0, V_i,j + (B_i - A_i W - (1 + lambda) A_i V_i)_j / ((1 + lambda) A_i,jj))

with the lambda of dataset i.

Genes are independent: each task takes a fixed range of them through the whole step.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.gene_step import addresses_of, step_range, take_in_grams
from tigon.kernels.cpu.metagenes import MetageneTable
from tigon.kernels.cpu.sweep import SolverGrams
from tigon.kernels.tile import TileStatistics
from tigon.scaling.inmf.state import Problem, State
from tigon.scaling.inmf.tiles import tabulation_of

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

RANGE_GENES = 512
"""Genes of a task; fixed, so that results never depend on the threads."""


def apply_step(
    state: State,
    problem: Problem,
    deltas: dict[int, TileStatistics],
    n_sweeps: int,
    engine: ThreadEngine,
    *,
    tabulate: Collection[int] = (),
) -> dict[int, MetageneTable]:
    """Take in what a task found and improve the metagenes, in place.

    Parameters
    ----------
    state, problem
        The state, updated, and what is factorised.
    deltas
        Statistics of the task by dataset; emptied.
    n_sweeps
        HALS sweeps.
    engine
        Where it runs.
    tabulate
        Datasets of which a table of the metagenes is wanted, as they are then.

    Returns
    -------
    dict
        Tables by dataset, of those in ``deltas`` that are wanted: made while a range of genes is
        in the cache.

    Notes
    -----
    About 4 k^2 m multiplications for each dataset touched, none for others.
    """
    datasets = sorted(deltas)
    # Held until the last range is done: kernels read the sums by their addresses.
    found = [deltas.pop(dataset).in_place() for dataset in datasets]
    news, shared, own = _take_in(state, problem, datasets, found)
    arrays = arrays_of(state)
    wanted = [dataset for dataset in datasets if dataset in tabulate]
    begun = [tabulation_of(problem, state.W, state.V, dataset) for dataset in wanted]

    def update(genes: slice) -> list[NDArray[np.float64]]:
        step_range(arrays, news, shared, own, n_sweeps, genes.start, genes.stop)
        return [tabulation.take(genes) for tabulation in begun]

    parts = engine.share(update, gene_ranges(problem))
    tables = [each.finish([part[i] for part in parts]) for i, each in enumerate(begun)]
    return dict(zip(wanted, tables, strict=True))


def gene_ranges(problem: Problem) -> list[slice]:
    """Ranges of genes that tasks take through a step."""
    m = problem.n_genes
    return [slice(start, min(start + RANGE_GENES, m)) for start in range(0, m, RANGE_GENES)]


def arrays_of(state: State) -> tuple[NDArray[Any], ...]:
    """What steps read and write, as :mod:`tigon.kernels.cpu.gene_step` takes it."""
    return state.W, state.V, state.B, state.B_previous, state.T


def shared_of(state: State) -> tuple[Any, ...]:
    """S of each pattern, and patterns of the genes, for the same."""
    return SolverGrams.of(state.S).arrays, state.patterns


def own_of(
    state: State,
    problem: Problem,
    datasets: NDArray[np.int64],
    remaining: NDArray[np.float64],
) -> tuple[Any, ...]:
    """Some datasets, the weight of their previous sums, lambda, A and masks, for the same."""
    A = state.A[datasets] + remaining[:, None, None] * state.A_previous[datasets]
    grams = SolverGrams.of(A).arrays
    return datasets, remaining, _lam_of(problem, datasets), grams, problem.measured


def remaining_of(state: State, problem: Problem) -> NDArray[np.float64]:
    """Weight of the previous sums of each dataset, float64, shape (d,)."""
    return 1.0 - state.n_seen / np.maximum(problem.n_cells, 1)


def _take_in(
    state: State, problem: Problem, datasets: list[int], found: list[TileStatistics]
) -> tuple[tuple[Any, ...], tuple[Any, ...], tuple[Any, ...]]:
    """Take statistics into A and S; what they mean for B, W and V, as kernels take it."""
    touched = np.array(datasets, np.int64)
    before = remaining_of(state, problem)[touched]
    state.n_seen[touched] += [each.n_cells for each in found]
    remaining = remaining_of(state, problem)[touched]
    fades = remaining - before
    A, B = (addresses_of([getattr(each, name) for each in found]) for name in "AB")
    sums = state.A, state.A_previous, state.S, state.in_pattern
    changes, grams, shared = take_in_grams(*sums, touched, A, fades, remaining)
    own = touched, remaining, _lam_of(problem, touched), grams, problem.measured
    return (touched, B, fades, changes), (shared, state.patterns), own


def _lam_of(problem: Problem, datasets: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.array([problem.lam_of(dataset) for dataset in datasets.tolist()], np.float64)
