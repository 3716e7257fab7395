"""The public mini-batch step on NumPy arrays."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from counts import as_tile, assert_threads_agree, split_entries
from problems import Problem, draw_problem
from scipy import sparse

from tigon.kernels import CellTile, Metagenes, minibatch_step, reference

EPS32, EPS64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps


def metagenes_of(p: Problem) -> Metagenes:
    k = len(p.W)
    table = np.ascontiguousarray(p.metagenes.table[:, :k])
    return Metagenes(table, p.metagenes.gram.astype(np.float32), p.metagenes.scale)


@pytest.mark.parametrize("k", [1, 3, 20, 100, 128])
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
