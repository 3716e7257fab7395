"""A mini-batch step and the sums of raw counts, against their NumPy specification."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import Problem, by_scipy, draw_problem
from scipy import sparse

from tigon.kernels import reference
from tigon.kernels.cpu.metagenes import MetageneTable, Tabulation
from tigon.kernels.cpu.step import loadings, minibatch_step, minibatch_step_in_place
from tigon.kernels.moments import cell_sums, gene_sums
from tigon.kernels.tile import CellTile, Metagenes, TileStatistics

Array = np.ndarray


def system(p: Problem) -> tuple[Array, Array]:
    """G and R of a problem in float64, from their definitions."""
    return reference.gram(p.W + p.V, p.V, p.lam), reference.products(p.X, p.W + p.V)


def rows_of(tile: CellTile, rows: Array) -> CellTile:
    return replace(tile, rows=rows)


def assert_same(found: TileStatistics, expected: TileStatistics) -> None:
    np.testing.assert_array_equal(found.A, expected.A)
    np.testing.assert_array_equal(found.B, expected.B)
    numbers = ("squared_norm", "loss", "n_cells", "n_unfinished")
    assert [getattr(found, n) for n in numbers] == [getattr(expected, n) for n in numbers]


@pytest.mark.parametrize("k", [1, 2, 5, 20, 40, 100])
def test_loadings_agree_with_scipy(k: int) -> None:
    p = draw_problem(k, n=60 if k < 100 else 20, m=3 * k + 60, k=k)
    G, R = system(p)
    H, n_unfinished = loadings(p.tile, p.metagenes, 1e-5)
    assert n_unfinished == 0
    # G and R arrive in float32, as the sums that they are: 6e-8 each and k terms.
    assert reference.kkt_residual(G, R, H.astype(float)).max() <= 1e-5 + 1e-6
    exact = by_scipy(G, R)
    # On the right passive set the residual, times the condition of G, is the error.
    assert np.abs(H - exact).max() <= 1.1e-5 * np.linalg.cond(G) * np.abs(exact).max()


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(1, 150),
    m=st.integers(1, 90),
    k=st.sampled_from([1, 3, 5, 8, 9, 17]),
    density=st.floats(0.0, 1.0),
)
@settings(max_examples=60, deadline=None)
def test_a_step_agrees_with_the_specification(
    seed: int, n: int, m: int, k: int, density: float
) -> None:
    p = draw_problem(seed, n=n, m=m, k=k, density=density)
    H, found = minibatch_step(p.tile, p.metagenes, 1e-4)
    exact = H.astype(float)
    # Few genes and many factors: descent may be too slow, and the cell is counted. 2e-6 for
    # the float32 rounding of G and R.
    left = reference.kkt_residual(*system(p), exact)
    assert (left > 1e-4 + 2e-6).sum() <= found.n_unfinished
    assert found.n_unfinished == 0 or m < 3 * k
    A, B = reference.statistics(p.X, exact)
    # Sums of non-negative terms in float64, in another order.
    np.testing.assert_allclose(found.A, A, rtol=1e-12, atol=0)
    np.testing.assert_allclose(found.B.T, B, rtol=1e-12, atol=1e-300)
    squared = float((p.X.toarray() ** 2).sum())
    np.testing.assert_allclose(found.squared_norm, squared, rtol=1e-12)
    F = reference.objective(p.X, exact, p.W, p.V, p.lam)
    assert abs(found.loss - F) <= 1e-6 * squared
    assert found.n_cells == n


@pytest.mark.parametrize("k", [7, 20, 41])
def test_sparse_cells_and_full_ones_have_the_same_optimum(k: int) -> None:
    p = draw_problem(5, n=50, m=60, k=k, density=0.1)
    t = p.tile
    dense = sparse.csr_array((t.counts, t.genes, t.indptr), (50, 60)).toarray()
    every = CellTile(
        t.rows,
        np.arange(0, 50 * 60 + 1, 60),
        np.tile(np.arange(60, dtype=np.uint16), 50),
        dense.ravel(),
        t.weights,
    )
    H, found = minibatch_step(every, p.metagenes, 1e-4)
    expected, statistics = minibatch_step(t, p.metagenes, 1e-4)
    # Zeros add nothing, but they change which of two running sums a count joins.
    np.testing.assert_allclose(H, expected, rtol=0, atol=2e-4 * expected.max())
    assert np.abs(found.A - statistics.A).max() <= 2e-4 * statistics.A.max()
    np.testing.assert_allclose(found.squared_norm, statistics.squared_norm, rtol=1e-13)


def test_counts_of_any_type_give_the_same_bits() -> None:
    p = draw_problem(6, n=80, k=9)
    H, expected = minibatch_step(p.tile, p.metagenes, 1e-3)
    for counts in (np.uint16, np.uint32, np.float32):
        for genes in (np.uint16, np.uint32):
            t = replace(
                p.tile, counts=p.tile.counts.astype(counts), genes=p.tile.genes.astype(genes)
            )
            same, found = minibatch_step(t, p.metagenes, 1e-3)
            np.testing.assert_array_equal(same, H)
            assert_same(found, expected)


def test_large_counts_may_be_split_over_two_entries() -> None:
    p = draw_problem(7, n=40, m=30, k=6)
    t = p.tile
    counts = t.counts.astype(np.uint32)
    counts[::5] += 65_520  # on both sides of what 16 bits hold
    whole = replace(t, counts=counts)
    large = counts > 65_535
    assert 10 < large.sum() < len(counts) / 5
    copies = np.where(large, 2, 1)
    split = np.repeat(np.minimum(counts, 65_535), copies)
    second = np.flatnonzero(np.repeat(large, copies))[1::2]
    split[second] = counts[large] - 65_535
    entries = np.concatenate([[0], np.cumsum(copies)])
    packed = CellTile(
        t.rows,
        entries[t.indptr],
        np.repeat(t.genes, copies),
        split.astype(np.uint16),
        t.weights,
    )
    H, expected = minibatch_step(whole, p.metagenes, 1e-5)
    again, found = minibatch_step(packed, p.metagenes, 1e-5)
    # To the tolerance times the condition of G.
    bound = 2e-5 * np.linalg.cond(p.metagenes.gram)
    assert np.abs(again - H).max() <= bound * H.max()
    np.testing.assert_allclose(found.squared_norm, expected.squared_norm, rtol=1e-13)
    _, B = reference.statistics(scaled(whole, p, 30), again.astype(float))
    np.testing.assert_allclose(found.B.T, B, rtol=1e-12, atol=1e-300)
    assert abs(found.loss - expected.loss) <= 1e-6 * expected.squared_norm


def scaled(tile: CellTile, p: Problem, m: int) -> sparse.csr_array:
    """X of a tile in float64."""
    n = len(tile.weights)
    counts = sparse.csr_array((tile.counts.astype(float), tile.genes, tile.indptr), (n, m))
    by_cell = counts.multiply(tile.weights.astype(float)[:, None])
    return sparse.csr_array(by_cell.multiply(p.metagenes.scale[None, :]))


@pytest.mark.parametrize("warm", [False, True])
def test_bits_depend_on_the_cell_alone(warm: bool) -> None:
    p = draw_problem(1, n=400, k=20)
    start = np.random.default_rng(0).random((400, 20), np.float32) if warm else None
    together, _ = loadings(p.tile, p.metagenes, 1e-4, start)
    order = np.random.default_rng(1).permutation(400)
    for rows in (np.arange(5, 9), np.array([399]), np.arange(0, 400, 3), np.arange(90), order):
        own = None if start is None else start[rows]
        H, _ = loadings(rows_of(p.tile, rows), p.metagenes, 1e-4, own)
        np.testing.assert_array_equal(H, together[rows])


@pytest.mark.parametrize("n_threads", [1, 2, 4])
def test_a_step_has_the_same_bits_on_any_threads(n_threads: int) -> None:
    p = draw_problem(2, n=600, m=200, k=20)
    tiles = [rows_of(p.tile, rows) for rows in np.array_split(np.arange(600), 6)]
    expected = [minibatch_step(tile, p.metagenes, 1e-3) for tile in tiles]
    with ThreadPoolExecutor(n_threads) as pool:
        found = list(pool.map(lambda tile: minibatch_step(tile, p.metagenes, 1e-3), tiles))
    for (H, statistics), (same, others) in zip(expected, found, strict=True):
        np.testing.assert_array_equal(H, same)
        assert_same(others, statistics)


def test_a_start_near_the_loadings_ends_within_the_tolerance() -> None:
    p = draw_problem(3, n=200, k=9)
    H, _ = loadings(p.tile, p.metagenes, 1e-3)
    again, n_unfinished = loadings(p.tile, p.metagenes, 1e-3, H)
    assert n_unfinished == 0
    assert reference.kkt_residual(*system(p), again.astype(float)).max() <= 1e-3


def test_cells_without_counts_load_exactly_zero() -> None:
    p = draw_problem(2)
    empty = np.diff(p.tile.indptr) == 0
    assert empty.any()
    for start in (None, np.zeros((300, 7), np.float32)):
        H, _ = loadings(p.tile, p.metagenes, 1e-3, start)
        assert (H[empty] == 0).all()


def test_metagenes_that_are_zero_or_equal_are_solved() -> None:
    p = draw_problem(4, k=7)
    W, V = p.W.astype(np.float32), p.V.astype(np.float32)
    W[3], V[3], W[5], V[5] = W[1], V[1], 0, 0
    measured = np.arange(80) % 3 > 0
    scale = np.where(measured, p.metagenes.scale, 0.0)
    V[:, ~measured] = 0
    table = Tabulation(W, V, p.lam, scale, measured).whole()
    H, found = minibatch_step(p.tile, table, 1e-4)
    L = (W + V).astype(float) * measured
    X = sparse.csr_array(p.X.multiply(measured[None, :]))
    G, R = reference.gram(L, V.astype(float), p.lam), reference.products(X, L)
    np.testing.assert_allclose(table.gram, G, rtol=1e-6, atol=0)  # L was rounded to float32
    assert (H[:, 5] == 0).all()
    assert reference.kkt_residual(G, R, H.astype(float)).max() <= 1e-4 + 2e-6
    np.testing.assert_array_equal(found.B[~measured], 0)
    F = reference.objective(X, H.astype(float), W * measured.astype(float), V.astype(float), p.lam)
    assert abs(found.loss - F) <= 1e-6 * found.squared_norm


def test_a_table_laid_out_is_the_table_computed() -> None:
    p = draw_problem(5, n=60, k=9)
    computed = p.metagenes
    given_ = Metagenes(computed.table[:, :9].copy(), computed.gram.astype("f4"), computed.scale)
    laid_out = MetageneTable.laid_out(given_)
    np.testing.assert_array_equal(laid_out.table, computed.table)
    H, found = minibatch_step(p.tile, laid_out, 1e-3)
    same, expected = minibatch_step(p.tile, computed, 1e-3)
    np.testing.assert_array_equal(H, same)
    np.testing.assert_array_equal(found.B, expected.B)
    # The loss alone reads G in float64.
    assert abs(found.loss - expected.loss) <= 1e-6 * expected.squared_norm


def test_cells_that_do_not_converge_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    p = draw_problem(6, n=90, k=9)
    monkeypatch.setattr("tigon.kernels.cpu.step.MAX_SWEEPS", 3)
    H, found = minibatch_step(p.tile, p.metagenes, 1e-4)
    left = reference.kkt_residual(*system(p), H.astype(float))
    # The float32 rounding of G and R is 2e-6.
    assert 0 < (left > 1e-4 + 2e-6).sum() <= found.n_unfinished < 90


def test_a_tile_without_cells_adds_nothing() -> None:
    p = draw_problem(7, k=9)
    H, found = minibatch_step(rows_of(p.tile, np.arange(0)), p.metagenes, 1e-3)
    assert H.shape == (0, 9)
    assert not found.A.any()
    assert not found.B.any()
    assert (found.squared_norm, found.loss, found.n_cells, found.n_unfinished) == (0, 0, 0, 0)


def test_statistics_of_two_tiles_add_up() -> None:
    p = draw_problem(4, n=100)
    _, whole = minibatch_step(p.tile, p.metagenes, 1e-4)
    halves = (np.arange(37), np.arange(37, 100))
    both, other = (minibatch_step(rows_of(p.tile, r), p.metagenes, 1e-4)[1] for r in halves)
    both += other
    np.testing.assert_allclose(both.A, whole.A, rtol=1e-12)
    np.testing.assert_allclose(both.B, whole.B, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(both.squared_norm, whole.squared_norm, rtol=1e-13)
    assert both.n_cells == 100


@pytest.mark.parametrize("dtype", [np.uint16, np.uint32, np.float32])
def test_moments_agree_with_numpy(dtype: type) -> None:
    p = draw_problem(8, n=120, m=40)
    arrays = (p.tile.indptr, p.tile.genes, p.tile.counts.astype(dtype))
    rng = np.random.default_rng(9)
    kinds, codes = rng.integers(0, 4, 40).astype(np.uint8), rng.integers(-1, 3, 120)
    dense = sparse.csr_array((p.tile.counts, p.tile.genes, p.tile.indptr), (120, 40)).toarray()
    cells = cell_sums(*arrays, kinds, 2)
    np.testing.assert_array_equal(cells.totals, dense.sum(axis=1))
    np.testing.assert_array_equal(cells.n_genes, (dense > 0).sum(axis=1))
    for kind in (1, 2):
        of_kind = dense[:, kinds == kind].sum(axis=1)
        np.testing.assert_array_equal(cells.of_kinds[:, kind - 1], of_kind)
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
    assert cell_sums(*arrays, np.zeros(2, np.uint8), 0).totals[0] == 120_000


def test_loadings_that_would_go_into_a_copy_are_refused() -> None:
    p = draw_problem(8, n=60, k=9)
    H, rows, sizes = np.zeros((9, 60), np.float32), p.tile.rows, np.ones(9, np.float32)
    with pytest.raises(ValueError, match=r"\(60, 9\), is not contiguous"):
        minibatch_step_in_place(p.tile, p.metagenes, 1e-3, H.T, rows, sizes)


def test_a_step_in_place_is_the_step() -> None:
    p = draw_problem(9, n=60, k=9)
    expected, one = minibatch_step(p.tile, p.metagenes, 1e-3)
    sizes = np.full(9, 2, np.float32)  # a power of two: exact
    H, places = np.zeros((80, 9), np.float32), np.random.default_rng(0).permutation(80)[:60]
    other = minibatch_step_in_place(p.tile, p.metagenes, 1e-3, H, places, sizes)
    np.testing.assert_array_equal(H[places], 2 * expected)
    np.testing.assert_array_equal(other.B, one.B)
    assert not np.delete(H, places, axis=0).any()
