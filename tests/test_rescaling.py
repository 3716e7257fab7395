"""Rescaling: sizes, the normal equations after it, and the same bits on any threads."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from test_steps import draw_problem, draw_statistics, drawn_with_base, run, with_base

from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.rescaling import factor_sizes, rebuild, rescale, rescale_steps
from tigon.scaling.inmf.steps import apply_step


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


@pytest.mark.parametrize("n_masked", [0, 3])
def test_bases_follow_the_metagenes_exactly(n_masked: int) -> None:
    """H (W + V) stays, so H of cells that are not read is divided by what W is multiplied by."""
    p = drawn_with_base(n_masked)
    state = with_base(p, 6, 2)
    rng = np.random.default_rng(1)
    with ThreadEngine(2) as engine:
        rebuild(state, p, engine)
        deltas = {0: draw_statistics(rng, p, 0, 6, 90), 2: draw_statistics(rng, p, 2, 6, 50)}
        apply_step(state, p, deltas, 1, engine)
        np.multiply(state.W, np.float32(1.7), out=state.W)
        before = copy.deepcopy(state)
        rescale(state, p, engine)
    up = (1 / factor_sizes(before.W)).astype(float)
    np.testing.assert_allclose(state.sizes, up, rtol=1e-12)
    np.testing.assert_allclose(state.A_base[0], before.A_base[0] / np.outer(up, up), rtol=1e-12)
    np.testing.assert_allclose(state.A[1], before.A[1] / np.outer(up, up), rtol=1e-12)
    np.testing.assert_allclose(state.B[1], before.B[1] / up[:, None], rtol=1e-12)
    # What the new cells left stays, as in a fit.
    for name, base in (("A", "A_base"), ("B", "B_base")):
        new = getattr(state, name)[0] - getattr(state, base)[0]
        was = getattr(before, name)[0] - getattr(before, base)[0]
        np.testing.assert_allclose(new, was, rtol=1e-9, atol=1e-9 * np.abs(was).max())
        np.testing.assert_array_equal(getattr(state, name)[2], getattr(before, name)[2])
    # V of the dataset at rest was improved: F of its cells fell, and T knows.
    parts = [state.statistics_of(d, int(p.n_cells[d])) for d in range(3)]

    def F(V: np.ndarray) -> float:
        (A, B), L = parts[1], (state.W + V).astype(float)
        return float((A * (L @ L.T + p.lam * V @ V.T)).sum() - 2 * (B * L).sum())

    assert F(state.V[1].astype(float)) < F(before.V[1] * up[:, None])
    T = sum(B - A @ state.V[d].astype(float) for d, (A, B) in enumerate(parts))
    size = max(float((A @ state.V[d]).max()) for d, (A, _) in enumerate(parts))
    np.testing.assert_allclose(state.T, T, rtol=0, atol=40 * np.finfo(np.float32).eps * size)
    for pattern, datasets in enumerate(state.in_pattern):
        A = np.stack([A for A, _ in parts])
        np.testing.assert_allclose(state.S[pattern], A[datasets].sum(axis=0), rtol=1e-12)


def test_there_and_back_are_the_same_metagenes() -> None:
    """What an update does at its end: sizes taken back, bases need not be."""
    p = drawn_with_base(0)
    state = with_base(p, 6, 4)
    W, growth = state.W.copy(), np.linspace(0.9, 1.2, 6, dtype=np.float32)
    with ThreadEngine(1) as engine:
        for _ in range(3):
            rescale(state, p, engine)
            np.multiply(state.W, growth[:, None], out=state.W)
    grown = growth[:, None].astype(float) ** 3
    np.testing.assert_allclose(state.W / state.sizes[:, None], W * grown, rtol=2e-6)
