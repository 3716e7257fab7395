"""The kernels on a GPU, against their specification and the CPU's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cuda_emulation.drawing import Problem, draw_problem

from tigon.kernels import reference
from tigon.kernels.gpu import factors, least_squares, products, sketches
from tigon.kernels.gpu.epochs import ResidentEpochs
from tigon.kernels.gpu.minibatch import DeviceTile, minibatch_step
from tigon.kernels.gpu.online import OnlineState, OnlineSteps, Part
from tigon.kernels.gpu.resident import TileStream, to_device
from tigon.kernels.tile import CellTile, Metagenes

cupy = pytest.importorskip("cupy", reason="no CuPy", exc_type=ImportError)


def _has_device() -> bool:
    try:
        return bool(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _has_device(), reason="no CUDA device"),
]

TOLERANCES = {"fast": 1e-3, "tight": 1e-6, "exact": 1e-10}
FACTORS = [1, 2, 20, 40, 100, 128]


def draw_system(seed: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A Gram matrix of sparse metagenes, and products of half-empty loadings, with noise."""
    rng = np.random.default_rng(seed)
    L = rng.gamma(0.4, 1.0, (k, 20 * k + 5))
    L *= rng.random(L.shape) < max(0.15, 1 / k)
    G = L @ L.T
    H = rng.gamma(0.4, 1.0, (n, k)) * (rng.random((n, k)) < 0.5)
    R = H @ G + rng.normal(0.0, 0.3 * np.sqrt(np.diag(G)), (n, k))
    return G, R


def objectives(G: np.ndarray, R: np.ndarray, H: np.ndarray) -> np.ndarray:
    return np.einsum("ci,ci->c", H @ G - 2 * R, H)


def solve(G: np.ndarray, R: np.ndarray, mode: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    found = least_squares.solve(cupy.asarray(G), cupy.asarray(R), None, TOLERANCES[mode], mode)
    return tuple(cupy.asnumpy(array) for array in found)


@pytest.mark.parametrize("k", FACTORS)
def test_fast_mode_reaches_its_tolerance_as_the_cpu_does(k: int) -> None:
    from tigon.kernels import nnls

    G, R = draw_system(k, k, 5000)
    H, sweeps, residual = solve(G, R, "fast")
    assert reference.kkt_residual(G, R, H.astype(float)).max() <= 1e-3
    assert residual.max() <= 1e-3
    assert sweeps.max() < 500
    on_cpu = nnls(G.astype(np.float32), R.astype(np.float32), mode="fast")[0].astype(float)
    totals = [objectives(G, R, each.astype(float)).sum() for each in (H, on_cpu)]
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)


@pytest.mark.parametrize("k", FACTORS)
def test_tight_mode_finds_the_loadings_of_the_cpu(k: int) -> None:
    from tigon.kernels import nnls

    G, R = draw_system(k + 1, k, 1000)
    H, _, _ = solve(G, R, "tight")
    assert reference.kkt_residual(G, R, H).max() <= 1e-6 * (1 + 1e-6)
    on_cpu = nnls(G, R, mode="tight")[0]
    assert np.abs(H - on_cpu).max() <= 1e-5 * np.abs(on_cpu).max()


@pytest.mark.parametrize("k", FACTORS)
def test_exact_mode_certifies_its_loadings(k: int) -> None:
    G, R = draw_system(k + 2, k, 2000)
    H, pivots, residual = solve(G, R, "exact")
    assert residual.max() <= 1e-10
    assert reference.kkt_residual(G, R, H).max() <= 1e-10
    assert pivots.min() >= 1
    some = slice(0, 50)
    expected = reference.nnls(G, R[some], 1e-13)
    # What a residual of 1e-13 leaves in the loadings of these well-conditioned systems.
    assert np.abs(H[some] - expected).max() <= 1e-10 * np.abs(expected).max()


@pytest.mark.parametrize("mode", ["fast", "tight", "exact"])
def test_a_cell_knows_nothing_of_its_neighbours(mode: str) -> None:
    G, R = draw_system(3, 40, 3000)
    H = solve(G, R, mode)[0]
    order = np.random.default_rng(0).permutation(3000)[:1234]
    np.testing.assert_array_equal(solve(G, R[order], mode)[0], H[order])


@pytest.mark.parametrize("mode", ["fast", "tight", "exact"])
def test_degenerate_systems_have_answers(mode: str) -> None:
    rng = np.random.default_rng(4)
    L = rng.gamma(0.4, 1.0, (12, 60))
    L[3] = 0.0
    L[7] = L[2]
    L[8] = L[2] + 1e-6 * L[5]
    G = L @ L.T
    R = rng.gamma(0.5, 1.0, (500, 60)) @ L.T
    R[4] = 0.0
    R[5] = -R[5]
    H, _, residual = solve(G, R, mode)
    assert np.isfinite(H).all()
    assert (H >= 0).all()
    assert not H[4:6].any()
    # Nearly parallel factors leave more rounding in the gradient of an exact solution.
    assert residual.max() <= {"fast": 1e-3, "tight": 1e-6, "exact": 1e-9}[mode]


def on_device(problem: Problem) -> tuple[CellTile, Metagenes]:
    metagenes = problem.metagenes
    parts = (cupy.asarray(array) for array in (metagenes.scaled, metagenes.gram, metagenes.scale))
    return to_device(problem.tile), Metagenes(*parts)


@pytest.fixture(scope="module")
def problem() -> Problem:
    return draw_problem(1, n=5000, m=2000, k=40, density=0.05)


def test_sparse_products_equal_dense_ones(problem: Problem) -> None:
    tile, metagenes = on_device(problem)
    R = cupy.asnumpy(products.spmm(tile, metagenes.scaled))
    # Some 100 float32 products of one sign a sum.
    expected = reference.products(problem.X, problem.W + problem.V)
    np.testing.assert_allclose(R, expected, rtol=5e-6)
    genes = products.by_gene(tile, 2000)
    order = np.argsort(problem.tile.genes, kind="stable")
    cells = np.repeat(np.arange(5000), np.diff(problem.tile.indptr))
    np.testing.assert_array_equal(cupy.asnumpy(genes.cells), cells[order])
    H = np.random.default_rng(0).gamma(0.4, 1.0, (5000, 40)).astype(np.float32)
    B = cupy.asnumpy(products.gene_products(genes, cupy.asarray(H), metagenes.scale))
    np.testing.assert_allclose(B, reference.statistics(problem.X, H.astype(float))[1].T, rtol=2e-6)


def test_step_agrees_with_the_reference(problem: Problem) -> None:
    H_device, found = minibatch_step(*on_device(problem), 1e-3)
    H = cupy.asnumpy(H_device).astype(float)
    A, B = reference.statistics(problem.X, H)
    np.testing.assert_allclose(cupy.asnumpy(found.A), A, rtol=1e-12, atol=1e-13 * A.max())
    np.testing.assert_allclose(cupy.asnumpy(found.B), B.T, rtol=2e-6, atol=1e-9 * B.max())
    F = reference.objective(problem.X, H, problem.W, problem.V, problem.lam)
    assert found.loss == pytest.approx(F, abs=1e-6 * found.squared_norm)
    assert (found.n_cells, found.n_unfinished) == (5000, 0)


@pytest.mark.parametrize(("k", "m"), [(1, 5), (20, 2000), (100, 2000)])
def test_factor_kernels_agree_with_the_reference(k: int, m: int) -> None:
    rng = np.random.default_rng(7)
    L, V = (rng.gamma(0.4, 1.0, (k, m)).astype(np.float32) for _ in range(2))
    G = cupy.asnumpy(factors.gram(cupy.asarray(L), cupy.asarray(V), 5.0))
    np.testing.assert_allclose(G, reference.gram(L.astype(float), V.astype(float), 5.0), rtol=1e-12)
    out = cupy.asarray(rng.normal(size=(k, m)))
    expected = cupy.asnumpy(out) - G @ L
    factors.add_product(out, cupy.asarray(G), cupy.asarray(L), -1.0)
    np.testing.assert_allclose(cupy.asnumpy(out), expected, atol=1e-12 * np.abs(expected).max())
    samples = rng.gamma(0.4, 1.0, (300, k))
    S = samples.T @ samples
    target = S @ rng.gamma(0.4, 1.0, (k, m)) + 1.0
    factor = cupy.array(V)
    factors.hals(factor, cupy.asarray(target), cupy.asarray(S), 2)
    expected = reference.hals(V.astype(float), target, S, 2)
    np.testing.assert_allclose(cupy.asnumpy(factor), expected, atol=1e-5 * expected.max())


def test_gene_side_products_equal_dense_ones(problem: Problem) -> None:
    tile, metagenes = on_device(problem)
    ready, X = DeviceTile.of(tile, metagenes.scale), problem.X
    Q = np.random.default_rng(1).normal(size=(2000, 60)).astype(np.float32)
    found = cupy.asnumpy(sketches.sketch_product(ready, cupy.asarray(Q), metagenes.scale))
    expected = X.T @ (X @ Q.astype(float))
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    out = cupy.zeros((2000, 2000))
    sketches.add_sparse_gram(out, ready, metagenes.scale)
    expected = (X.T @ X).toarray()
    np.testing.assert_allclose(cupy.asnumpy(out), expected, atol=1e-6 * expected.max())


def run_epochs(n_epochs: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two datasets in four mini-batches; states after each epoch, and figures."""
    rng = np.random.default_rng(9)
    draws = [draw_problem(20 + i, n=4000, m=500, k=20) for i in range(2)]
    state = OnlineState.start(
        rng.random((20, 500), np.float32) * np.float32(2),
        rng.random((2, 20, 500), np.float32) * np.float32(0.1),
        np.array([draw.metagenes.scale for draw in draws]),
        np.ones((2, 500), bool),
        np.array([4000, 4000]),
        5.0,
    )
    minibatches = []
    for first in range(0, 4000, 1000):
        cut = [CellTile(d.tile.rows[first : first + 1000], *d.tile.arrays[1:]) for d in draws]
        parts = [
            Part(i, DeviceTile.of(to_device(tile), state.scale[i]), cupy.zeros((1000, 20), "f4"))
            for i, tile in enumerate(cut)
        ]
        minibatches.append(parts)
    epochs = ResidentEpochs(OnlineSteps(state, 1000), minibatches)
    found, figures = [], []
    for _ in range(n_epochs):
        figures.append(epochs.run())
        found.append(cupy.asnumpy(state.W))
    return found, figures


def test_epochs_as_graphs_improve_the_objective_and_repeat() -> None:
    W, figures = run_epochs(4)
    losses = [float(figure[1]) for figure in figures]
    assert losses[1] < losses[0]
    assert losses[3] <= losses[1]
    assert all(figure[2] == 0 for figure in figures)
    again, _ = run_epochs(4)
    for a, b in zip(W, again, strict=True):
        np.testing.assert_array_equal(a, b)


def bits_of_a_step(problem: Problem) -> list[np.ndarray]:
    H, found = minibatch_step(*on_device(problem), 1e-3)
    return [cupy.asnumpy(array) for array in (H, found.A, found.B)]


def bits_of_modes(_: Problem) -> list[np.ndarray]:
    G, R = draw_system(5, 100, 3000)
    return [solve(G, R, mode)[0] for mode in ("fast", "tight", "exact")]


@pytest.mark.parametrize("run", [bits_of_a_step, bits_of_modes])
def test_results_repeat_to_the_bit_on_any_stream(
    problem: Problem, run: Callable[[Problem], list[np.ndarray]]
) -> None:
    first = run(problem)
    stream: Any = cupy.cuda.Stream(non_blocking=True)
    with stream:
        second = run(problem)
    stream.synchronize()
    for a, b, c in zip(first, second, run(problem), strict=True):
        np.testing.assert_array_equal(a, b)
        np.testing.assert_array_equal(a, c)


def test_streamed_tiles_arrive_whole_and_in_order(problem: Problem) -> None:
    scaled = cupy.asarray(problem.metagenes.scaled)
    whole = cupy.asnumpy(products.spmm(to_device(problem.tile), scaled))
    rng = np.random.default_rng(0)
    rows = [rng.permutation(5000)[:1500] for _ in range(6)] + [np.arange(100, 1100)]
    tiles = [CellTile(some, *problem.tile.arrays[1:]) for some in rows]
    stream = TileStream(1500, len(problem.tile.genes), np.uint16, np.float32)
    found = [products.spmm(tile, scaled) for tile in stream(tiles)]
    for some, R in zip(rows, found, strict=True):
        np.testing.assert_array_equal(cupy.asnumpy(R), whole[some])
