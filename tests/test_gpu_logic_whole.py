"""The functions that CuPy arrays are given to, run on the processor; see test_gpu_logic.py."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
from cuda_emulation.drawing import draw_problem
from cuda_emulation.loading import require_compiler, stand_in_for_cupy
from cuda_emulation.stand_in import StandIn

from tigon.kernels import CellTile, reference
from tigon.kernels.gpu import whole

EPS32 = np.finfo(np.float32).eps


@pytest.fixture(scope="module")
def cupy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    require_compiler()
    with (
        stand_in_for_cupy(tmp_path_factory.mktemp("kernels")) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setitem(sys.modules, "cupyx.scipy", scipy)
        patch.setitem(sys.modules, "cupyx.scipy.sparse", scipy.sparse)
        yield found


@pytest.fixture
def tile() -> CellTile:
    """Some cells of a block, in no order, as a user's arrays may be: with gaps, in float64."""
    tile = draw_problem(1, n=90, m=40).tile
    rows = np.array([80, 3, 5, 5, 20, 61, 60])
    counts = np.repeat(tile.counts.astype(float), 2)[::2]
    return replace(tile, rows=rows, counts=counts)


def dense(tile: CellTile) -> np.ndarray:
    arrays = tile.counts, tile.genes.astype(np.int32), tile.indptr
    counts = scipy.sparse.csr_array(arrays, (len(tile.weights), 40)).toarray()
    return (counts * tile.weights[:, None].astype(float))[tile.rows]


def test_gram_of_either_precision(cupy: StandIn) -> None:
    rng = np.random.default_rng(0)
    L, V = rng.random((2, 5, 70), np.float32)
    exact = reference.gram(L.astype(float), V.astype(float), 3.0)
    np.testing.assert_allclose(whole.gram(L, V, 3.0, None), exact, rtol=1e-14)
    np.testing.assert_allclose(whole.gram(L, None, 0.0, None), L @ L.T.astype(float), rtol=1e-14)
    wide = 1.0 + 1e-9 * rng.random((5, 70))
    exact = reference.gram(wide, V.astype(float), 3.0)
    np.testing.assert_allclose(whole.gram(wide, V, 3.0, None), exact, rtol=1e-14)


def test_hals_does_not_write_what_it_is_given(cupy: StandIn) -> None:
    rng = np.random.default_rng(1)
    F, T, H = rng.random((5, 33)), rng.random((5, 33)), rng.random((9, 5))
    found = whole.hals(F, T, H.T @ H, 2, None)
    expected = reference.hals(F, T, H.T @ H, 2)
    # F is rounded on the way in, between sweeps and at the end.
    np.testing.assert_allclose(found, expected, rtol=0, atol=40 * EPS32 * expected.max())
    assert found is not F


def test_products_both_ways(cupy: StandIn, tile: CellTile) -> None:
    X, rng = dense(tile), np.random.default_rng(2)
    D, E = rng.random((40, 3)), rng.random((7, 3))
    np.testing.assert_allclose(whole.spmm(tile, D, None), X @ D, rtol=40 * EPS32)
    found = whole.spmm_transposed(tile, E, 40, None)
    np.testing.assert_allclose(found, X.T @ E, rtol=10 * EPS32)


def test_a_step_agrees_with_the_specification(cupy: StandIn) -> None:
    p = draw_problem(3, n=60, m=40, k=5)
    tile = replace(p.tile, counts=p.tile.counts.astype(float))
    H, found = whole.minibatch_step(tile, p.metagenes, 1e-3, None, None)
    A, B = reference.statistics(p.X, np.asarray(H, float))
    np.testing.assert_allclose(found.A, A, rtol=1e-13)
    np.testing.assert_allclose(found.B, B.T, rtol=1e-5)
    assert found.n_unfinished == 0


@pytest.mark.parametrize("log1p", [False, True])
def test_sketches_agree_with_the_specification(
    cupy: StandIn, tile: CellTile, *, log1p: bool
) -> None:
    rng = np.random.default_rng(4)
    row_scale, scale = rng.uniform(1, 100, 7), rng.uniform(-2, 2, 40)
    Y = reference.transformed(scipy.sparse.csr_array(dense(tile)), row_scale, scale, log1p=log1p)
    weights = tile.weights[tile.rows].astype(float)
    transform = whole.Transform(row_scale * weights, scale, log1p)
    Q = rng.normal(size=(40, 6))
    Z, sums, squares = whole.sketch(tile, Q, transform, None)
    # Entries of Y, and Y Q, are float32; a cell has about eight entries.
    bound = 20 * EPS32 * reference.sketch(abs(Y), abs(Q))
    assert (abs(Z - reference.sketch(Y, Q)) <= bound).all()
    np.testing.assert_allclose(sums, Y.sum(axis=0), rtol=10 * EPS32)
    np.testing.assert_allclose(squares, (Y**2).sum(axis=0), rtol=10 * EPS32)
    G, *same = whole.sparse_gram(tile, transform, None)
    assert (abs(G - Y.T @ Y) <= 10 * EPS32 * (abs(Y).T @ abs(Y))).all()
    np.testing.assert_array_equal(same, [sums, squares])


@pytest.mark.parametrize("split", [False, True])
def test_entries_of_one_gene_are_one_before_the_logarithm(cupy: StandIn, *, split: bool) -> None:
    tile = draw_problem(5, n=30, m=40).tile
    if split:
        times = np.full(len(tile.genes), 2)
        tile = replace(
            tile,
            indptr=2 * tile.indptr,
            genes=np.repeat(tile.genes, times),
            counts=np.repeat(tile.counts / 2, times).astype(np.float32),
        )
    ones = np.ones(40)
    transform = whole.Transform(tile.weights.astype(float) * 1e4, ones, log1p=True)
    X = scipy.sparse.csr_array(dense(tile))
    Y = reference.transformed(X, 1e4, log1p=True)
    G, _, _ = whole.sparse_gram(tile, transform, None)
    np.testing.assert_allclose(G, Y.T @ Y, rtol=10 * EPS32, atol=1e-300)


def test_limits_are_told_before_any_launch(cupy: StandIn, tile: CellTile) -> None:
    before = cupy.n_launches
    wide, k = np.ones((40, 257)), 129
    with pytest.raises(ValueError, match=r"too many columns for the GPU .257.: at most 256"):
        whole.spmm(tile, wide, None)
    with pytest.raises(ValueError, match="too many columns"):
        whole.spmm_transposed(tile, wide, 40, None)
    with pytest.raises(ValueError, match="too many columns"):
        whole.sketch(tile, wide, whole.Transform(np.ones(7), np.ones(40), log1p=False), None)
    with pytest.raises(ValueError, match=r"too many factors for the GPU .129.: at most 128"):
        whole.hals(np.ones((k, 3)), np.ones((k, 3)), np.eye(k), 1, None)
    assert cupy.n_launches == before
