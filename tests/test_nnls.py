"""Non-negative least squares through its public face: right, certified, always the same bits."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from problems import DEGENERATE, by_scipy, degenerate_factors, draw_system, objectives
from scipy.optimize import lsq_linear

from tigon.kernels import NotConvergedWarning, nnls, reference
from tigon.kernels.least_squares import TOLERANCES, LeastSquaresInfo, Mode

Array = np.ndarray

MODES = ("fast", "tight", "exact")

RELATIVE = 1e-10
"""SciPy and exact mode lose k * 2.2e-16 times the condition of G, here under 1e4, each."""


def residual(G: Array, R: Array, H: Array) -> Array:
    """KKT residual from G and R as they were given, in float64."""
    return reference.kkt_residual(G.astype(float), R.astype(float), H.astype(float))


def assert_same(found: tuple[Array, LeastSquaresInfo], H: Array, info: LeastSquaresInfo) -> None:
    np.testing.assert_array_equal(found[0], H)
    np.testing.assert_array_equal(found[1].sweeps, info.sweeps)
    np.testing.assert_array_equal(found[1].kkt_residual, info.kkt_residual)
    np.testing.assert_array_equal(found[1].converged, info.converged)


@pytest.mark.parametrize("k", [1, 2, 20, 40, 100, 128])
def test_loadings_agree_with_scipy(k: int) -> None:
    G, R = draw_system(k, 60 if k < 100 else 24, k)
    expected = by_scipy(G, R)
    for mode in MODES:
        H, info = nnls(G, R, mode=mode)
        assert info.converged.all()
        assert residual(G, R, H).max() <= TOLERANCES[mode]
        assert H.min() >= 0
        assert H.dtype == (np.float32 if mode == "fast" else np.float64)
        off = np.abs(H - expected).max() / expected.max()
        if mode == "tight":
            # On the right passive set G_pp (h - h*) is the gradient, at most 1e-6 |r|: h is
            # off by up to 1e-6 times the condition of G, 1 to 133 here, and seldom by that.
            assert off <= min(1e-5, 1e-6 * np.linalg.cond(G))
        elif mode == "exact":
            assert off <= RELATIVE
            np.testing.assert_array_equal(H > 0, expected > 0)


def test_loadings_agree_with_bounded_least_squares() -> None:
    G, R = draw_system(7, 10, 8)
    U = np.linalg.cholesky(G).T
    options = dict(method="bvls", tol=1e-14)
    expected = np.array(
        [lsq_linear(U, np.linalg.solve(U.T, r), (0, np.inf), **options).x for r in R]
    )
    assert np.abs(nnls(G, R, mode="exact")[0] - expected).max() <= RELATIVE * expected.max()


@pytest.mark.parametrize("kind", DEGENERATE)
@pytest.mark.parametrize("k", [8, 40])
def test_degenerate_factors_reach_the_optimum(kind: str, k: int) -> None:
    L = degenerate_factors(kind, k)
    rng = np.random.default_rng(11)
    G, R = L @ L.T, rng.gamma(0.5, 1.0, (40, L.shape[1])) @ L.T
    best, info = nnls(G, R, mode="exact")
    assert info.converged.all()
    assert residual(G, R, best).max() <= 1e-10
    for mode in ("fast", "tight"):
        with warnings.catch_warnings():
            # More factors than genes: descent may be too slow for a cell, and says so.
            if "wide" in kind:
                warnings.simplefilter("ignore", NotConvergedWarning)
            H, info = nnls(G, R, mode=mode)
        assert info.converged.all() if "wide" not in kind else info.converged.mean() >= 0.6
        assert np.isfinite(H).all()
        left = residual(G, R, H)
        assert left[info.converged].max() <= TOLERANCES[mode]
        # f(h) - f(h*) <= gradient . (h - h*): each entry of the gradient that lowers it is
        # at most the residual times |r|; where h_j is too small to leave, likewise.
        slack = left * np.abs(R).max(axis=1) * (H + best).sum(axis=1)
        excess = objectives(G, R, H) - objectives(G, R, best)
        assert (excess <= slack + 1e-12 * np.abs(objectives(G, R, best))).all()
        if kind == "zero":
            np.testing.assert_array_equal(H[:, [0, 4]], 0)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("warm", [False, True])
def test_bits_depend_on_the_cell_alone(mode: Mode, warm: bool) -> None:
    G, R = draw_system(3, 1500, 20)  # three tiles
    rng = np.random.default_rng(4)
    R *= 10.0 ** rng.integers(-6, 7, (1500, 1))
    start = np.abs(R) * (rng.random(R.shape) < 0.5) / G.max() if warm else None
    H, info = nnls(G, R, start, mode=mode, n_threads=1)
    assert info.converged.all()
    for n_threads in (2, 4, None):
        assert_same(nnls(G, R, start, mode=mode, n_threads=n_threads), H, info)
    for rows in (rng.permutation(1500), np.arange(700), np.array([1499]), np.arange(3, 1500, 7)):
        own = None if start is None else start[rows]
        cut = LeastSquaresInfo(info.sweeps[rows], info.kkt_residual[rows], info.converged[rows])
        assert_same(nnls(G, R[rows], own, mode=mode), H[rows], cut)


@pytest.mark.parametrize("mode", MODES)
def test_a_start_on_the_solution_takes_one_sweep(mode: Mode) -> None:
    G, R = draw_system(2, 300, 20)
    solution, _ = nnls(G, R, mode="exact")
    H, warm = nnls(G, R, solution, mode=mode)
    assert (warm.sweeps == 1).all()
    assert residual(G, R, H).max() <= TOLERANCES[mode]
    if mode != "exact":  # whose cold start is a descent in mode "fast", which is not counted
        assert nnls(G, R, mode=mode)[1].sweeps.mean() > 5


@pytest.mark.parametrize("mode", ["fast", "tight"])
def test_a_start_of_similar_factors_saves_sweeps(mode: Mode) -> None:
    rng = np.random.default_rng(5)
    L = rng.gamma(0.5, 1.0, (20, 220))
    X = rng.gamma(0.3, 1.0, (300, 220))
    before, _ = nnls(L @ L.T, X @ L.T, mode=mode)
    L *= rng.uniform(0.98, 1.02, L.shape)
    _, cold = nnls(L @ L.T, X @ L.T, mode=mode)
    H, warm = nnls(L @ L.T, X @ L.T, before, mode=mode)
    assert residual(L @ L.T, X @ L.T, H).max() <= TOLERANCES[mode]
    assert warm.sweeps.mean() <= 0.8 * cold.sweeps.mean()


@pytest.mark.parametrize("mode", MODES)
def test_zeros_to_start_from_are_a_cold_start(mode: Mode) -> None:
    G, R = draw_system(6, 50, 9)
    H, info = nnls(G, R, mode=mode)
    for zero in (0.0, -0.0):
        assert_same(nnls(G, R, np.full(R.shape, zero), mode=mode), H, info)
    assert not np.signbit(H).any()


@pytest.mark.parametrize("mode", MODES)
def test_a_start_far_out_comes_back(mode: Mode) -> None:
    G, R = draw_system(6, 50, 9)
    for far in (1e30, 1e300):  # the latter infinite in float32
        H, info = nnls(G, R, np.full(R.shape, far), mode=mode)
        assert info.converged.all()
        assert residual(G, R, H).max() <= TOLERANCES[mode]


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("sign", ["positive", "signed"])
def test_products_that_are_not_positive_load_exactly_zero(mode: Mode, sign: str) -> None:
    G, R = draw_system(8, 30, 10)
    if sign == "signed":
        L = np.random.default_rng(8).standard_normal((10, 6))
        G = L @ L.T
    R[::2] = -R[::2]
    R[4] = 0
    R[6, 1:] = 0
    for start in (None, np.ones(R.shape)):
        with_rest, info = nnls(G, R, start, mode=mode)
        assert (with_rest[::2] == 0).all()
        assert info.converged[::2].all()
        H, info = nnls(G, -np.abs(R), start, mode=mode)
        assert (H == 0).all()
        assert info.converged.all()


@pytest.mark.parametrize("mode", MODES)
def test_factors_that_explain_nothing_load_exactly_zero(mode: Mode) -> None:
    G, R = draw_system(9, 40, 6)
    G[2], G[:, 2], R[:, 2] = 0, 0, 0
    H, info = nnls(G, R, mode=mode)
    assert (H[:, 2] == 0).all()
    assert info.converged.all()
    without = [0, 1, 3, 4, 5]
    rest, _ = nnls(G[np.ix_(without, without)], R[:, without], mode=mode)
    # The same sums in other blocks of four.
    np.testing.assert_allclose(H[:, without], rest, rtol=0, atol=TOLERANCES[mode] * rest.max())


@given(
    seed=st.integers(0, 10_000),
    mode=st.sampled_from(MODES),
    n=st.integers(1, 60),
    k=st.integers(1, 33),
    density=st.floats(0.02, 1.0),
    scales=st.tuples(st.floats(-12, 12), st.floats(-12, 12)),
)
@example(seed=9531, mode="tight", n=13, k=5, density=0.1875, scales=(0.0, 0.0))
@settings(max_examples=150, deadline=None)
def test_any_shape_density_and_scale_is_solved(
    seed: int, mode: Mode, n: int, k: int, density: float, scales: tuple[float, float]
) -> None:
    rng = np.random.default_rng(seed)
    m = int(rng.integers(2 * k, 6 * k + 9))
    L = rng.gamma(0.5, 1.0, (k, m)) * (rng.random((k, m)) < density)
    X = rng.gamma(0.3, 1.0, (n, m)) * (rng.random((n, m)) < density)
    G, R = L @ L.T * 10.0 ** scales[0], X @ L.T * 10.0 ** scales[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        H, info = nnls(G, R, mode=mode)
    assert np.isfinite(H).all()
    assert H.min() >= 0
    # Coordinate descent may end early where factors nearly depend on each other, and says so.
    rows = L[L.any(axis=1)]
    sizes = np.linalg.svd(rows / np.linalg.norm(rows, axis=1, keepdims=True), compute_uv=False)
    nearly_dependent = sizes.min(initial=1) < 0.01 * sizes.max(initial=1)
    assert info.converged.all() or (mode != "exact" and nearly_dependent)
    assert residual(G, R, H)[info.converged].max(initial=0) <= TOLERANCES[mode]
    # What is told is no less than what is left, but for a few roundings of the size of R.
    rounding = 4 * k**0.5 * np.finfo(H.dtype).eps
    assert (residual(G, R, H) <= info.kkt_residual + rounding).all()
    assert (H[R.max(axis=1) <= 0] == 0).all()


@given(seed=st.integers(0, 10_000), k=st.integers(1, 24), m=st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_any_rank_and_sign_is_solved_or_told(seed: int, k: int, m: int) -> None:
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((k, m)) * (rng.random((k, m)) < 0.7)
    G, R = L @ L.T, rng.standard_normal((12, m)) @ L.T
    H, info = nnls(G, R, (rng.random(R.shape) < 0.5).astype(float), mode="exact")
    assert info.converged.all()
    assert residual(G, R, H).max() <= 2e-10
    for mode in ("fast", "tight"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConvergedWarning)
            H, info = nnls(G, R, mode=mode)
        assert np.isfinite(H).all()
        assert (residual(G, R, H)[info.converged] <= TOLERANCES[mode]).all()


@pytest.mark.parametrize(
    ("mode", "kind", "k"), [("fast", "signed and wide", 40), ("tight", "wide", 8)]
)
def test_cells_that_do_not_converge_are_told_once(mode: Mode, kind: str, k: int) -> None:
    L = degenerate_factors(kind, k)
    G, R = L @ L.T, np.random.default_rng(11).gamma(0.5, 1.0, (40, L.shape[1])) @ L.T
    with pytest.warns(NotConvergedWarning, match=r"of 40 cells .*: see info\.converged") as told:
        H, info = nnls(G, R, mode=mode)
    assert len(told) == 1
    assert told[0].filename == __file__
    assert 0 < info.converged.sum() < 40
    assert (residual(G, R, H)[info.converged] <= TOLERANCES[mode]).all()
    np.testing.assert_array_equal(info.converged, info.kkt_residual <= TOLERANCES[mode])
    assert (info.sweeps[~info.converged] == info.sweeps.max()).all()
    assert np.isfinite(H).all()


@pytest.mark.parametrize("mode", MODES)
def test_what_has_no_optimum_is_told(mode: Mode) -> None:
    # More than opposite, which rounding to float32 may leave behind: loadings of both
    # factors together lower the objective for ever.
    G = np.array([[1.0, -1.0 - 1e-6], [-1.0 - 1e-6, 1.0]], np.float32)
    R = np.array([[1.0, 1.0], [-1.0, -2.0]])
    with pytest.warns(NotConvergedWarning, match="^1 of 2 cells") as told:
        H, info = nnls(G, R, np.ones(R.shape), mode=mode)
    assert len(told) == 1
    assert info.converged.tolist() == [False, True]
    assert np.isfinite(H).all()
    assert (H[1] == 0).all()
