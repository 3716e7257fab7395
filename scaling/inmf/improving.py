"""The best metagenes for statistics that are known, and how far metagenes are from theirs.

With A_i and B_i fixed, F is a convex quadratic of W and all V_i. HALS sweeps over V_i and W
in turn minimise it row by row; none of them raises F. How far W and V_i are from the best
is told by what each entry could gain by itself: moving x alone by d, to where its derivative
is zero or x is, lowers F by S_jj d^2 where its quadratic coefficient is S_jj; the residual is
the root of the sum of all these.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.gene_step import no_news, step_range
from tigon.kernels.cpu.genes import add_product
from tigon.kernels.cpu.sweep import SolverGram
from tigon.scaling.inmf.rescaling import rebuild, sum_patterns
from tigon.scaling.inmf.state import Problem, State
from tigon.scaling.inmf.steps import arrays_of, gene_ranges, own_of, remaining_of, shared_of

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

N_SWEEPS = 3
"""Sweeps over all metagenes with the statistics as they are."""


def improve(state: State, problem: Problem, engine: ThreadEngine) -> State:
    """W and V improved for the previous pass's sums, in arrays of their own.

    Parameters
    ----------
    state
        After :func:`tigon.scaling.inmf.state.begin_round`: the sums are in ``A_previous``
        and ``B_previous``. ``S`` and ``T`` are written.
    problem, engine
        What is factorised, and where it runs.

    Notes
    -----
    About 4 k^2 m multiplications for each dataset and sweep.
    """
    found = replace(
        state,
        W=state.W.copy(),
        V=state.V.copy(),
        A=state.A_previous,
        B=state.B_previous,
        n_seen=problem.n_cells,
    )
    sum_patterns(found, list(found.A))
    rebuild(found, problem, engine)
    sweep_all(found, problem, N_SWEEPS, engine)
    return found


def sweep_all(state: State, problem: Problem, n_sweeps: int, engine: ThreadEngine) -> None:
    """Sweep over all metagenes with the statistics as they are, in place."""
    arrays, news, shared = arrays_of(state), no_news(len(state.W)), shared_of(state)
    own = own_of(state, problem, np.arange(problem.n_datasets), remaining_of(state, problem))

    def sweep(genes: slice) -> None:
        step_range(arrays, news, shared, own, n_sweeps, genes.start, genes.stop)

    engine.share(sweep, gene_ranges(problem))


def residual(state: State, problem: Problem, engine: ThreadEngine) -> float:
    """Root of what all entries of W and V_i could lower F by, each by itself.

    It is zero where the Karush-Kuhn-Tucker conditions hold, does not depend on the sizes of
    the factors, and is in units of ``|X|``.

    Parameters
    ----------
    state
        W and V with their A and B, of a whole pass.
    problem, engine
        What is factorised, and where it runs.

    Notes
    -----
    About 2 k^2 m multiplications for each dataset. Products are float32: what is below
    1e-6 |X| may be rounding.
    """
    grams = [SolverGram.of(A.astype(np.float32)).blocks for A in state.A]
    gains = engine.share(lambda genes: _gain(state, problem, grams, genes), gene_ranges(problem))
    return float(np.sqrt(sum(gains)))


def _gain(state: State, problem: Problem, grams: list[NDArray[np.float32]], genes: slice) -> float:
    """What the entries of a range of genes could lower F by, each by itself."""
    k, informing = len(state.W), problem.informing
    gradient, curvature = np.zeros((k, genes.stop - genes.start)), np.zeros((k, 1))
    gain = 0.0
    W = np.ascontiguousarray(state.W[:, genes])
    for i, blocks in enumerate(grams):
        V = np.ascontiguousarray(state.V[i][:, genes])
        measured, lam = problem.measured[i, genes], problem.lam_of(i)
        diagonal = np.diag(state.A[i])[:, None]
        own, missing = np.zeros_like(gradient), -state.B[i][:, genes]
        add_product(own, blocks, V, 1.0, 0, V.shape[1])
        add_product(missing, blocks, W, 1.0, 0, V.shape[1])
        missing += own
        gradient += missing * informing[i, genes]
        curvature = curvature + diagonal * informing[i, genes]
        gain += _gain_of(V, (missing + lam * own) * measured, (1.0 + lam) * diagonal)
    return gain + _gain_of(W, gradient, curvature)


def _gain_of(
    factor: NDArray[np.float32], gradient: NDArray[np.float64], curvature: NDArray[np.float64]
) -> float:
    """``sum of c d^2`` for the best moves d: to ``x - g / c``, or to 0 where that is below it."""
    step = np.divide(gradient, curvature, out=np.zeros_like(gradient), where=curvature > 0)
    move = np.minimum(step, factor)
    return float((curvature * move**2).sum())
