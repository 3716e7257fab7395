"""The logic of a step's CUDA kernels and of the code that launches them, run on the processor.

See test_gpu_logic.py: kernels are emulated from their own source, and NumPy
stands in for CuPy. Streams hold copies back until somebody waits for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

import numpy as np
import pytest
from cuda_emulation.drawing import Problem, draw_problem
from cuda_emulation.loading import require_compiler, stand_in_for_cupy
from cuda_emulation.stand_in import StandIn

from tigon.kernels import reference
from tigon.kernels.gpu.epochs import HostPart, ResidentEpochs, StreamedEpochs, epochs_over
from tigon.kernels.gpu.factors import add_product, gram, hals
from tigon.kernels.gpu.minibatch import DeviceTile, minibatch_step
from tigon.kernels.gpu.online import OnlineState, OnlineSteps, Part
from tigon.kernels.gpu.products import by_gene, gene_products, spmm, squared_norms
from tigon.kernels.gpu.resident import TileStream, fits, to_device
from tigon.kernels.gpu.sketches import add_sparse_gram, sketch_product
from tigon.kernels.tile import CellTile


@pytest.fixture(scope="module")
def cupy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    require_compiler()
    with stand_in_for_cupy(tmp_path_factory.mktemp("kernels")) as found:
        yield found


def split_counts(tile: CellTile) -> CellTile:
    """The same counts, some in three entries one behind the other, kept as uint16."""
    rng = np.random.default_rng(0)
    times = np.where((tile.counts >= 3) & (rng.random(len(tile.counts)) < 0.3), 3, 1)
    counts = np.repeat(tile.counts, times)
    first = np.cumsum(times) - times
    counts[first[times == 3]] -= 2
    counts[first[times == 3] + 1] = 1
    counts[first[times == 3] + 2] = 1
    indptr = np.append(first, len(counts))[tile.indptr]
    return CellTile(
        tile.rows, indptr, np.repeat(tile.genes, times), counts.astype(np.uint16), tile.weights
    )


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("k", [1, 20, 100])
def test_sparse_products_equal_dense_ones(cupy: StandIn, k: int, split: bool) -> None:
    problem = draw_problem(2, n=150, m=80, k=k)
    tile = split_counts(problem.tile) if split else problem.tile
    X, scale = problem.X, problem.metagenes.scale
    R = spmm(tile, problem.metagenes.scaled)
    # Some 16 float32 products of one sign a sum.
    np.testing.assert_allclose(R, reference.products(X, problem.W + problem.V), rtol=2e-6)
    squared = squared_norms(tile, scale)
    np.testing.assert_allclose(squared, X.multiply(X).sum(axis=1), rtol=1e-6)
    H = np.random.default_rng(0).gamma(0.4, 1.0, (150, k)).astype(np.float32)
    B = gene_products(by_gene(tile, 80), H, scale)
    np.testing.assert_allclose(B, reference.statistics(X, H.astype(float))[1].T, rtol=2e-6)


@pytest.mark.parametrize("m", [3, 80, 1500])
def test_counts_are_sorted_by_gene_and_stably(cupy: StandIn, m: int) -> None:
    problem = draw_problem(4, n=200, m=m, k=2, density=0.1)
    tile = split_counts(problem.tile)
    found = by_gene(tile, m)
    cells = np.repeat(np.arange(200), np.diff(tile.indptr))
    order = np.argsort(tile.genes, kind="stable")
    np.testing.assert_array_equal(found.cells, cells[order])
    values = tile.counts.astype(np.float32) * tile.weights[cells]
    np.testing.assert_array_equal(found.values, values[order])
    edges = np.searchsorted(tile.genes[order], np.arange(m + 1))
    np.testing.assert_array_equal(found.starts, edges)


def test_a_tile_takes_its_rows_from_a_block(cupy: StandIn) -> None:
    problem = draw_problem(5, n=90, m=30, k=5)
    rows = np.array([80, 3, 4, 41, 7])
    part = CellTile(rows, *problem.tile.arrays[1:])
    expected = spmm(problem.tile, problem.metagenes.scaled)[rows]
    np.testing.assert_array_equal(spmm(part, problem.metagenes.scaled), expected)
    alone = to_device(part)
    assert len(alone.genes) == np.diff(problem.tile.indptr)[rows].sum()
    np.testing.assert_array_equal(spmm(alone, problem.metagenes.scaled), expected)
    for a, b in zip(*(by_gene(t, 30).cells for t in (part, alone)), strict=True):
        assert a == b


def test_more_genes_than_a_block_counts_are_refused(cupy: StandIn) -> None:
    with pytest.raises(ValueError, match="too many genes for the GPU"):
        by_gene(draw_problem(1).tile, 100_001)


@pytest.mark.parametrize("k", [7, 40])
def test_step_agrees_with_the_reference(cupy: StandIn, k: int) -> None:
    problem = draw_problem(3, n=150, k=k)
    H, found = minibatch_step(problem.tile, problem.metagenes, 1e-3)
    A, B = reference.statistics(problem.X, H.astype(float))
    np.testing.assert_allclose(found.A, A, rtol=1e-13, atol=1e-13 * A.max())
    np.testing.assert_allclose(found.B, B.T, rtol=2e-6)
    F = reference.objective(problem.X, H.astype(float), problem.W, problem.V, problem.lam)
    assert found.loss == pytest.approx(F, abs=1e-6 * found.squared_norm)
    assert (found.n_cells, found.n_unfinished) == (150, 0)
    assert found.squared_norm == pytest.approx(problem.X.multiply(problem.X).sum(), rel=1e-6)
    best = reference.nnls(
        problem.metagenes.gram, reference.products(problem.X, problem.W + problem.V)
    )
    least = reference.objective(problem.X, best, problem.W, problem.V, problem.lam)
    assert least <= found.loss * (1 + 1e-9)
    assert found.loss <= least * (1 + 1e-5)
    again, _ = minibatch_step(problem.tile, problem.metagenes, 1e-3, H)
    np.testing.assert_allclose(again, H, rtol=1e-6)


def test_steps_repeat_to_the_bit_in_any_order_of_threads(cupy: StandIn) -> None:
    problem = draw_problem(6, n=100, k=7)
    H, found = minibatch_step(problem.tile, problem.metagenes, 1e-3)
    cupy.seed += 77
    again, same = minibatch_step(problem.tile, problem.metagenes, 1e-3)
    np.testing.assert_array_equal(H, again)
    np.testing.assert_array_equal(found.A, same.A)
    np.testing.assert_array_equal(found.B, same.B)
    assert (found.loss, found.squared_norm) == (same.loss, same.squared_norm)


def test_unfinished_cells_are_counted(cupy: StandIn) -> None:
    problem = draw_problem(3, n=60, k=7)
    _, found = minibatch_step(problem.tile, problem.metagenes, -1.0)
    assert found.n_unfinished == 60


@pytest.mark.parametrize(("k", "m"), [(1, 5), (20, 333), (100, 70)])
def test_factor_kernels_agree_with_the_reference(cupy: StandIn, k: int, m: int) -> None:
    rng = np.random.default_rng(7)
    L, V = (rng.gamma(0.4, 1.0, (k, m)).astype(np.float32) for _ in range(2))
    G = gram(L, V, 5.0)
    expected = reference.gram(L.astype(float), V.astype(float), 5.0)
    np.testing.assert_allclose(G, expected, rtol=1e-13)
    out = rng.normal(size=(k, m))
    expected = out - G @ L
    add_product(out, G, L, -1.0)
    np.testing.assert_allclose(out, expected, rtol=1e-12, atol=1e-12 * np.abs(expected).max())
    samples = rng.gamma(0.4, 1.0, (300, k))
    S = samples.T @ samples
    S[0, :] = S[:, 0] = 0.0
    target = S @ rng.gamma(0.4, 1.0, (k, m)) + 1.0
    factor = V.copy()
    hals(factor, target, S, 2)
    expected = reference.hals(V.astype(float), target, S, 2)
    np.testing.assert_allclose(factor, expected, atol=1e-5 * expected.max())
    np.testing.assert_array_equal(factor[0], V[0])


def test_sketch_and_gram_of_genes_equal_dense_ones(cupy: StandIn) -> None:
    problem = draw_problem(8, n=120, m=60, k=2)
    X, scale = problem.X, problem.metagenes.scale
    Q = np.random.default_rng(1).normal(size=(60, 11)).astype(np.float32)
    expected = X.T @ (X @ Q.astype(float))
    for counts in (problem.tile, split_counts(problem.tile)):
        tile = DeviceTile.of(counts, scale)
        # X Q is rounded to float32.
        atol = 1e-6 * np.abs(expected).max()
        np.testing.assert_allclose(sketch_product(tile, Q, scale), expected, atol=atol)
        out = np.ones((60, 60))
        add_sparse_gram(out, tile, scale)
        np.testing.assert_allclose(out - 1.0, (X.T @ X).toarray(), rtol=1e-6, atol=1e-9)
        np.testing.assert_allclose(out, out.T, rtol=0.0 if counts is problem.tile else 1e-6)


def online_problem() -> tuple[list[list[tuple[int, CellTile]]], OnlineState, dict]:
    """Two datasets, the second without some genes, in two mini-batches."""
    rng = np.random.default_rng(9)
    draws: list[Problem] = [draw_problem(s, n=40, m=30, k=5) for s in (20, 21)]
    measured = np.ones((2, 30), bool)
    measured[1, 3:9] = False
    tiles = []
    for i, draw in enumerate(draws):
        tile = draw.tile
        counts = tile.counts * measured[i][tile.genes]
        tiles.append(CellTile(tile.rows, tile.indptr, tile.genes, counts, tile.weights))
    scale = np.array([draw.metagenes.scale for draw in draws]) * measured
    given = {
        "W": rng.random((5, 30), np.float32) * np.float32(2),
        "V": rng.random((2, 5, 30), np.float32) * np.float32(0.1),
        "scale": scale,
        "measured": measured,
        "n_cells": np.array([40, 40]),
        "lam": 5.0,
    }
    cuts = [[(0, slice(0, 25)), (1, slice(0, 10))], [(1, slice(10, 40)), (0, slice(25, 40))]]
    batches = [
        [(i, CellTile(tiles[i].rows[cut], *tiles[i].arrays[1:])) for i, cut in parts]
        for parts in cuts
    ]
    return batches, OnlineState.start(**given), given


class Plain:
    """Online iNMF from its equations, all in float64 NumPy, without increments."""

    def __init__(self, given: dict) -> None:
        self.__dict__.update(given)
        d, k, _ = self.V.shape
        self.W = self.W.astype(float)
        self.V = self.V.astype(float) * self.measured[:, None, :]
        self.A, self.A_before = np.zeros((2, d, k, k))
        self.B, self.B_before = np.zeros((2, *self.V.shape))
        self.seen = np.zeros(d)

    def epoch(self, batches: list) -> None:
        self.A_before, self.B_before = self.A.copy(), self.B.copy()
        self.A[:], self.B[:], self.seen[:] = 0.0, 0.0, 0.0
        for parts in batches:
            for i, tile in parts:
                self.take_in(i, tile)
            self.improve([i for i, _ in parts])

    def take_in(self, i: int, tile: CellTile) -> None:
        X = np.zeros((len(tile.rows), len(self.scale[i])))
        for row, c in enumerate(tile.rows):
            at = slice(tile.indptr[c], tile.indptr[c + 1])
            X[row, tile.genes[at]] = tile.counts[at] * tile.weights[c]
        X *= self.scale[i]
        L = (self.W + self.V[i]) * self.measured[i]
        H = reference.nnls(reference.gram(L, self.V[i], self.lam), X @ L.T, 1e-9)
        self.A[i] += H.T @ H
        self.B[i] += H.T @ X
        self.seen[i] += len(X)

    def improve(self, touched: list[int]) -> None:
        left = 1.0 - self.seen / self.n_cells
        A = self.A + left[:, None, None] * self.A_before
        B = self.B + left[:, None, None] * self.B_before
        for g in range(self.W.shape[1]):
            has = np.flatnonzero(self.measured[:, g])
            T = sum(B[i][:, [g]] - A[i] @ self.V[i][:, [g]] for i in has)
            self.W[:, [g]] = reference.hals(self.W[:, [g]], T, A[has].sum(axis=0))
        for i in touched:
            target = B[i] - A[i] @ self.W
            found = reference.hals(self.V[i], target, (1 + self.lam) * A[i])
            self.V[i] = found * self.measured[i]


def test_epochs_follow_the_equations_launched_and_captured(cupy: StandIn) -> None:
    batches, state, given = online_problem()
    parts = [
        [
            Part(i, DeviceTile.of(tile, state.scale[i]), np.zeros((len(tile.rows), 5), np.float32))
            for i, tile in some
        ]
        for some in batches
    ]
    # Loadings to 1e-5: the metagenes follow to about a hundred times that.
    epochs = ResidentEpochs(OnlineSteps(state, 40, tol=1e-5), parts)
    plain = Plain(given)
    for _ in range(3):
        figures = epochs.run()
        plain.epoch(batches)
        np.testing.assert_allclose(state.W, plain.W, atol=1e-3 * plain.W.max())
        np.testing.assert_allclose(state.V, plain.V, atol=1e-3 * plain.V.max())
        assert not state.V[1][:, 3:9].any()
        assert 0.0 < figures[1] < figures[0]
        assert figures[2] == 0
    np.testing.assert_allclose(state.A, plain.A, atol=1e-3 * plain.A.max())


def test_streamed_epochs_end_with_the_bits_of_resident_ones(
    cupy: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = []
    for free, kind in ((10**9, ResidentEpochs), (0, StreamedEpochs)):
        batches, state, _ = online_problem()
        monkeypatch.setattr(cupy.cuda, "memGetInfo", lambda free=free: (free, free))
        host = [[HostPart(i, tile) for i, tile in some] for some in batches]
        epochs = epochs_over(OnlineSteps(state, 40, n_sweeps=2), host)
        assert type(epochs) is kind
        figures = [epochs.run() for _ in range(2)]
        found.append([*figures, state.W, state.V, state.T, *chain(*epochs.loadings)])
    for a, b in zip(*found, strict=True):
        np.testing.assert_array_equal(a, b)


def test_streamed_tiles_arrive_whole_and_in_order(cupy: StandIn) -> None:
    problem = draw_problem(11, n=100, m=40, k=3)
    rng = np.random.default_rng(0)
    rows = [np.arange(0, 30), rng.permutation(100)[:40], np.arange(90, 100), np.array([5])]
    tiles = [CellTile(some, *problem.tile.arrays[1:]) for some in rows]
    stream = TileStream(40, len(problem.tile.genes), np.uint16, np.float32)
    whole = spmm(problem.tile, problem.metagenes.scaled)
    n_seen = 0
    for some, tile in zip(rows, stream(tiles), strict=True):
        np.testing.assert_array_equal(spmm(tile, problem.metagenes.scaled), whole[some])
        n_seen += 1
    assert n_seen == 4
    assert list(stream([])) == []


def test_what_fits_is_told_from_what_does_not(cupy: StandIn) -> None:
    # 10,000 bytes are free: 8,000 may be taken.
    assert fits(nnz=400, n_cells=20, k=12)
    assert not fits(nnz=401, n_cells=20, k=12)
