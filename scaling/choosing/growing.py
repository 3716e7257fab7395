"""The fit of k factors begun from that of fewer.

The metagenes and sums of the fit before go on as those of an epoch before: cells that
were seen then had loadings 0 on the factors that are new, so that

    A = | A  0 |     B = | B |
        | 0  0 |         | 0 |

are the sums of the larger fit as it stands, exactly.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.inmf.state import Problem, State, begin_round, init_state


def grow(
    state: State | None, problem: Problem, n_components: int, seed: np.random.SeedSequence
) -> State:
    """The state that a fit of ``n_components`` begins with.

    Parameters
    ----------
    state
        The last of the fit of fewer factors, of which all cells were seen; None for none.
    problem, seed
        What is factorised, and what the new metagenes are drawn from.

    Returns
    -------
    State
        Of arrays of its own.
    """
    fresh = init_state(problem, n_components, seed)
    # A dataset without a cell to learn from has nothing of its own.
    fresh.V[problem.n_cells == 0] = 0.0
    if state is None:
        return fresh
    begin_round(state)
    return replace(
        fresh,
        W=_over(fresh.W, state.W),
        V=_over(fresh.V, state.V),
        A_previous=_over(fresh.A_previous, state.A_previous),
        B_previous=_over(fresh.B_previous, state.B_previous),
        S=_over(fresh.S, state.S),
        T=_over(fresh.T, state.T),
    )


def _over(larger: NDArray[Any], smaller: NDArray[Any]) -> NDArray[Any]:
    """The larger array with the smaller one at its beginning, in place."""
    larger[tuple(slice(n) for n in smaller.shape)] = smaller
    return larger
