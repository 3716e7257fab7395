"""One step: fold a mini-batch's statistics into the state, then update W and V.

W and V_i are updated by HALS with the statistics fixed; for gene g, with S and T
as in ``state``:

    W_j   <- max(0, W_j + (T - S W)_j / S_jj)
    V_i,j <- max(0, V_i,j + (B_i - A_i W - (1 + lambda) A_i V_i)_j / ((1 + lambda) A_i,jj))

with the lambda of dataset i.

Genes are independent: each task takes a fixed range of them through the whole step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.folding import fold
from tigon.kernels.cpu.genes import add_product, hals, update_specific
from tigon.kernels.cpu.sweep import SolverGram
from tigon.kernels.tile import TileStatistics
from tigon.scaling.inmf.state import Problem, State

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

RANGE_GENES = 512
"""Genes of a task; fixed, so that results never depend on the threads."""


@dataclass(frozen=True, slots=True)
class _Change:
    """What a mini-batch changes for one dataset.

    Attributes
    ----------
    dataset
        Its number.
    delta
        X^T H of the mini-batch, float64, shape (m, k).
    remaining, fade
        Weight of the previous epoch's sums, and by how much it fell.
    gram, change
        A_i and by how much it grew, as kernels read them.
    """

    dataset: int
    delta: NDArray[np.float64]
    remaining: float
    fade: float
    gram: SolverGram
    change: SolverGram


def apply_step(
    state: State,
    problem: Problem,
    deltas: dict[int, TileStatistics],
    n_sweeps: int,
    engine: ThreadEngine,
) -> None:
    """Take in what a mini-batch found and improve the metagenes, in place.

    Parameters
    ----------
    state, problem
        The state, updated, and what is factorised.
    deltas
        Statistics of the mini-batch by dataset; emptied.
    n_sweeps
        HALS sweeps.
    engine
        Where it runs.

    Notes
    -----
    About 4 k^2 m multiplications for each dataset touched, none for others.
    """
    changes = [_take_in(state, problem, dataset, deltas.pop(dataset)) for dataset in sorted(deltas)]
    grams = [SolverGram.of(S.astype(np.float32)) for S in state.S]
    ranges = gene_ranges(problem)

    def update(genes: slice) -> None:
        for change in changes:
            _fold(state, change, genes)
        for _ in range(n_sweeps):
            update_W(state, grams, genes)
            for change in changes:
                update_V(state, problem, change.dataset, change.gram, change.remaining, genes)

    list(engine.share(update, ranges))


def gene_ranges(problem: Problem) -> list[slice]:
    """Ranges of genes that tasks take through a step."""
    m = problem.n_genes
    return [slice(start, min(start + RANGE_GENES, m)) for start in range(0, m, RANGE_GENES)]


def _take_in(state: State, problem: Problem, dataset: int, delta: TileStatistics) -> _Change:
    """Replace a dataset's contribution to S by its new one."""
    n_cells = int(problem.n_cells[dataset])
    before = 1.0 - state.n_seen[dataset] / n_cells
    state.n_seen[dataset] += delta.n_cells
    remaining = 1.0 - state.n_seen[dataset] / n_cells
    state.A[dataset] += delta.A
    change = delta.A + (remaining - before) * state.A_previous[dataset]
    state.S[state.in_pattern[:, dataset]] += change
    A = state.A[dataset] + remaining * state.A_previous[dataset]
    return _Change(
        dataset,
        delta.B,
        remaining,
        remaining - before,
        SolverGram.of(A.astype(np.float32)),
        SolverGram.of(change.astype(np.float32)),
    )


def _fold(state: State, change: _Change, genes: slice) -> None:
    """Replace a dataset's contribution to B and T by its new one."""
    i = change.dataset
    ends = genes.start, genes.stop
    fold(state.B[i], state.B_previous[i], state.T, change.delta, change.fade, *ends)
    add_product(state.T, change.change.blocks, state.V[i], -1.0, *ends)


def update_W(state: State, grams: list[SolverGram], genes: slice) -> None:
    """A sweep over the rows of W for a range of genes, in place; ``grams`` are those of S."""
    if len(grams) == 1:
        S = grams[0]
        hals(state.W, state.T, *S.arrays, 1, genes.start, genes.stop)
        return
    for pattern in np.unique(state.patterns[genes]).tolist():
        S = grams[pattern]
        if not S.step.any():  # nothing informs W there
            continue
        chosen = genes.start + np.flatnonzero(state.patterns[genes] == pattern)
        W = np.ascontiguousarray(state.W[:, chosen])
        T = np.ascontiguousarray(state.T[:, chosen])
        hals(W, T, *S.arrays, 1, 0, len(chosen))
        state.W[:, chosen] = W


def update_V(
    state: State,
    problem: Problem,
    dataset: int,
    A: SolverGram,
    remaining: float,
    genes: slice,
) -> None:
    """A sweep over the rows of a dataset's V for a range of genes, and T with it, in place.

    Parameters
    ----------
    state, problem, dataset
        The state, what is factorised, and the number of the dataset.
    A
        Its A with the hand-over applied.
    remaining
        Weight of its previous sums.
    genes
        The range.
    """
    update_specific(
        state.V[dataset],
        state.W,
        state.B[dataset],
        state.B_previous[dataset],
        state.T,
        remaining,
        problem.lam_of(dataset),
        problem.measured[dataset],
        *A.arrays,
        genes.start,
        genes.stop,
    )
