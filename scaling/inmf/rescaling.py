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
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.genes import add_product
from tigon.kernels.cpu.sweep import SolverGram
from tigon.scaling.inmf.state import Problem, State
from tigon.scaling.inmf.steps import gene_ranges

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

_FEWEST_STEPS = 20


def rescale_steps(problem: Problem) -> int:
    """Steps between two rescalings: one costs what a step over all datasets does."""
    return max(_FEWEST_STEPS, problem.n_datasets)


def factor_sizes(W: NDArray[np.float32]) -> NDArray[np.float32]:
    """Root mean square of each row of W over the genes, 1 for a row of zeros, shape (k,)."""
    sizes: NDArray[np.float64] = np.sqrt(np.einsum("jg,jg->j", W, W, dtype=np.float64) / W.shape[1])
    sizes[sizes == 0.0] = 1.0
    return sizes.astype(np.float32, copy=False)


def rescale(state: State, problem: Problem, engine: ThreadEngine) -> None:
    """Bring the metagenes of every factor to size 1, in place, and T up to date with them.

    Notes
    -----
    About k^2 m multiplications for every dataset.
    """
    up = 1 / factor_sizes(state.W)[:, None]
    np.multiply(state.W, up, out=state.W)
    np.multiply(state.V, up, out=state.V)
    remaining = 1.0 - state.n_seen / problem.n_cells
    grams = [
        SolverGram.of((A + rest * before).astype(np.float32)).blocks
        for A, rest, before in zip(state.A, remaining, state.A_previous, strict=True)
    ]

    def rebuild(genes: slice) -> None:
        T = state.T[:, genes]
        T[:] = 0.0
        for i, blocks in enumerate(grams):
            T += state.B[i][:, genes]
            T += remaining[i] * state.B_previous[i][:, genes]
            add_product(state.T, blocks, state.V[i], -1.0, genes.start, genes.stop)

    list(engine.share(rebuild, gene_ranges(problem)))
