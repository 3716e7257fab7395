"""Exact non-negative least squares against SciPy, the specification, and itself.

``RELATIVE`` is what well-conditioned systems are held to: SciPy and we each lose about
k * 2.2e-16 times the condition of G, which these tests keep under 1e4.
"""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import by_scipy, draw_system, objectives
from scipy.optimize import lsq_linear
from sklearn.decomposition import NMF

from tigon.kernels import reference
from tigon.kernels.cpu.cholesky import N_LANES
from tigon.kernels.cpu.pivot_group import new_group, scaled_system
from tigon.kernels.cpu.pivot_single import solve_single
from tigon.kernels.cpu.pivoting import RIDGE, pivot_into

Array = np.ndarray

TOL = 1e-10
RELATIVE = 1e-10


def solve(
    G: Array, R: Array, seed: Array | None = None, max_pivots: int | None = None
) -> tuple[Array, Array, Array]:
    """Loadings, solves and residuals; from zeros unless seeded."""
    H = np.zeros(R.shape) if seed is None else seed.astype(float)
    n_pivots = np.full(len(R), -1, np.int32)
    residual = np.full(len(R), np.nan)
    limit = 5 * len(G) if max_pivots is None else max_pivots
    pivot_into(G, R, H, TOL, limit, n_pivots, residual)
    return H, n_pivots, residual


@pytest.mark.parametrize("k", [1, 2, 20, 40, 100, 128])
def test_loadings_agree_with_scipy(k: int) -> None:
    G, R = draw_system(k, 150, k)
    expected = by_scipy(G, R)
    H, n_pivots, residual = solve(G, R)
    assert np.abs(H - expected).max() <= RELATIVE * expected.max()
    np.testing.assert_array_equal(H > 0, expected > 0)
    assert residual.max() <= TOL
    assert n_pivots.max() <= 5 * k


def test_loadings_agree_with_bounded_least_squares() -> None:
    G, R = draw_system(7, 20, 12)
    U = np.linalg.cholesky(G).T
    options = dict(method="bvls", tol=1e-14)
    expected = np.array(
        [lsq_linear(U, np.linalg.solve(U.T, r), (0, np.inf), **options).x for r in R]
    )
    assert np.abs(solve(G, R)[0] - expected).max() <= RELATIVE * expected.max()


@pytest.mark.parametrize("k", [1, 5, 40])
def test_every_start_leads_to_the_same_loadings(k: int) -> None:
    G, R = draw_system(k, 300, k)
    cold, _, _ = solve(G, R)
    random = (np.random.default_rng(1).random(R.shape) < 0.5).astype(float)
    near = reference.nnls(G, R, tol=1e-3)
    for seed in (np.ones(R.shape), random, near):
        H, _, residual = solve(G, R, seed)
        assert np.abs(H - cold).max() <= RELATIVE * cold.max()
        assert residual.max() <= TOL


def test_a_start_on_the_solution_needs_one_solve() -> None:
    G, R = draw_system(2, 300, 40)
    H, cold, _ = solve(G, R)
    again, warm, _ = solve(G, R, H)
    np.testing.assert_array_equal(again, H)
    np.testing.assert_array_equal(warm, 1)
    assert cold.mean() > 2


def test_a_cell_never_depends_on_its_neighbours() -> None:
    G, R = draw_system(3, 203, 30)
    start = np.random.default_rng(3).random(R.shape) * (np.median(R) < R)
    together = solve(G, R, start)
    order = np.random.default_rng(4).permutation(len(R))
    for rows in (order, np.arange(5, 9), np.array([202]), np.arange(0, 203, N_LANES)):
        for mine, all_ in zip(solve(G, R[rows], start[rows]), together, strict=True):
            np.testing.assert_array_equal(mine, all_[rows])


def test_certificate_is_the_residual_of_the_loadings() -> None:
    G, R = draw_system(5, 60, 9)
    H, _, residual = solve(G, R, max_pivots=1)  # most cells end before their optimum
    expected = reference.kkt_residual(G, R, H)
    # The order of summation differs: a few roundings of numbers of the size of R.
    np.testing.assert_allclose(residual, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("k", [1, 6, 30])
def test_one_factor_at_a_time_reaches_the_same_loadings(k: int) -> None:
    # What remains where exchanges in blocks do not settle; no other test is sure to
    # take every cell there.
    G, R = draw_system(6, 40, k)
    H = np.empty(R.shape)
    system = scaled_system(G, RIDGE)
    group = new_group(k, system.stride)
    for r, h in zip(R, H, strict=True):
        n_solves, residual = solve_single(system, G, r, h, group, TOL, 5 * k)
        assert n_solves <= 5 * k
        assert residual <= TOL
    expected = by_scipy(G, R)
    assert np.abs(H - expected).max() <= RELATIVE * expected.max()


def test_blocks_that_run_in_circles_are_solved() -> None:
    # Half of the factors depend on the others, with signs: here the rule of the largest
    # index takes thousands of solves.
    rng = np.random.default_rng(100)
    L = rng.standard_normal((100, 50))
    G, R = L @ L.T, rng.gamma(0.5, 1.0, (40, 50)) @ L.T
    _, n_pivots, residual = solve(G, R)
    assert residual.max() <= TOL
    assert np.median(n_pivots) > 20  # blocks alone would have ended before
    assert n_pivots.max() <= 250


def degenerate(kind: str, k: int) -> Array:
    rng = np.random.default_rng(k)
    L = rng.gamma(0.5, 1.0, (k, 300))
    if kind == "duplicate":
        L[3], L[5] = L[1], 2 * L[1]
    elif kind == "zero":
        L[[0, 4]] = 0
    elif kind == "parallel":
        L[3] = L[1] * (1 + 1e-6 * rng.standard_normal(300))
    elif kind == "all parallel":
        L = L[1] * (1 + 1e-7 * rng.standard_normal(L.shape))
    elif kind == "rank one":
        L = np.outer(rng.gamma(1.0, 1.0, k), L[0])
    elif kind == "wide":
        L = L[:, : k // 2]
    elif kind == "signed and wide":
        L = rng.standard_normal((k, k // 2))
    return L


KINDS = ["duplicate", "zero", "parallel", "all parallel", "rank one", "wide", "signed and wide"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("k", [8, 40])
@pytest.mark.parametrize("start", ["cold", "full", "random"])
def test_degenerate_factors_reach_the_optimum(kind: str, k: int, start: str) -> None:
    rng = np.random.default_rng(11)
    L = degenerate(kind, k)
    G, R = L @ L.T, rng.gamma(0.5, 1.0, (40, L.shape[1])) @ L.T
    marks = {"cold": np.zeros(R.shape), "full": np.ones(R.shape), "random": rng.random(R.shape)}
    H, _, residual = solve(G, R, np.where(marks[start] > 0.5, 1.0, 0.0))
    assert np.isfinite(H).all()
    assert H.min() >= 0
    assert residual.max() <= TOL
    assert reference.kkt_residual(G, R, H).max() <= 2 * TOL
    descent = reference.nnls(G, R, tol=1e-9, max_sweeps=3000)
    # By convexity an objective is above the optimum by no more than the gradient along
    # the way there: k times the residual times |r| times the loadings.
    mine, theirs = objectives(G, R, H), objectives(G, R, descent)
    slack = 2e-10 * k * np.abs(R).max(axis=1) * np.maximum(H, descent).max(axis=1)
    assert (mine <= theirs + slack).all()
    if kind == "zero":
        np.testing.assert_array_equal(H[:, [0, 4]], 0)


def test_hilbert_matrix_is_solved_to_its_residual() -> None:
    # Condition beyond 1e18: loadings mean nothing, their residual does.
    i = np.arange(100)
    G = 1.0 / (i[:, None] + i + 1.0)
    R = np.random.default_rng(0).random((40, 100)) @ G
    for seed in (None, np.ones(R.shape)):
        H, _, residual = solve(G, R, seed)
        assert residual.max() <= TOL
        assert np.isfinite(H).all()


def test_an_indefinite_matrix_ends_finite_and_says_so() -> None:
    # Two factors more than parallel: what rounding to float32 may leave behind.
    G = np.array([[1.0, 1.0 + 1e-6], [1.0 + 1e-6, 1.0]])
    R = np.array([[1.0, 1.0], [1.0, 2.0], [-1.0, -2.0]])
    H, _, residual = solve(G, R, np.ones(R.shape))
    assert np.isfinite(H).all()
    np.testing.assert_allclose(residual, reference.kkt_residual(G, R, H), rtol=0, atol=1e-14)


def test_products_that_are_not_positive_load_exactly_zero() -> None:
    G, R = draw_system(8, 30, 10)
    R = -np.abs(R)
    R[4] = 0
    for seed in (None, np.ones(R.shape)):
        H, n_pivots, residual = solve(G, R, seed)
        assert (H == 0).all()
        assert (residual == 0).all()
        assert (n_pivots == (0 if seed is None else n_pivots)).all()


def test_without_any_factor_that_explains_all_loadings_are_zero() -> None:
    H, _, residual = solve(np.zeros((5, 5)), np.ones((9, 5)), np.ones((9, 5)))
    assert (H == 0).all()
    assert (residual == 0).all()


def test_no_cells_are_no_error() -> None:
    assert solve(np.eye(3), np.empty((0, 3)))[0].shape == (0, 3)


def test_powers_of_four_in_g_change_no_bit() -> None:
    G, R = draw_system(9, 50, 15)
    H, _, residual = solve(G, R)
    scaled, _, same = solve(G * 4.0**20, R * 2.0**-15)
    np.testing.assert_array_equal(scaled, H * 2.0**-55)
    np.testing.assert_array_equal(same, residual)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 40),
    k=st.integers(1, 33),
    scale_g=st.floats(-12, 12),
    scale_r=st.floats(-12, 12),
    spread=st.integers(0, 6),
)
@settings(max_examples=60, deadline=None)
def test_any_shape_and_scale_is_solved(
    seed: int, n: int, k: int, scale_g: float, scale_r: float, spread: int
) -> None:
    G, R = draw_system(seed, n, k)
    factors = 10.0 ** np.random.default_rng(seed).uniform(-spread, spread, k)
    plain, _, _ = solve(G, R)
    H, _, residual = solve(
        G * factors[:, None] * factors * 10.0**scale_g, R * factors * 10.0**scale_r
    )
    back = H * factors * 10.0 ** (scale_g - scale_r)
    # Scaling rounds G by 1e-16, which the condition of G, under 1e4, multiplies.
    assert np.abs(back - plain).max() <= RELATIVE * plain.max()
    assert residual.max() <= TOL


@given(seed=st.integers(0, 10_000), k=st.integers(1, 24), m=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_any_rank_and_sign_is_solved(seed: int, k: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((k, m)) * (rng.random((k, m)) < 0.7)
    G, R = L @ L.T, rng.standard_normal((12, m)) @ L.T
    H, _, residual = solve(G, R, (rng.random(R.shape) < 0.5).astype(float))
    assert np.isfinite(H).all()
    assert H.min() >= 0
    assert residual.max() <= TOL


@pytest.mark.data
@pytest.mark.parametrize("name", ["kang_pbmc_stim", "baron_mouse_pancreas"])
def test_real_metagenes_are_solved(shared_data: Path, name: str) -> None:
    counts = anndata.read_h5ad(shared_data / f"{name}.h5ad")[:1500].X
    x = np.asarray(counts.toarray(), np.float64)
    x = x[:, np.argsort(-x.var(axis=0), kind="stable")[:500]]
    x /= np.sqrt((x**2).mean(axis=0))
    model = NMF(20, init="random", max_iter=15, tol=0.0, random_state=0)
    W = model.fit(x).components_
    V = 0.2 * np.random.default_rng(0).random(W.shape) * W
    G, R = W @ W.T + 5.0 * V @ V.T, x @ W.T
    expected = by_scipy(G, R[:200])
    for seed in (None, reference.nnls(G, R, tol=1e-3)):
        H, n_pivots, residual = solve(G, R, seed)
        assert residual.max() <= TOL
        assert reference.kkt_residual(G, R, H).max() <= TOL
        assert np.abs(H[:200] - expected).max() <= RELATIVE * expected.max()
        assert n_pivots.mean() <= 6
