"""The Numba kernels against their NumPy specification, SciPy, and each other."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import draw_problem
from scipy import sparse
from scipy.optimize import nnls as scipy_nnls

from tigon.kernels import reference
from tigon.kernels.factors import add_product, gram, hals
from tigon.kernels.minibatch import MAX_SWEEPS, CellTile, loadings, minibatch_step
from tigon.kernels.moments import cell_sums, gene_sums
from tigon.kernels.nnls import nnls_into


def solve(G: np.ndarray, R: np.ndarray, tol: float) -> np.ndarray:
    H = np.full(R.shape, np.nan, np.float32)
    nnls_into(G.astype(np.float32), R.astype(np.float32), H, tol, MAX_SWEEPS)
    return H.astype(float)


@pytest.mark.parametrize("k", [1, 2, 5, 20, 40])
def test_loadings_agree_with_scipy(k: int) -> None:
    # Cholesky turns the Gram form into the form SciPy solves: |U h - U^-T r|.
    problem = draw_problem(k, n=150, m=120, k=k)
    G = reference.gram(problem.W + problem.V, problem.V, problem.lam)
    R = reference.products(problem.X, problem.W + problem.V)
    H, _, unfinished = loadings(problem.tile, problem.metagenes, 1e-6)
    U = np.linalg.cholesky(G).T
    exact = np.array([scipy_nnls(U, np.linalg.solve(U.T, r))[0] for r in R])
    assert unfinished == 0
    # float32 G and R: relative error of the solution is about eps times condition.
    tolerance = 20 * np.finfo(np.float32).eps * np.linalg.cond(G)
    assert np.abs(H - exact).max() <= tolerance * np.abs(exact).max()


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 300),
    k=st.integers(1, 33),
    tol=st.sampled_from([1e-2, 1e-3, 1e-4]),
)
@settings(max_examples=40, deadline=None)
def test_kkt_residual_meets_the_tolerance(seed: int, n: int, k: int, tol: float) -> None:
    rng = np.random.default_rng(seed)
    L = rng.gamma(0.5, 1.0, (k, 60))
    G = L @ L.T
    R = rng.gamma(0.5, 1.0, (n, 60)) @ L.T * 10.0 ** rng.integers(-4, 4)
    residual = reference.kkt_residual(G, R, solve(G, R, tol))
    # float32 G and R, and float32 sums of up to 33 terms.
    assert residual.max() <= tol + 4e-6


def test_a_cell_never_depends_on_its_neighbours() -> None:
    problem = draw_problem(1, n=400, k=20)
    together, _, _ = loadings(problem.tile, problem.metagenes, 1e-4)
    t = problem.tile
    for rows in (np.arange(5, 9), np.array([399]), np.arange(0, 400, 3)):
        alone = CellTile(rows, t.indptr, t.genes, t.counts, t.weights)
        H, _, _ = loadings(alone, problem.metagenes, 1e-4)
        np.testing.assert_array_equal(H, together[rows])


def test_degenerate_metagenes_are_solved() -> None:
    # Duplicate and zero factors: the solution is not unique, the optimum is.
    rng = np.random.default_rng(3)
    L = rng.gamma(0.5, 1.0, (6, 50))
    L[3], L[4] = L[1], 0.0
    G, R = L @ L.T, rng.gamma(0.5, 1.0, (90, 50)) @ L.T
    H = solve(G, R, 1e-6)
    assert np.isfinite(H).all()
    assert (H[:, 4] == 0).all()
    assert reference.kkt_residual(G, R, H).max() <= 5e-6


def test_cells_without_counts_and_negative_products_load_exactly_zero() -> None:
    problem = draw_problem(2)
    H, _, _ = loadings(problem.tile, problem.metagenes, 1e-3)
    empty = np.diff(problem.tile.indptr) == 0
    assert empty.any()
    assert (H[empty] == 0).all()
    assert (solve(np.eye(4), -np.ones((10, 4)), 1e-6) == 0).all()


@given(seed=st.integers(0, 10_000), n=st.integers(1, 150), m=st.integers(1, 90))
@settings(max_examples=25, deadline=None)
def test_a_step_agrees_with_the_specification(seed: int, n: int, m: int) -> None:
    p = draw_problem(seed, n=n, m=m, k=5)
    H, found = minibatch_step(p.tile, p.metagenes, 1e-4)
    exact = H.astype(float)
    A, B = reference.statistics(p.X, exact)
    np.testing.assert_allclose(found.A, A, rtol=1e-12, atol=0)
    np.testing.assert_allclose(found.B, B, rtol=1e-12, atol=1e-300)
    F = reference.objective(p.X, exact, p.W, p.V, p.lam)
    size = (p.X.toarray() ** 2).sum()
    assert abs(found.loss - F) <= 1e-6 * size + 1e-12
    assert found.n_cells == n


def test_statistics_of_two_tiles_add_up() -> None:
    p = draw_problem(4, n=100)
    t = p.tile
    _, whole = minibatch_step(t, p.metagenes, 1e-4)
    parts = [
        minibatch_step(CellTile(r, t.indptr, t.genes, t.counts, t.weights), p.metagenes, 1e-4)[1]
        for r in (np.arange(37), np.arange(37, 100))
    ]
    both = parts[0] + parts[1]
    np.testing.assert_allclose(both.A, whole.A, rtol=1e-12)
    np.testing.assert_allclose(both.B, whole.B, rtol=1e-12)
    assert both.n_cells == 100


@pytest.mark.parametrize("n_sweeps", [1, 3])
def test_hals_agrees_with_the_specification(n_sweeps: int) -> None:
    rng = np.random.default_rng(5)
    F = rng.random((6, 41), np.float32)
    H = rng.random((50, 6))
    S, T = H.T @ H, H.T @ rng.random((50, 41))
    S[2], S[:, 2] = 0.0, 0.0  # a factor that no cell has used stays as it is
    mine = F.copy()
    hals(mine, T, S, n_sweeps)
    expected = reference.hals(F.astype(float), T, S, n_sweeps)
    # Values are rounded to float32 after every row of every sweep.
    np.testing.assert_allclose(mine, expected, rtol=0, atol=20 * 6e-8 * expected.max())
    np.testing.assert_array_equal(mine[2], F[2])


def test_hals_never_raises_the_objective() -> None:
    rng = np.random.default_rng(6)
    H, X = rng.random((80, 7)), rng.random((80, 31))
    S, T, F = H.T @ H, H.T @ X, rng.random((7, 31), np.float32)
    objective = [((X - H @ F) ** 2).sum()]
    for _ in range(10):
        hals(F, T, S, 1)
        objective.append(((X - H @ F) ** 2).sum())
    assert (np.diff(objective) <= 1e-6 * objective[0]).all()


def test_gram_and_product_agree_with_the_specification() -> None:
    rng = np.random.default_rng(7)
    L, V = rng.random((2, 9, 103), np.float32)
    exact = reference.gram(L.astype(float), V.astype(float), 5.0)
    np.testing.assert_allclose(gram(L, V, 5.0), exact, rtol=1e-13)
    out, A = rng.random((9, 103)), rng.random((9, 9))
    expected = out - A @ L
    add_product(out, A, L, -1.0)
    np.testing.assert_allclose(out, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_moments_agree_with_numpy(dtype: type) -> None:
    p = draw_problem(8, n=120, m=40)
    arrays = (p.tile.indptr, p.tile.genes, p.tile.counts.astype(dtype))
    rng = np.random.default_rng(9)
    marked, codes = rng.random(40) < 0.2, rng.integers(-1, 3, 120)
    dense = sparse.csr_array((p.tile.counts, p.tile.genes, p.tile.indptr), (120, 40)).toarray()
    cells = cell_sums(*arrays, marked)
    np.testing.assert_array_equal(cells.totals, dense.sum(axis=1))
    np.testing.assert_array_equal(cells.n_genes, (dense > 0).sum(axis=1))
    np.testing.assert_array_equal(cells.marked, dense[:, marked].sum(axis=1))
    weights = rng.random(120)
    genes = gene_sums(*arrays, weights, codes, (3, 40))
    x = dense * weights[:, None]
    for d in range(3):
        np.testing.assert_allclose(genes.first[d], x[codes == d].sum(axis=0), rtol=1e-12)
        np.testing.assert_allclose(genes.second[d], (x[codes == d] ** 2).sum(axis=0), rtol=1e-12)
        np.testing.assert_array_equal(genes.n_nonzeros[d], (dense[codes == d] > 0).sum(axis=0))


def test_large_counts_do_not_overflow() -> None:
    # 16-bit counts multiplied as such would wrap around.
    arrays = (np.array([0, 2]), np.array([0, 1], np.uint16), np.array([60_000, 60_000], np.uint16))
    genes = gene_sums(*arrays, np.ones(1), np.zeros(1, np.int64), (1, 2))
    np.testing.assert_array_equal(genes.second, [[3.6e9, 3.6e9]])
    assert cell_sums(*arrays, np.zeros(2, bool)).totals[0] == 120_000
