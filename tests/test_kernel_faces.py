"""The public kernels on NumPy arrays: against their specification, and what they refuse."""

from __future__ import annotations

import doctest
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, draw_problem
from scipy import sparse

import tigon.kernels
from tigon.kernels import CellTile, Metagenes, gram, hals, minibatch_step, reference, spmm
from tigon.kernels.moments import cell_sums, gene_sums

FACTORS = [1, 3, 20, 100, 128]
EPS32, EPS64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps


def draw_counts(seed: int, n: int, m: int, density: float = 0.2) -> sparse.csr_array:
    """Integer counts, every seventh cell empty."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 50, (n, m)) * (rng.random((n, m)) < density)
    dense[::7] = 0
    return sparse.csr_array(dense)


def split_entries(X: sparse.csr_array, *, shuffled: bool) -> sparse.csr_array:
    """The same counts, each in two entries; of one cell in any order where ``shuffled``."""
    rng = np.random.default_rng(0)
    indices, half = np.repeat(X.indices, 2), np.repeat(X.data // 2, 2)
    half[::2] += X.data % 2
    indptr = 2 * X.indptr
    if shuffled:
        cells = np.repeat(np.arange(X.shape[0]), np.diff(indptr))
        order = np.lexsort((rng.random(len(cells)), cells))
        indices, half = indices[order], half[order]
    return sparse.csr_array((half, indices, indptr), X.shape)


def as_tile(X: sparse.csr_array) -> CellTile:
    n = X.shape[0]
    return CellTile(
        np.arange(n),
        X.indptr.astype(np.int64),
        X.indices.astype(np.uint16),
        X.data.astype(np.uint16),
        np.ones(n, np.float32),
    )


def metagenes_of(p: Problem) -> Metagenes:
    k = len(p.W)
    table = np.ascontiguousarray(p.metagenes.table[:, :k])
    return Metagenes(table, p.metagenes.gram.astype(np.float32), p.metagenes.scale)


def assert_threads_agree(run: Callable[[int], tuple[Any, ...]]) -> None:
    alone = run(1)
    for n_threads in (2, 4):
        for one, other in zip(alone, run(n_threads), strict=True):
            np.testing.assert_array_equal(one, other)


# Gram matrices


@pytest.mark.parametrize("k", FACTORS)
@pytest.mark.parametrize("m", [1, 37, 1029])
def test_gram_agrees_with_the_specification(k: int, m: int) -> None:
    rng = np.random.default_rng(k + m)
    L, V = rng.random((2, k, m), np.float32)
    exact = reference.gram(L.astype(float), V.astype(float), 5.0)
    # Float64 sums of m positive terms, in either order.
    np.testing.assert_allclose(gram(L, V, 5.0), exact, rtol=2 * m * EPS64 + 4 * EPS64)
    np.testing.assert_allclose(gram(L), L.astype(float) @ L.T.astype(float), rtol=2 * m * EPS64)


def test_gram_reads_float64_as_it_is() -> None:
    rng = np.random.default_rng(1)
    L = 1.0 + 1e-9 * rng.random((5, 70))
    V = rng.random((5, 70), np.float32)
    exact = reference.gram(L, V.astype(float), 2.0)
    np.testing.assert_allclose(gram(L, V, 2.0), exact, rtol=200 * EPS64)
    # All of float32 gives one number here.
    assert len(np.unique(L.astype(np.float32))) == 1
    assert (gram(L) != gram(L.astype(np.float32))).any()


def test_gram_reads_any_layout_and_integers() -> None:
    rng = np.random.default_rng(2)
    L = rng.integers(-5, 9, (6, 90))
    expected = (L @ L.T).astype(float)
    for same in (L, np.asfortranarray(L.astype(np.float32)), np.repeat(L, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(gram(same), expected)


def test_gram_has_the_same_bits_for_any_threads_and_is_symmetric() -> None:
    L = np.random.default_rng(3).random((19, 5000), np.float32)
    assert_threads_agree(lambda n: (gram(L, L, 0.3, n_threads=n),))
    G = gram(L)
    np.testing.assert_array_equal(G, G.T)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((0, 5)),), ValueError, r"L has shape \(0, 5\): at least one factor"),
        ((np.zeros(5),), ValueError, r"L has shape \(5,\)"),
        ((np.zeros((2, 3)), np.zeros((2, 4)), 1.0), ValueError, r"V has shape \(2, 4\): \(2, 3\)"),
        ((np.full((2, 3), np.nan),), ValueError, "L has 6 entries that are not finite"),
        ((np.array([[np.inf, -np.inf]]),), ValueError, "L has 2 entries that are not finite"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), -1.0), ValueError, "lam is -1.0"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), np.nan), ValueError, "lam is nan"),
        ((np.zeros((2, 3)), None, 5.0), ValueError, "lam is 5.0 and there is no V"),
        ((np.zeros((2, 3), complex),), TypeError, "L has dtype complex128"),
        (([[1.0]],), TypeError, "builtins.list is neither a NumPy nor a CuPy array"),
        ((np.zeros((2, 3)), None, 0.0, 0), ValueError, "n_threads is 0"),
    ],
)
def test_gram_refuses(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gram(*arguments)


# HALS


def draw_factor(seed: int, k: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F, T and S of cells that use every factor but the second."""
    rng = np.random.default_rng(seed)
    H = rng.random((3 * k + 5, k)) * (np.arange(k) != 1)
    X = rng.random((len(H), m))
    return rng.random((k, m), np.float32), H.T @ X, H.T @ H


@pytest.mark.parametrize("k", FACTORS)
@pytest.mark.parametrize("n_sweeps", [1, 3])
def test_hals_agrees_with_the_specification(k: int, n_sweeps: int) -> None:
    F, T, S = draw_factor(k, k, 53)
    before = F.copy()
    found = hals(F, T, S, n_sweeps)
    expected = reference.hals(F.astype(float), T, S, n_sweeps)
    # A row is a difference of sums of k float32 terms, each about as large as the row, and
    # is carried into the rows after it.
    tolerance = 4 * k * n_sweeps * EPS32 * expected.max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(F, before)
    assert found.dtype == np.float32
    if k > 1:
        np.testing.assert_array_equal(found[1], F[1])


def test_hals_never_raises_the_objective() -> None:
    F, T, S = draw_factor(1, 7, 31)
    value = [np.sum(F * (S @ F)) - 2 * np.sum(F * T)]
    for _ in range(10):
        F = hals(F, T, S)
        value.append(np.sum(F * (S @ F)) - 2 * np.sum(F * T))
    assert (np.diff(value) <= 10 * EPS32 * abs(value[0])).all()
    assert value[-1] < value[0]


def test_hals_has_the_same_bits_for_any_threads_layout_and_neighbours() -> None:
    F, T, S = draw_factor(2, 11, 2500)
    assert_threads_agree(lambda n: (hals(F, T, S, 2, n),))
    whole = hals(F, T, S, 2)
    np.testing.assert_array_equal(hals(np.asfortranarray(F), np.asfortranarray(T), S, 2), whole)
    for genes in (slice(3, 4), slice(1000, 1031), slice(0, None, 7)):
        np.testing.assert_array_equal(hals(F[:, genes], T[:, genes], S, 2), whole[:, genes])


@pytest.mark.parametrize("exponent", [-200, -30, 60, 300])
def test_hals_does_not_depend_on_the_unit_of_cells(exponent: int) -> None:
    # Beyond what float32 holds.
    F, T, S = draw_factor(3, 6, 40)
    scale = 2.0**exponent
    np.testing.assert_array_equal(hals(F, T * scale, S * scale), hals(F, T, S))


def test_hals_without_cells_changes_nothing() -> None:
    F = np.random.default_rng(4).random((3, 20), np.float32)
    np.testing.assert_array_equal(hals(F, np.zeros((3, 20)), np.zeros((3, 3))), F)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": -np.ones((2, 3))}, "factor has negative entries .lowest: -1.: zero or above"),
        ({"factor": np.ones((3, 3))}, r"factor has shape \(3, 3\): \(2, any\)"),
        ({"factor": np.full((2, 3), np.inf)}, "factor has 6 entries that are not finite"),
        ({"target": np.ones((2, 4))}, r"target has shape \(2, 4\): \(2, 3\)"),
        ({"target": np.full((2, 3), np.nan)}, "target has 6 entries that are not finite"),
        ({"gram": np.diag([1.0, -1.0])}, "gram is not positive semi-definite"),
        ({"gram": np.array([[1.0, 0.5], [0.1, 1.0]])}, "gram is not symmetric"),
        ({"gram": np.ones((2, 3))}, "gram has shape"),
        ({"gram": np.ones((0, 0))}, "at least one factor"),
        ({"n_sweeps": 0}, "n_sweeps is 0: at least 1 sweep"),
        ({"n_threads": -1}, "n_threads is -1"),
    ],
)
def test_hals_refuses(change: dict[str, Any], message: str) -> None:
    good = {"factor": np.ones((2, 3)), "target": np.ones((2, 3)), "gram": np.eye(2)}
    with pytest.raises(ValueError, match=message):
        hals(**(good | change))


# Sparse products


def assert_products_agree(X: Any, dense: np.ndarray, l: int) -> None:  # noqa: E741
    rng = np.random.default_rng(l)
    D = rng.normal(size=(dense.shape[1], l))
    found = spmm(X, D)
    assert found.dtype == np.float32
    # D is rounded, and float32 sums of as many terms as a cell has entries.
    n_entries = (dense != 0).sum(axis=1, keepdims=True)
    bound = (2 * n_entries + 4) * EPS32 * (abs(dense) @ abs(D))
    assert (abs(found - dense @ D) <= bound).all()
    D = rng.normal(size=(dense.shape[0], l))
    found = spmm(X, D, transpose=True)
    assert found.dtype == np.float64
    bound = 4 * (len(dense) + 4) * EPS64 * (abs(dense).T @ abs(D))
    assert (abs(found - dense.T @ D) <= bound).all()


@pytest.mark.parametrize("l", FACTORS)
def test_sparse_products_equal_dense_ones(l: int) -> None:  # noqa: E741
    X = draw_counts(l, 150, 83)
    assert_products_agree(X, X.toarray().astype(float), l)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 60),
    m=st.integers(1, 70),
    density=st.floats(0, 1),
    n_columns=st.integers(1, 25),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_and_density(seed: int, n: int, m: int, density: float, n_columns: int) -> None:
    X = draw_counts(seed, n, m, density)
    assert_products_agree(X, X.toarray().astype(float), n_columns)


@pytest.mark.parametrize("kind", [bool, "i1", "u1", "i4", "i8", "u2", "u4", "f4", "f8"])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_counts_and_positions_of_any_type(kind: Any, index: type) -> None:
    X = draw_counts(1, 40, 30)
    X.data = X.data.astype(kind)
    X.indices, X.indptr = X.indices.astype(index), X.indptr.astype(index)
    for same in (X, sparse.csr_matrix(X)):
        assert_products_agree(same, X.toarray().astype(float), 5)


@pytest.mark.parametrize("shuffled", [False, True])
def test_entries_of_one_gene_add_up(shuffled: bool) -> None:
    X = draw_counts(2, 60, 40)
    split = split_entries(X, shuffled=shuffled)
    assert_products_agree(split, X.toarray().astype(float), 7)


def test_large_counts_are_exact_in_float64_sums() -> None:
    X = sparse.csr_array(np.array([[2**24 + 1, 0], [2**40 + 1, 3]]))
    found = spmm(X, np.ones((2, 1)), transpose=True)
    np.testing.assert_array_equal(found, [[2**24 + 2**40 + 2], [3]])


def test_a_tile_is_its_weighted_rows() -> None:
    p = draw_problem(3, n=200, m=50)
    rows = np.array([7, 150, 8, 8, 199])
    tile = replace(p.tile, rows=rows)
    counts = sparse.csr_array((p.tile.counts, p.tile.genes.astype(np.int32), p.tile.indptr))
    dense = (counts.toarray() * p.tile.weights[:, None].astype(float))[rows]
    rng = np.random.default_rng(0)
    D, E = rng.random((50, 6)), rng.random((5, 6))
    np.testing.assert_allclose(spmm(tile, D), dense @ D, rtol=60 * EPS32)
    found = spmm(tile, E, transpose=True, n_genes=50)
    np.testing.assert_allclose(found, dense.T @ E, rtol=20 * EPS64)


def test_products_have_the_same_bits_for_any_threads_and_neighbours() -> None:
    X = draw_counts(4, 6000, 60)
    D, E = np.random.default_rng(5).random((60, 21)), np.random.default_rng(6).random((6000, 21))
    assert_threads_agree(lambda n: (spmm(X, D, n_threads=n),))
    assert_threads_agree(lambda n: (spmm(X, E, transpose=True, n_threads=n),))
    np.testing.assert_array_equal(spmm(X[1234:1301], D), spmm(X, D)[1234:1301])


def test_products_do_not_change_what_they_are_given() -> None:
    X = split_entries(draw_counts(7, 20, 10), shuffled=True)
    before = X.data.copy(), X.indices.copy(), X.indptr.copy()
    spmm(X, np.ones((10, 2)))
    for one, other in zip(before, (X.data, X.indices, X.indptr), strict=True):
        np.testing.assert_array_equal(one, other)


X = sparse.csr_array(np.array([[3.0, 0, 1], [0, 2, 0]]))


def broken(**arrays: Any) -> sparse.csr_array:
    """X with other arrays, which SciPy itself does not look at once it is made."""
    bad = X.copy()
    for name, array in arrays.items():
        setattr(bad, name, np.asarray(array))
    return bad


@pytest.mark.parametrize(
    ("matrix", "D", "options", "error", "message"),
    [
        (X, np.ones((2, 2)), {}, ValueError, r"X has shape \(2, 3\): \(any, 2\)"),
        (X, np.ones((3, 2)), {"transpose": True}, ValueError, r"D has shape \(3, 2\): \(2, any\)"),
        (X, np.ones((3, 0)), {}, ValueError, "at least one column"),
        (X, np.ones(3), {}, ValueError, r"D has shape \(3,\)"),
        (X, np.full((3, 1), np.nan), {}, ValueError, "D has 3 entries that are not finite"),
        (X, np.ones((3, 1), "U1"), {}, TypeError, "D has dtype <U1"),
        (X.tocsc(), np.ones((3, 1)), {}, TypeError, "X is in csc form: csr is needed"),
        (X.toarray(), np.ones((3, 1)), {}, TypeError, "X is a numpy.ndarray: a CSR matrix"),
        (X.astype(complex), np.ones((3, 1)), {}, TypeError, "X has dtype complex128"),
        (as_tile(X), np.ones((2, 1)), {"transpose": True}, ValueError, "pass n_genes"),
        (as_tile(X), np.ones((2, 1)), {}, ValueError, "genes reach from 0 to 2: .* genes 0 to 1"),
        (broken(indices=[0, 5, 1]), np.ones((3, 1)), {}, ValueError, "genes reach from 0 to 5"),
        (broken(indices=[0, -1, 1]), np.ones((3, 1)), {}, ValueError, "genes reach from -1 to 1"),
        (broken(indices=[0, 2**32, 1]), np.ones((3, 1)), {}, ValueError, "to 4294967296: there"),
        (broken(indptr=[0, 2, 9]), np.ones((3, 1)), {}, ValueError, "indptr runs from 0 to 9"),
        (broken(indptr=[0, 4, 3]), np.ones((3, 1)), {}, ValueError, "must ascend"),
        (broken(indptr=[-1, 2, 3]), np.ones((3, 1)), {}, ValueError, "indptr runs from -1"),
        (broken(data=[1.0, np.inf, 2]), np.ones((3, 1)), {}, ValueError, "not finite"),
        (broken(data=[1.0]), np.ones((3, 1)), {}, ValueError, "3 genes stand beside 1 counts"),
        (X[:, :0], np.ones((0, 1)), {}, ValueError, "there are 0 genes"),
    ],
)
def test_products_refuse(
    matrix: Any, D: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        spmm(matrix, D, **options)


# A mini-batch step


@pytest.mark.parametrize("k", FACTORS)
def test_a_step_agrees_with_the_specification(k: int) -> None:
    p = draw_problem(k, n=400, m=max(101, 3 * k), k=k)
    H, found = minibatch_step(p.tile, metagenes_of(p))
    exact = H.astype(float)
    A, B = reference.statistics(p.X, exact)
    np.testing.assert_allclose(found.A, A, rtol=400 * EPS64)
    np.testing.assert_allclose(found.B, B.T, rtol=400 * EPS64, atol=1e-300)
    size = (p.X.toarray() ** 2).sum()
    np.testing.assert_allclose(found.squared_norm, size, rtol=400 * EPS64)
    F = reference.objective(p.X, exact, p.W, p.V, p.lam)
    # R and G are float32; both terms of F are at most |X|^2 where H is at its best.
    assert abs(found.loss - F) <= 1e-6 * size
    assert found.n_cells == 400
    assert found.n_unfinished == 0
    G, R = reference.gram(p.W + p.V, p.V, p.lam), reference.products(p.X, p.W + p.V)
    # G and R in float32 move the residual by a few times their rounding.
    assert reference.kkt_residual(G, R, exact).max() <= 1e-3 + 100 * EPS32


def test_a_step_has_the_same_bits_for_any_threads() -> None:
    # More tiles than sums that are held at once.
    p = draw_problem(1, n=23_000, m=30, k=3)
    metagenes = metagenes_of(p)

    def run(n_threads: int) -> tuple[Any, ...]:
        H, found = minibatch_step(p.tile, metagenes, n_threads=n_threads)
        return H, found.A, found.B, found.loss, found.squared_norm, found.n_cells

    assert_threads_agree(run)
    H, A, B, _, _, n_cells = run(2)
    exact = H.astype(float)
    np.testing.assert_allclose(A, exact.T @ exact, rtol=1e-12)
    np.testing.assert_allclose(B, (exact.T @ p.X).T, rtol=1e-12)
    assert n_cells == 23_000


def test_some_cells_of_a_block_alone() -> None:
    p = draw_problem(2, n=3000, m=40, k=5)
    metagenes = metagenes_of(p)
    together, _ = minibatch_step(p.tile, metagenes, 1e-4)
    rows = np.arange(2999, 100, -3)
    H, found = minibatch_step(replace(p.tile, rows=rows), metagenes, 1e-4)
    np.testing.assert_array_equal(H, together[rows])
    assert found.n_cells == len(rows)


def test_a_step_goes_on_from_a_start() -> None:
    p = draw_problem(3, n=300, m=60, k=8)
    metagenes = metagenes_of(p)
    H, _ = minibatch_step(p.tile, metagenes, 1e-4)
    again, found = minibatch_step(p.tile, metagenes, 1e-3, H0=H)
    G, R = reference.gram(p.W + p.V, p.V, p.lam), reference.products(p.X, p.W + p.V)
    assert reference.kkt_residual(G, R, again.astype(float)).max() <= 1e-3 + 100 * EPS32
    assert found.n_unfinished == 0
    cold, _ = minibatch_step(p.tile, metagenes, 1e-3)
    assert np.abs(again - H).max() < np.abs(cold - H).max()


def test_counts_beyond_16_bits_are_split_over_entries() -> None:
    p = draw_problem(4, n=200, m=40)
    counts = sparse.csr_array(
        (p.tile.counts.astype(np.int64) * 4000, p.tile.genes.astype(np.int32), p.tile.indptr),
        (200, 40),
    )
    assert counts.data.max() > 65_535
    whole = replace(p.tile, counts=counts.data.astype(np.uint32))
    split = split_entries(counts, shuffled=False)
    parts = replace(as_tile(split), weights=p.tile.weights)
    assert parts.counts.dtype == np.uint16
    (H, one), (other_H, other) = (minibatch_step(t, metagenes_of(p)) for t in (whole, parts))
    # Products of split counts are rounded more often.
    np.testing.assert_allclose(H, other_H, rtol=0, atol=1e-3 * H.max())
    np.testing.assert_allclose(one.squared_norm, other.squared_norm, rtol=100 * EPS64)


def test_no_cells_add_nothing() -> None:
    p = draw_problem(5, n=30, m=20, k=4)
    H, found = minibatch_step(replace(p.tile, rows=np.arange(0)), metagenes_of(p))
    assert H.shape == (0, 4)
    assert not found.A.any()
    assert found.B.shape == (20, 4)
    assert not found.B.any()
    assert (found.loss, found.squared_norm, found.n_cells, found.n_unfinished) == (0, 0, 0, 0)


def test_arrays_with_gaps_are_read() -> None:
    p = draw_problem(6, n=100, m=30, k=4)
    spread = {
        name: np.repeat(getattr(p.tile, name), 2)[::2]
        for name in ("rows", "indptr", "genes", "counts", "weights")
    }
    metagenes = metagenes_of(p)
    turned = replace(metagenes, scaled=np.asfortranarray(metagenes.scaled))
    H, _ = minibatch_step(p.tile, metagenes)
    np.testing.assert_array_equal(minibatch_step(CellTile(**spread), turned)[0], H)


BAD_TILES: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"rows": np.array([0, 30])}, ValueError, "rows reach from 0 to 30: .* cells 0 to 29"),
    ({"rows": np.array([-1, 3])}, ValueError, "rows reach from -1 to 3"),
    ({"rows": np.arange(3, dtype=np.int32)}, TypeError, "rows has dtype int32: int64"),
    ({"rows": np.zeros((2, 2), np.int64)}, ValueError, r"rows has shape \(2, 2\)"),
    ({"indptr": np.arange(5)}, ValueError, "indptr has 5 entries for 30 weights"),
    ({"indptr": 10 * np.arange(31)}, ValueError, "indptr runs from 0 to 300"),
    ({"indptr": np.append(np.arange(30)[::-1], 99)}, ValueError, "must ascend"),
    ({"genes": np.full(1000, 20, np.uint16)}, ValueError, "1000 genes stand beside"),
    ({"counts": np.zeros(3, np.int16)}, TypeError, "counts has dtype int16"),
    ({"weights": np.full(30, np.nan, np.float32)}, ValueError, "weights has 30 entries"),
    ({"weights": np.ones(30)}, TypeError, "weights has dtype float64: float32"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_TILES)
def test_a_step_refuses_tiles(change: dict[str, Any], error: type[Exception], message: str) -> None:
    p = draw_problem(7, n=30, m=20, k=4)
    with pytest.raises(error, match=message):
        minibatch_step(replace(p.tile, **change), metagenes_of(p))


def test_a_step_refuses_genes_and_counts_that_are_not() -> None:
    p = draw_problem(7, n=30, m=20, k=4)
    genes = p.tile.genes.copy()
    genes[5] = 20
    with pytest.raises(ValueError, match="to 20: there are genes 0 to 19"):
        minibatch_step(replace(p.tile, genes=genes), metagenes_of(p))
    counts = p.tile.counts.astype(np.float32)
    counts[5] = np.inf
    with pytest.raises(ValueError, match="counts has 1 entries that are not finite"):
        minibatch_step(replace(p.tile, counts=counts), metagenes_of(p))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"scaled": np.ones((20, 3), np.float32)}, r"scaled has shape \(20, 3\): \(any, 4\)"),
        ({"scaled": np.full((20, 4), np.nan)}, "scaled has 80 entries"),
        ({"scaled": np.ones((0, 4))}, "at least one gene"),
        ({"gram": -np.eye(4)}, "gram is not positive semi-definite"),
        ({"gram": np.ones((0, 0))}, "at least one factor"),
        ({"scale": np.ones(19)}, r"scale has shape \(19,\): \(20,\)"),
        ({"scale": np.full(20, np.inf)}, "scale has 20 entries"),
    ],
)
def test_a_step_refuses_metagenes(change: dict[str, Any], message: str) -> None:
    p = draw_problem(7, n=30, m=20, k=4)
    with pytest.raises(ValueError, match=message):
        minibatch_step(p.tile, replace(metagenes_of(p), **change))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"tol": 1e-7}, "tol is 1e-07: float32 takes 1e-05 or more"),
        ({"tol": np.nan}, "tol is nan"),
        ({"H0": -np.ones((30, 4))}, "H0 has negative entries"),
        ({"H0": np.ones((30, 5))}, r"H0 has shape \(30, 5\): \(30, 4\)"),
        ({"H0": np.full((30, 4), np.nan)}, "H0 has 120 entries"),
    ],
)
def test_a_step_refuses_options(options: dict[str, Any], message: str) -> None:
    p = draw_problem(7, n=30, m=20, k=4)
    with pytest.raises(ValueError, match=message):
        minibatch_step(p.tile, metagenes_of(p), **options)


# The specification, and the room as others see it


def test_a_factor_that_explains_nothing_is_left_out_of_the_residual() -> None:
    G, R = np.diag([1.0, 0.0]), np.array([[2.0, 5.0], [-1.0, 0.0]])
    H = np.array([[1.9, 7.0], [0.0, 0.0]])
    np.testing.assert_allclose(reference.kkt_residual(G, R, H), [0.1 / 5, 0.0])
    np.testing.assert_array_equal(reference.kkt_residual(np.zeros((1, 1)), R[:, :1], H[:, :1]), 0)


def test_the_specification_of_moments_is_the_definition() -> None:
    X = sparse.csr_array(np.array([[1, 0, 3], [0, 0, 0], [2, 2, 0]]))
    totals, n_genes, marked = reference.cell_sums(X, np.array([False, True, True]))
    np.testing.assert_array_equal([totals, n_genes, marked], [[4, 0, 4], [2, 0, 2], [3, 0, 2]])
    codes, weights = np.array([1, 0, 1]), np.array([1.0, 1.0, 0.5])
    first, second, n = reference.gene_sums(X, weights, codes, 2)
    np.testing.assert_array_equal(first, [[0, 0, 0], [2, 1, 3]])
    np.testing.assert_array_equal(second, [[0, 0, 0], [2, 1, 9]])
    np.testing.assert_array_equal(n, [[0, 0, 0], [2, 1, 1]])


@pytest.mark.parametrize("kind", [np.uint16, np.uint32, np.float32])
def test_moments_agree_with_the_specification(kind: type) -> None:
    X, rng = draw_counts(1, 120, 40), np.random.default_rng(1)
    arrays = X.indptr.astype(np.int64), X.indices.astype(np.uint16), X.data.astype(kind)
    marked, codes, weights = rng.random(40) < 0.2, rng.integers(-1, 3, 120), rng.random(120)
    cells = cell_sums(*arrays, marked)
    totals, n_genes, of_marked = reference.cell_sums(X, marked)
    np.testing.assert_array_equal(cells.totals, totals)
    np.testing.assert_array_equal(cells.n_genes, n_genes)
    np.testing.assert_array_equal(cells.marked, of_marked)
    genes = gene_sums(*arrays, weights, codes, (3, 40))
    first, second, n_nonzeros = reference.gene_sums(X, weights, codes, 3)
    # Float64 sums of up to 120 positive terms, in either order.
    np.testing.assert_allclose(genes.first, first, rtol=240 * EPS64)
    np.testing.assert_allclose(genes.second, second, rtol=240 * EPS64)
    np.testing.assert_array_equal(genes.n_nonzeros, n_nonzeros)


def test_every_public_name_is_there_and_documented() -> None:
    for name in tigon.kernels.__all__:
        assert getattr(tigon.kernels, name).__doc__
        assert name in dir(tigon.kernels)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = tigon.kernels.nothing


def test_the_room_loads_neither_numba_nor_cupy() -> None:
    code = "import sys, tigon.kernels; print({'numba', 'cupy', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


@pytest.mark.parametrize("module", ["factors", "products", "sketches"])
def test_examples_of_docstrings_hold(module: str) -> None:
    found = doctest.testmod(import_module(f"tigon.kernels.{module}"))
    assert found.attempted > 0
    assert found.failed == 0


def test_examples_of_the_page_hold() -> None:
    page = Path(__file__).resolve().parents[1] / "docs" / "kernels.md"
    blocks = re.findall(r"^```python\n(.*?)^```$", page.read_text(), re.MULTILINE | re.DOTALL)
    functions = {name for name in tigon.kernels.__all__ if name.islower()}
    assert functions <= set(re.findall(r"\w+", " ".join(blocks)))
    names: dict[str, Any] = {}
    for block in blocks:  # each goes on from the ones before, as a reader does
        exec(compile(block, str(page), "exec"), names)
