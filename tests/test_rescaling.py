"""Rescaling: sizes, the normal equations after it, and the same bits on any threads."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from test_steps import draw_problem, run

from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.rescaling import factor_sizes, rescale, rescale_steps


@pytest.mark.parametrize("n_masked", [0, 3])
def test_factors_have_size_one_and_the_equations_follow(n_masked: int) -> None:
    p = draw_problem(5, 600, n_masked)
    state, _ = run(p, 9, 1, 2)
    before = copy.deepcopy(state)
    with ThreadEngine(2) as engine:
        rescale(state, p, engine)
    np.testing.assert_allclose(factor_sizes(state.W), 1, rtol=1e-6)
    up = 1 / factor_sizes(before.W)[:, None]
    np.testing.assert_allclose(state.V, before.V * up, rtol=1e-6)
    for name in ("A", "B", "A_previous", "B_previous", "S", "n_seen"):
        np.testing.assert_array_equal(getattr(state, name), getattr(before, name))
    expected, size = 0.0, 0.0
    for d in range(p.n_datasets):
        A, B = state.statistics_of(d, int(p.n_cells[d]))
        taken = A @ state.V[d].astype(float)
        expected, size = expected + B - taken, max(size, float(taken.max()))
    eps = float(np.finfo(np.float32).eps)
    np.testing.assert_allclose(state.T, expected, rtol=1e-12, atol=10 * eps * size)


def test_rescaling_has_the_same_bits_on_any_threads() -> None:
    p = draw_problem(2, 1300, 3)
    state, _ = run(p, 20, 1, 1)
    found = []
    for n_threads in (1, 2, 4):
        mine = copy.deepcopy(state)
        with ThreadEngine(n_threads) as engine:
            rescale(mine, p, engine)
        found.append(mine)
    for other in found[1:]:
        for name in ("W", "V", "T"):
            np.testing.assert_array_equal(getattr(found[0], name), getattr(other, name))


def test_a_factor_of_zeros_stays_so() -> None:
    assert factor_sizes(np.zeros((2, 5), np.float32)).tolist() == [1.0, 1.0]
    assert rescale_steps(draw_problem(0, 40, 0)) == 20
