"""Rounding, range and refusals at the edges of what the kernels take."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from problems import draw_problem, draw_system
from scipy.sparse import csr_array

from tigon import kernels
from tigon.kernels import NotConvergedWarning, nnls, reference, spmm
from tigon.kernels.cells import as_tile
from tigon.kernels.checking import check_gram
from tigon.kernels.cpu.genes import hals
from tigon.kernels.cpu.metagenes import Tabulation
from tigon.kernels.cpu.step import minibatch_step
from tigon.kernels.cpu.sweep import SolverGram
from tigon.kernels.tile import CellTile

MODES = ("fast", "tight", "exact")


@pytest.mark.parametrize(("mode", "tol"), [("fast", 1e-3), ("fast", 1e-5), ("tight", 1e-12)])
def test_a_start_far_out_never_counts_as_converged_by_stagnation(mode: str, tol: float) -> None:
    # h + step * gradient rounds to h: nothing moves, so the bound is zero, and the gradient is not.
    for seed in range(1, 60, 2):
        rng = np.random.default_rng(seed)
        k, m = int(rng.integers(2, 25)), 0
        m = int(rng.integers(1, 2 * k))
        L = rng.standard_normal((k, m))
        L = np.vstack([L, -L[:1] + 10.0 ** -rng.integers(2, 6) * rng.standard_normal((1, m))])
        G, R = L @ L.T, rng.standard_normal((20, m)) @ L.T
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotConvergedWarning)
            H, info = nnls(G, R, rng.random(R.shape) * 1e6, mode=mode, tol=tol)
        left = reference.kkt_residual(G, R, H.astype(float))
        assert (left[info.converged] <= tol).all(), left[info.converged].max()


def test_rounding_of_g_is_part_of_what_is_left() -> None:
    # H0 solves G as float32 holds it; for the G that was given it is 1.4e-3 off.
    G = np.array([[1.0, -1.0 + 1e-5], [-1.0 + 1e-5, 1.0]])
    R = np.ones((1, 2))
    H0 = np.linalg.solve(G.astype("f4").astype(float), R[0])[None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        H, info = nnls(G, R, H0)
    assert not info.converged[0] or reference.kkt_residual(G, R, H.astype(float))[0] <= 1e-3


@pytest.mark.parametrize("factor", [1e-20, 1e-22])
def test_a_factor_that_has_all_but_died_spoils_no_other(factor: float) -> None:
    # G_jj is positive in float32 and one over it is infinite.
    G, R = draw_system(0, 20, 6)
    d = np.ones(6)
    d[2] = factor
    H, info = nnls(G * d * d[:, None], R * d)
    assert np.isfinite(H).all()
    assert info.converged.all()


def test_a_metagene_that_has_all_but_died_spoils_no_step() -> None:
    p = draw_problem(1, n=100, k=7)
    W, V = p.W.astype("f4"), p.V.astype("f4")
    W[2] *= np.float32(1e-22)
    V[2] *= np.float32(1e-22)
    table = Tabulation(W, V, p.lam, p.metagenes.scale, np.ones(80, bool)).whole()
    H, found = minibatch_step(p.tile, table, 1e-3)
    assert np.isfinite(H).all() or found.n_unfinished > 0
    assert np.isfinite(H).all()


def test_a_cell_that_overflows_spoils_no_other_and_is_not_converged() -> None:
    p = draw_problem(1, n=100, k=7)
    t = p.tile
    counts = t.counts.astype(np.float32)
    cell = int(np.flatnonzero(np.diff(t.indptr))[0])
    counts[t.indptr[cell]] = 3e38
    scale = p.metagenes.scale * 1e3
    table = Tabulation(p.W.astype("f4"), p.V.astype("f4"), p.lam, scale, np.ones(80, bool)).whole()
    whole, _ = minibatch_step(t, table, 1e-3)
    weights = np.ones_like(t.weights)
    spoilt = CellTile(
        t.rows, t.indptr, t.genes, counts, np.where(t.rows == cell, weights, t.weights)
    )
    H, found = minibatch_step(spoilt, table, 1e-3)
    others = np.arange(100) != cell
    np.testing.assert_array_equal(H[others], whole[others])
    assert found.n_unfinished == 1


def test_hals_survives_a_factor_hardly_used() -> None:
    rng = np.random.default_rng(0)
    H = rng.random((50, 6))
    H[:, 2] *= 1e-20
    S, T = SolverGram.of((H.T @ H).astype("f4")), H.T @ rng.random((50, 31))
    F = rng.random((6, 31), np.float32)
    others = [0, 1, 3, 4, 5]
    expected = reference.hals(F[others].astype(float), T[others], (H.T @ H)[others][:, others])
    before = F[2].copy()
    hals(F, T, *S.arrays, 1, 0, 31)
    np.testing.assert_allclose(F[others], expected, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(F[2], before)


@pytest.mark.parametrize("mode", ["fast", "tight"])
def test_a_factor_that_explains_nothing_loads_zero_whatever_the_start(mode: str) -> None:
    G, R = draw_system(9, 40, 6)
    G[2], G[:, 2], R[:, 2] = 0, 0, 0
    H, _ = nnls(G, R, np.ones(R.shape), mode=mode)
    assert (H[:, 2] == 0).all()


@pytest.mark.parametrize("scale", [1e-50, 1e40, 1e300])
def test_fast_mode_says_what_float32_cannot_hold(scale: float) -> None:
    G, R = draw_system(0, 20, 6)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotConvergedWarning)
        try:
            H, info = nnls(G, R * scale)
        except ValueError:
            return
    left = reference.kkt_residual(G, R * scale, H.astype(float))
    assert (left[info.converged] <= 1e-3).all()


def test_finite_float32_entries_with_an_infinite_sum_are_taken() -> None:
    G, _ = draw_system(0, 20, 6)
    nnls(G, np.full((4, 6), 3e38, np.float32))


def test_two_infinities_are_refused_by_name() -> None:
    G, R = draw_system(0, 20, 6)
    R[0, 0], R[1, 1] = np.inf, -np.inf
    with pytest.raises(ValueError, match="R has 2 entries that are not finite"):
        nnls(G, R)


def test_gram_matrices_of_long_doubles_are_taken() -> None:
    L = np.random.default_rng(0).gamma(0.5, 1, (5, 1)).astype(np.longdouble)
    check_gram(L @ L.T)  # eps of the long double, arithmetic of the double


@pytest.mark.parametrize("arrays", [(np.eye(2), None), (None, None)])
def test_no_array_is_refused(arrays: tuple) -> None:
    with pytest.raises(TypeError, match="neither a NumPy nor a CuPy"):
        nnls(*arrays)


@pytest.mark.parametrize("mode", MODES)
def test_masked_products_are_not_read_through_their_mask(mode: str) -> None:
    G, R = draw_system(0, 20, 6)
    with pytest.raises(TypeError):
        nnls(G, np.ma.array(R, mask=R > 5), mode=mode)


def test_exact_mode_does_not_advise_exact_mode() -> None:
    G = np.array([[1.0, -1.0 - 1e-6], [-1.0 - 1e-6, 1.0]], np.float32)
    with pytest.warns(NotConvergedWarning) as told:
        nnls(G, np.ones((1, 2)), mode="exact")
    assert "mode='exact' solves any G" not in str(told[0].message)


@pytest.mark.data
def test_many_epochs_do_not_ruin_the_fit(shared_data) -> None:
    # Left alone W grows and H shrinks from step to step, until float32 overflows.
    import anndata

    import tigon

    adata = anndata.read_h5ad(shared_data / "kang_pbmc_stim.h5ad")
    found = []
    for n_epochs in (30, 200):
        model = tigon.OnlineINMF(20, n_genes=1000, n_epochs=n_epochs, minibatch_size=100)
        found.append(model.fit(adata, batch_key="batch"))
    assert found[1].W_.any()
    assert found[1].objective_ <= 1.005 * found[0].objective_
    assert found[1].W_.max() <= 1e3 * found[0].W_.max()


@pytest.mark.parametrize(
    ("run", "what"),
    [
        (
            lambda: kernels.gram(np.full((2, 3), 1e200)),
            "the Gram matrix leaves the range of float64",
        ),
        (
            lambda: kernels.hals(np.zeros((1, 3)), np.full((1, 3), 1e30), np.full((1, 1), 1e-20)),
            "the factor leaves the range of float32",
        ),
        (
            lambda: spmm(csr_array(np.ones((2, 3))), np.full((3, 1), 3e38, np.float32)),
            "X D leaves the range of float32",
        ),
        (
            lambda: spmm(csr_array(np.full((2, 3), 1e200)), np.full((2, 1), 1e200), transpose=True),
            "X.T D leaves the range of float64",
        ),
    ],
)
def test_results_beyond_their_type_are_refused(run, what: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=what):
        run()


def test_positions_of_scipy_are_read_where_they_lie() -> None:
    X = csr_array(np.eye(3))
    tile, _ = as_tile(X, None)
    assert np.shares_memory(tile.genes, X.indices)
    X.indices.flags.writeable = False
    np.testing.assert_array_equal(spmm(X, np.eye(3)), np.eye(3))
