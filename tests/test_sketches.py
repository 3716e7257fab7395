"""Gene-side products for principal components, on NumPy arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from counts import as_tile, draw_counts, split_entries
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tigon.kernels import GeneProducts, reference, sketch, sparse_gram
from tigon.kernels.cpu.pair_sums import Ranking

EPS = np.finfo(np.float64).eps


def draw_scales(seed: int, n: int, m: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.uniform(0.1, 10, n), rng.uniform(-3, 3, m)


def assert_sums_agree(found: GeneProducts, Y: np.ndarray, product: np.ndarray, size: Any) -> None:
    """``size`` is the product of absolute values, which bounds what rounding can do.

    Sums of at most m products inside and n outside, and a logarithm of a few units in the
    last place each.
    """
    n, m = Y.shape
    bound = 2 * (n + m + 8) * EPS
    assert (abs(found.product - product) <= bound * size).all()
    assert (abs(found.sums - Y.sum(axis=0)) <= bound * abs(Y).sum(axis=0)).all()
    assert (abs(found.squares - (Y**2).sum(axis=0)) <= bound * (Y**2).sum(axis=0)).all()
    assert found.n_cells == n


def assert_sketch_agrees(X: Any, Y: np.ndarray, Q: np.ndarray, *scales: Any, log1p: bool) -> None:
    size = reference.sketch(abs(Y), abs(Q))
    found = sketch(X, Q, *scales, log1p=log1p)
    assert_sums_agree(found, Y, reference.sketch(Y, Q.astype(float)), size)


def assert_gram_agrees(X: Any, Y: np.ndarray, *scales: Any, log1p: bool, **options: int) -> None:
    found = sparse_gram(X, *scales, log1p=log1p, **options)
    assert_sums_agree(found, Y, reference.sparse_gram(Y), reference.sparse_gram(abs(Y)))
    np.testing.assert_array_equal(found.product, found.product.T)


@pytest.mark.parametrize("log1p", [False, True])
@pytest.mark.parametrize("l", [1, 3, 20, 100, 128])
def test_a_sketch_agrees_with_the_specification(l: int, log1p: bool) -> None:  # noqa: E741
    X, scales = draw_counts(l, 150, 83), draw_scales(l, 150, 83)
    Q = np.random.default_rng(l).normal(size=(83, l))
    assert_sketch_agrees(X, reference.transformed(X, *scales, log1p=log1p), Q, *scales, log1p=log1p)


@pytest.mark.parametrize("log1p", [False, True])
@pytest.mark.parametrize("m", [1, 17, 100, 700])
def test_a_gram_matrix_agrees_with_the_specification(m: int, log1p: bool) -> None:
    # 700 genes are several ranges of rows.
    X, scales = draw_counts(m, 90, m), draw_scales(m, 90, m)
    Y = reference.transformed(X, *scales, log1p=log1p)
    assert_gram_agrees(X, Y, *scales, log1p=log1p)


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(0, 60),
    m=st.integers(1, 70),
    density=st.floats(0, 1),
    n_columns=st.integers(1, 25),
    log1p=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_any_shape_and_density(
    seed: int, n: int, m: int, density: float, n_columns: int, log1p: bool
) -> None:
    X = draw_counts(seed, n, m, density)
    Q = np.random.default_rng(seed).normal(size=(m, n_columns))
    Y = reference.transformed(X, log1p=log1p)
    assert_sketch_agrees(X, Y, Q, log1p=log1p)
    assert_gram_agrees(X, Y, log1p=log1p)


@pytest.mark.parametrize("row_scale", [1e4, np.float32(0.5), np.linspace(0, 3, 40), None])
@pytest.mark.parametrize("kind", ["i8", "u2", "f4", "f8"])
def test_scales_and_counts_of_any_type(kind: str, row_scale: Any) -> None:
    X = draw_counts(1, 40, 30)
    X.data = X.data.astype(kind)
    Y = reference.transformed(X, 1.0 if row_scale is None else row_scale, log1p=True)
    Q = np.random.default_rng(1).random((30, 4), np.float32)
    assert_sketch_agrees(X, Y, np.asfortranarray(Q), row_scale, log1p=True)
    assert_gram_agrees(sparse.csr_matrix(X), Y, row_scale, log1p=True)


@pytest.mark.parametrize("log1p", [False, True])
def test_entries_of_one_gene_add_up_before_the_logarithm(log1p: bool) -> None:
    X = draw_counts(2, 60, 40)
    split, Q = split_entries(X, shuffled=False), np.random.default_rng(2).normal(size=(40, 5))
    order = np.concatenate(
        [np.arange(*ends)[::-1] for ends in zip(split.indptr, split.indptr[1:], strict=False)]
    )
    turned = sparse.csr_array((split.data[order], split.indices[order], split.indptr), X.shape)
    Y, tile = reference.transformed(X, log1p=log1p), as_tile(split)
    for same in (split, turned, tile):
        assert_sketch_agrees(same, Y, Q, log1p=log1p)
    for same in (split, turned):
        assert_gram_agrees(same, Y, log1p=log1p)
    assert_gram_agrees(tile, Y, log1p=log1p, n_genes=40)
    assert not turned.has_canonical_format  # what was given is as it was


def test_counts_that_overflow_their_type_together() -> None:
    X = sparse.csr_array((np.full(2, 60_000, np.uint16), np.array([0, 0]), np.array([0, 2])))
    np.testing.assert_array_equal(sparse_gram(X).product, [[1.2e5**2]])
    np.testing.assert_array_equal(sketch(X, np.ones((1, 1))).product, [[1.2e5**2]])
    tile = as_tile(X)
    np.testing.assert_array_equal(sparse_gram(tile, n_genes=1).product, [[1.2e5**2]])


def test_logarithms_of_values_that_are_no_small_counts() -> None:
    # Small counts are looked up; these stand between them.
    values = np.array([0.0, 0.5, 1.0, 1.5, 63.0, 63.5, 64.0, 65_535.0, 1e9, 1.0, 63.0, 0.5])
    X = sparse.csr_array((values, np.arange(12), [0, 5, 9, 12]), (3, 12))
    row_scale = np.array([1.0, 0.3, 7.0])
    Y = reference.transformed(X, row_scale, log1p=True)
    assert_sketch_agrees(X, Y, np.eye(12), row_scale, log1p=True)
    assert_gram_agrees(X, Y, row_scale, log1p=True)


def test_genes_are_ranked_by_the_cells_that_have_them() -> None:
    X = sparse.csr_array(np.tile(np.arange(60) % 2, (50, 1)))
    ranking = Ranking.of(as_tile(X), 60)
    # Of 30 frequent ones, a whole panel; the others in their own order.
    assert ranking.n_frequent == 20
    assert sorted(ranking.ranks.tolist()) == list(range(60))
    rare = ranking.ranks[ranking.ranks >= 20]
    assert (np.diff(rare.astype(int)) > 0).all()
    assert (ranking.ranks[1:40:2] < 20).all()


def test_a_tile_is_its_weighted_rows() -> None:
    X = draw_counts(3, 100, 40)
    weights = np.random.default_rng(3).random(100, np.float32)
    rows = np.array([99, 5, 5, 31, 0])
    tile = replace(as_tile(X, weights), rows=rows)
    row_scale, column_scale = draw_scales(4, 5, 40)
    Y = reference.transformed(X[rows], row_scale * weights[rows], column_scale, log1p=True)
    Q = np.random.default_rng(5).normal(size=(40, 6))
    assert_sketch_agrees(tile, Y, Q, row_scale, column_scale, log1p=True)
    assert_gram_agrees(tile, Y, row_scale, column_scale, log1p=True)


@pytest.mark.parametrize("log1p", [False, True])
def test_the_same_bits_for_any_threads(log1p: bool) -> None:
    # More cells than are held at once, more tiles than sums; frequent genes and rare ones.
    densities = np.random.default_rng(6).permutation(np.geomspace(0.6, 0.002, 300))
    X, scales = draw_counts(6, 12_000, 300, densities), draw_scales(6, 12_000, 300)
    assert 20 <= Ranking.of(as_tile(X), 300).n_frequent <= 280
    Q = np.random.default_rng(6).normal(size=(300, 23))
    runs: list[Callable[[int], GeneProducts]] = [
        lambda n: sketch(X, Q, *scales, log1p=log1p, n_threads=n),
        lambda n: sparse_gram(X, *scales, log1p=log1p, n_threads=n),
    ]
    Y = reference.transformed(X, *scales, log1p=log1p)
    expected = reference.sketch(Y, Q), reference.sparse_gram(Y)
    sizes = reference.sketch(abs(Y), abs(Q)), reference.sparse_gram(abs(Y))
    for run, product, size in zip(runs, expected, sizes, strict=True):
        alone = run(1)
        assert_sums_agree(alone, Y, product, size)
        for n_threads in (2, 4):
            found = run(n_threads)
            np.testing.assert_array_equal(found.product, alone.product)
            np.testing.assert_array_equal(found.sums, alone.sums)
            np.testing.assert_array_equal(found.squares, alone.squares)


def test_blocks_of_cells_add_up() -> None:
    X, Q = draw_counts(7, 300, 50), np.random.default_rng(7).normal(size=(50, 9))
    Y = reference.transformed(X, log1p=True)
    parts = [X[:120], X[120:121], X[121:]]
    total = sketch(parts[0], Q, log1p=True)
    for part in parts[1:]:
        total = total + sketch(part, Q, log1p=True)
    assert_sums_agree(total, Y, reference.sketch(Y, Q), reference.sketch(abs(Y), abs(Q)))


def test_centred_products_follow_from_the_sums() -> None:
    X, Q = draw_counts(8, 200, 30), np.random.default_rng(8).normal(size=(30, 4))
    found = sketch(X, Q, log1p=True)
    Y = reference.transformed(X, log1p=True)
    centred, mean = Y - Y.mean(axis=0), found.sums / found.n_cells
    product = found.product - found.n_cells * np.outer(mean, mean @ Q)
    # What cancels is as large as the uncentred product.
    size = 400 * EPS * np.abs(found.product).max()
    np.testing.assert_allclose(product, centred.T @ (centred @ Q), rtol=0, atol=size)
    variance = found.squares / found.n_cells - mean**2
    np.testing.assert_allclose(variance, Y.var(axis=0), rtol=1e-12)


X = sparse.csr_array(np.array([[3.0, 0, 1], [0, 2, 0]]))
TILE = as_tile(X)
Q = np.ones((3, 2))


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((X, Q[:2]), {}, ValueError, r"X has shape \(2, 3\): \(any, 2\)"),
        ((X, Q[:, :0]), {}, ValueError, "at least one column"),
        ((X, Q * np.nan), {}, ValueError, "Q has 6 entries that are not finite"),
        ((X, Q, np.ones(3)), {}, ValueError, r"row_scale has shape \(3,\): \(2,\)"),
        ((X, Q, np.nan), {}, ValueError, "row_scale has 1 entries that are not finite"),
        ((X, Q, "1"), {}, TypeError, "row_scale has dtype <U1"),
        ((X, Q, [1.0, 2.0]), {}, TypeError, "builtins.list is neither"),
        ((X, Q, None, np.ones(2)), {}, ValueError, r"column_scale has shape \(2,\): \(3,\)"),
        ((X, Q, None, np.full(3, np.inf)), {}, ValueError, "column_scale has 3 entries"),
        ((X, Q, -1.0), {"log1p": True}, ValueError, "row_scale has negative entries"),
        ((-X, Q), {"log1p": True}, ValueError, "X has negative entries .lowest: -3.: .*log1p"),
        ((X.tocoo(), Q), {}, TypeError, "X is in coo form: csr is needed"),
        (
            (replace(TILE, weights=np.full(2, 1e30, np.float32)), Q, np.array([1e300, -2.0])),
            {"log1p": True},
            ValueError,
            "row_scale has 1 entries that are not finite",
        ),
        ((TILE, Q[:2]), {}, ValueError, "genes reach from 0 to 2"),
        ((X, Q), {"n_threads": 0}, ValueError, "n_threads is 0"),
    ],
)
def test_a_sketch_refuses(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sketch(*arguments, **options)


@pytest.mark.parametrize(
    ("matrix", "options", "error", "message"),
    [
        (TILE, {}, ValueError, "X is a CellTile, .* pass n_genes"),
        (TILE, {"n_genes": 2}, ValueError, "genes reach from 0 to 2"),
        (X, {"n_genes": 2}, ValueError, r"X has shape \(2, 3\): \(any, 2\)"),
        (X, {"column_scale": np.ones(2)}, ValueError, r"X has shape \(2, 3\): \(any, 2\)"),
        (X, {"column_scale": np.ones((3, 1))}, ValueError, r"column_scale has shape \(3, 1\)"),
        (X, {"column_scale": 2.0}, TypeError, "builtins.float is neither"),
        (X, {"column_scale": np.array([2.0])}, ValueError, r"\(any, 1\) is needed"),
        (X[:, :0], {}, ValueError, "there are 0 genes"),
        (X.toarray(), {}, TypeError, "X is a numpy.ndarray"),
        (
            replace(TILE, genes=np.array([2, 0, 1], np.uint16)),
            {"n_genes": 3},
            ValueError,
            "genes of a cell do not ascend .1 times.: sort the entries",
        ),
    ],
)
def test_a_gram_matrix_refuses(
    matrix: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sparse_gram(matrix, **options)


def test_sums_over_other_columns_do_not_add_up() -> None:
    X = sparse.csr_array(np.eye(6))
    narrow, wide = sketch(X, np.ones((6, 1))), sketch(X, np.ones((6, 4)))
    with pytest.raises(ValueError, match="do not add up"):
        narrow + wide
