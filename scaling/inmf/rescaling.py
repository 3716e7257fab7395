"""Keeping factors at the size of the data.

Multiplying a factor's row of W and of every V_i by c, and its column of H by 1 / c,
leaves F as it is, so that nothing holds a factor's size in place. The penalty shrinks H
in every step and the metagenes grow in return, by a percent or two where datasets differ.
Loadings of long ago are then larger than those of today by as much as the metagenes grew
since, and the statistics that they left say so with the square: fits of some thousand
steps end worse than short ones, and at last beyond the range of float32.

So the metagenes are brought back to size 1 every so often, and the statistics are not
touched: they are taken to be what they would have been had the metagenes never grown,
as in dictionary learning with atoms of fixed length (Mairal et al. 2010, Journal of
Machine Learning Research 11:19-60).

Bases are not replaced by later sums as other statistics are. They follow the metagenes
exactly, A_jl by 1 / (c_j c_l) and B_j by 1 / c_j, as if their cells had been solved
against the metagenes as they are sized now.

On this occasion V_i of datasets at rest, whose cells no step touches, are brought up to
date with W from A_i and B_i.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.gene_step import update_own
from tigon.kernels.cpu.genes import add_product
from tigon.kernels.cpu.grams import row_squares
from tigon.kernels.cpu.sweep import SolverGram
from tigon.scaling.inmf.state import Problem, State
from tigon.scaling.inmf.steps import arrays_of, gene_ranges, own_of, remaining_of

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

_FEWEST_STEPS = 20


def rescale_steps(problem: Problem) -> int:
    """Steps between two rescalings: one costs what a step over all datasets does."""
    return max(_FEWEST_STEPS, problem.n_datasets)


def factor_sizes(W: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean square of each row of W over the genes, 1 for a row of zeros, shape (k,)."""
    sizes: NDArray[np.float64] = np.sqrt(row_squares(W) / W.shape[1])
    sizes[sizes == 0.0] = 1.0
    return sizes.astype(np.float32, copy=False)


def rescale(state: State, problem: Problem, engine: ThreadEngine) -> None:
    """Bring the metagenes of every factor to size 1, in place, and T up to date with them.

    Notes
    -----
    About k^2 m multiplications for every dataset, and three times that for one at rest.
    """
    up = 1 / factor_sizes(state.W)
    np.multiply(state.W, up[:, None], out=state.W)
    np.multiply(state.V, up[:, None], out=state.V)
    c = up.astype(np.float64)
    state.sizes[:] *= c
    at_rest = datasets_at_rest(problem)
    for A, base in _bases(state.A, state.A_base, state.continued, at_rest):
        _restate(A, base, c[:, None] * c)

    def rebase(genes: slice) -> None:
        for B, base in _bases(state.B, state.B_base, state.continued, at_rest):
            _restate(B[:, genes], None if base is None else base[:, genes], c[:, None])

    if at_rest or len(state.continued):
        engine.share(rebase, gene_ranges(problem))
    rebuild(state, problem, engine, n_sweeps=1)


def rebuild(state: State, problem: Problem, engine: ThreadEngine, n_sweeps: int = 0) -> None:
    """Sum S and T anew from the statistics, then update V of the datasets at rest, in place.

    Parameters
    ----------
    state, problem, engine
        As for :func:`rescale`.
    n_sweeps
        HALS sweeps over each V of a dataset at rest.
    """
    remaining = remaining_of(state, problem)
    A = [
        now + rest * before
        for now, rest, before in zip(state.A, remaining, state.A_previous, strict=True)
    ]
    grams = [SolverGram.of(of_dataset.astype(np.float32)) for of_dataset in A]
    at_rest = datasets_at_rest(problem)
    if at_rest or len(state.continued):
        sum_patterns(state, A)
    arrays = arrays_of(state)
    own = own_of(state, problem, np.array(at_rest, np.int64), remaining[at_rest])

    def sum_up(genes: slice) -> None:
        T = state.T[:, genes]
        T[:] = 0.0
        for i, gram in enumerate(grams):
            T += state.B[i][:, genes]
            T += remaining[i] * state.B_previous[i][:, genes]
            add_product(state.T, gram.blocks, state.V[i], -1.0, genes.start, genes.stop)
        for _ in range(n_sweeps if at_rest else 0):
            update_own(arrays, own, genes.start, genes.stop)

    engine.share(sum_up, gene_ranges(problem))


def sum_patterns(state: State, A: list[NDArray[np.float64]]) -> None:
    """Sum S anew, in place, from the A of all datasets, float64, shape (k, k) each."""
    for pattern, datasets in enumerate(state.in_pattern):
        state.S[pattern] = sum((A[i] for i in np.flatnonzero(datasets)), np.zeros_like(A[0]))


def datasets_at_rest(problem: Problem) -> list[int]:
    """Datasets of which no cell is read."""
    found: list[int] = np.flatnonzero(problem.n_cells == 0).tolist()
    return found


def _bases(
    sums: NDArray[np.float64],
    bases: NDArray[np.float64],
    continued: NDArray[np.int64],
    at_rest: list[int],
) -> Iterator[tuple[NDArray[np.float64], NDArray[np.float64] | None]]:
    """Sums that hold a base, and the base; None where it is all that they hold."""
    for i in at_rest:
        yield sums[i], None
    for i, base in zip(continued.tolist(), bases, strict=True):
        yield sums[i], base


def _restate(
    sums: NDArray[np.float64], base: NDArray[np.float64] | None, up: NDArray[np.float64]
) -> None:
    """Divide the base by ``up``, in place, and leave what else ``sums`` holds."""
    if base is None:
        sums /= up
        return
    sums -= base
    base /= up
    sums += base
