"""Public products of sparse counts on NumPy arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from counts import as_tile, assert_threads_agree, draw_counts, split_entries
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import draw_problem
from scipy import sparse

from tigon.kernels import spmm

EPS32, EPS64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps


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


@pytest.mark.parametrize("l", [1, 3, 20, 100, 128])
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
