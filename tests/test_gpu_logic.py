"""The logic of the CUDA kernels, run on the processor from their own source.

No GPU is needed: ``cuda_emulation`` compiles the kernels with g++ and runs every
thread as a coroutine, in an order drawn from a seed; NumPy stands in for CuPy.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cuda_emulation.loading import forget_kernels, require_compiler, stand_in_for_cupy
from cuda_emulation.stand_in import EmulationError, StandIn
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls as scipy_nnls

from tigon.kernels import reference
from tigon.kernels.gpu import modules
from tigon.kernels.gpu.least_squares import MAX_FACTORS, Descent, solve
from tigon.kernels.gpu.modules import source
from tigon.kernels.gpu.pivoting import pivot_into


@pytest.fixture(scope="module")
def cupy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StandIn]:
    require_compiler()
    with stand_in_for_cupy(tmp_path_factory.mktemp("kernels")) as found:
        yield found


TOLERANCES = {"fast": 1e-3, "tight": 1e-6, "exact": 1e-10}


def nnls(
    G: np.ndarray, R: np.ndarray, H0: np.ndarray | None = None, mode: str = "fast"
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return solve(G, R, H0, TOLERANCES[mode], mode)


def draw_system(seed: int, k: int, n: int) -> tuple[np.ndarray, np.ndarray]:
    """A Gram matrix, and products of loadings that are half zeros, with noise."""
    rng = np.random.default_rng(seed)
    L = rng.gamma(0.4, 1.0, (k, 20 * k + 5))
    G = L @ L.T
    H = rng.gamma(0.4, 1.0, (n, k)) * (rng.random((n, k)) < 0.5)
    R = H @ G + rng.normal(0.0, 0.3 * np.sqrt(np.diag(G)), (n, k))
    return G, R


def replace_source(monkeypatch: pytest.MonkeyPatch, changes: dict[str, str]) -> None:
    """Compile the next kernels from a changed source."""

    def changed(name: str) -> str:
        text = source(name)
        for old, new in changes.items():
            assert old in text
            text = text.replace(old, new)
        return text

    monkeypatch.setattr(modules, "source", changed)
    forget_kernels()


BARRIER = """
extern __shared__ __align__(16) unsigned char shared_memory[];
extern "C" __global__ void neighbours(const int* in, int* out) {
  int* held = reinterpret_cast<int*>(shared_memory);
  held[threadIdx.x] = in[threadIdx.x];
  %s
  out[threadIdx.x] = held[(threadIdx.x + 1) %% 32];
}
"""


def run_barrier(cupy: StandIn, statement: str, shared_bytes: int = 128) -> np.ndarray:
    kernel = cupy.RawModule(code=BARRIER % statement).get_function("neighbours")
    out = np.empty(32, np.int32)
    kernel((1,), (32,), (np.arange(32, dtype=np.int32), out), shared_mem=shared_bytes)
    return out


def test_emulation_tells_a_barrier_from_its_absence(cupy: StandIn) -> None:
    right = np.roll(np.arange(32), -1)
    assert (run_barrier(cupy, "__syncwarp();") == right).all()
    assert (run_barrier(cupy, "__syncthreads();") == right).all()
    assert (run_barrier(cupy, "") != right).any()


def test_emulation_refuses_what_cuda_forbids(cupy: StandIn) -> None:
    with pytest.raises(EmulationError, match=r"never come|has ended"):
        run_barrier(cupy, "if (threadIdx.x < 16) __syncwarp();")
    with pytest.raises(EmulationError, match="different collectives"):
        run_barrier(cupy, "if (threadIdx.x < 16) __syncwarp(); else __ballot_sync(~0u, 1);")
    with pytest.raises(EmulationError, match="leaves it out"):
        run_barrier(cupy, "__syncwarp(1u);")
    with pytest.raises(EmulationError, match="past shared memory"):
        run_barrier(cupy, "__syncwarp();", shared_bytes=64)


@pytest.mark.parametrize("mode", ["fast", "tight"])
@pytest.mark.parametrize("k", [1, 7, 20, 100, 128])
def test_nnls_reaches_its_tolerance(cupy: StandIn, k: int, mode: str) -> None:
    G, R = draw_system(k, k, 37)
    H, sweeps, residual = nnls(G, R, mode=mode)
    true = reference.kkt_residual(G, R, H.astype(float))
    assert residual.max() <= TOLERANCES[mode]
    np.testing.assert_allclose(residual, true, atol=1e-13)
    assert (H >= 0).all()
    assert (sweeps < 500).all()


@pytest.mark.parametrize("k", [7, 100])
def test_a_cell_knows_nothing_of_its_neighbours(cupy: StandIn, k: int) -> None:
    G, R = draw_system(3, k, 70)
    together = nnls(G, R)
    order = np.random.default_rng(0).permutation(70)
    for some in (order, order[:9]):
        alone = nnls(G, R[some])
        for a, b in zip(alone, together, strict=True):
            np.testing.assert_array_equal(a, b[some])


@pytest.mark.parametrize(("k", "mode"), [(20, "fast"), (20, "exact"), (40, "exact")])
def test_the_order_of_threads_does_not_matter(cupy: StandIn, k: int, mode: str) -> None:
    G, R = draw_system(5, k, 12)
    first = nnls(G, R, mode=mode)
    for _ in range(3):
        cupy.seed += 1000
        for a, b in zip(nnls(G, R, mode=mode), first, strict=True):
            np.testing.assert_array_equal(a, b)
    if mode == "exact":
        # A handful of exchanges, as the method takes where nothing goes wrong.
        assert first[1].max() <= 6


@pytest.mark.parametrize("k", [7, 40])
def test_descent_after_pivoting_repeats_in_any_order_of_threads(
    cupy: StandIn, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    """Without the polish, whose solve would hide a missing barrier."""
    G, R = draw_system(6, k, 5)
    expected = nnls(G, R, mode="exact")[0]
    changes = {
        "PIVOTS_PER_FACTOR = 5": "PIVOTS_PER_FACTOR = 0",
        "value = polish(": "if (false) polish(",
    }
    replace_source(monkeypatch, changes)
    found = []
    for _ in range(3):
        cupy.seed += 1000
        H, pivots, residual = np.zeros((5, k)), np.empty(5, np.int32), np.empty(5)
        pivot_into(G, R, H, pivots, residual, 1e-10)
        assert residual.max() <= 1e-11
        found.append(H)
        np.testing.assert_array_equal(H, found[0])
    np.testing.assert_allclose(found[0], expected, atol=1e-8 * expected.max())
    forget_kernels()


@pytest.mark.parametrize("k", [7, 40])
def test_pivoting_alone_repeats_in_any_order_of_threads(
    cupy: StandIn, monkeypatch: pytest.MonkeyPatch, k: int
) -> None:
    """Without what mends a failure, which would hide a missing barrier."""
    G, R = draw_system(6, k, 8)
    expected = nnls(G, R, mode="exact")[0]
    replace_source(monkeypatch, {"if (!(value <= limit))": "if (false)"})
    for _ in range(4):
        cupy.seed += 1000
        H, pivots, residual = np.zeros((8, k)), np.empty(8, np.int32), np.empty(8)
        pivot_into(G, R, H, pivots, residual, 1e-10)
        assert residual.max() <= 1e-13
        assert pivots.max() <= 12
        np.testing.assert_allclose(H, expected, atol=1e-10 * expected.max())
    forget_kernels()


def test_cells_beyond_the_grid_are_taken_in_turn(cupy: StandIn) -> None:
    # The stand-in has 3 multiprocessors: 48 blocks of 16 cells are fewer than these.
    G, R = draw_system(6, 3, 48 * 16 + 5)
    H, _, residual = nnls(G, R)
    assert residual.max() <= 1e-3
    np.testing.assert_array_equal(H[-5:], nnls(G, R[-5:])[0])


@pytest.mark.parametrize("mode", ["fast", "tight"])
def test_a_start_that_is_optimal_takes_no_sweep(cupy: StandIn, mode: str) -> None:
    G, R = draw_system(8, 20, 40)
    H = reference.nnls(G, R, 1e-9)
    found, sweeps, _ = nnls(G, R, H, mode=mode)
    assert (sweeps == 0).all()
    np.testing.assert_allclose(found, H, rtol=1e-6 if mode == "fast" else 1e-14)


def test_degenerate_systems_have_answers(cupy: StandIn) -> None:
    G, R = draw_system(9, 12, 30)
    L = np.linalg.cholesky(G).T
    L[:, 3] = 0.0
    L[:, 7] = L[:, 2]
    L[:, 8] = L[:, 2] * (1 + 1e-6)
    G = L.T @ L
    R = np.random.default_rng(1).gamma(0.5, 1.0, (30, 12)) @ G
    R[4] = 0.0
    R[5] = -R[5]
    for mode in ("fast", "tight"):
        H, _, residual = nnls(G, R, mode=mode)
        assert np.isfinite(H).all()
        assert residual.max() <= TOLERANCES[mode]
        assert not H[4].any()
        assert not H[5].any()
        assert not H[:, 3].any()


def test_no_cells_is_no_launch(cupy: StandIn) -> None:
    before = cupy.n_launches
    H, sweeps, residual = nnls(np.eye(3), np.empty((0, 3)))
    assert H.shape == (0, 3)
    assert len(sweeps) == len(residual) == 0
    assert cupy.n_launches == before


def test_two_cells_to_a_group_end_as_one_does(cupy: StandIn) -> None:
    G, R = draw_system(11, 100, 21)
    assert Descent(100).columns == 2
    fast = nnls(G, R)[0]
    np.testing.assert_array_equal(fast[4:5], nnls(G, R[4:5])[0])


def scipy_solution(G: np.ndarray, R: np.ndarray) -> np.ndarray:
    """SciPy on the Cholesky-reduced system: A^T A = G, A^T b = r."""
    A = np.linalg.cholesky(G).T
    return np.array([scipy_nnls(A, np.linalg.solve(A.T, r))[0] for r in R])


@pytest.mark.parametrize("k", [1, 2, 20, 40, 100, 128])
def test_exact_mode_agrees_with_scipy(cupy: StandIn, k: int) -> None:
    G, R = draw_system(k + 1, k, 6)
    H, pivots, residual = nnls(G, R, mode="exact")
    assert residual.max() <= 1e-10
    assert reference.kkt_residual(G, R, H).max() <= 1e-10
    expected = scipy_solution(G, R)
    assert np.abs(H - expected).max() <= 1e-10 * np.abs(expected).max()
    assert (pivots >= 1).all()


@pytest.mark.parametrize("k", [7, 40])
def test_exact_mode_from_zero_finds_the_same(cupy: StandIn, k: int) -> None:
    G, R = draw_system(k + 2, k, 10)
    H, pivots, residual = np.zeros((10, k)), np.empty(10, np.int32), np.empty(10)
    pivot_into(G, R, H, pivots, residual, 1e-10)
    assert residual.max() <= 1e-10
    np.testing.assert_allclose(H, nnls(G, R, mode="exact")[0], atol=1e-10 * H.max())


def test_exact_mode_on_degenerate_systems(cupy: StandIn) -> None:
    """Duplicate, zero and nearly parallel factors, and more factors than genes."""
    rng = np.random.default_rng(4)
    parallel = rng.gamma(0.4, 1.0, (12, 60))
    parallel[3] = 0.0
    parallel[7] = parallel[2]
    parallel[8] = parallel[2] + 1e-6 * parallel[5]
    for L in (parallel, rng.gamma(0.4, 1.0, (12, 5)), np.ones((12, 1))):
        G = L @ L.T
        R = np.abs(rng.normal(0.0, 1.0, (20, L.shape[1]))) @ L.T
        R[4] = 0.0
        R[5] = -R[5]
        H, _, residual = nnls(G, R, mode="exact")
        assert np.isfinite(H).all()
        assert (H >= 0).all()
        assert not H[4:6].any()
        # Nearly parallel factors amplify rounding by at most 1e6 / 1e-16 of the products.
        assert residual.max() <= 1e-9
        best = reference.nnls(G, R, 1e-9, max_sweeps=20_000)
        values = [np.einsum("ci,ij,cj->c", X, G, X) - 2 * (X * R).sum(1) for X in (H, best)]
        assert (values[0] <= values[1] + 1e-8 * np.abs(values[1])).all()


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_exact_mode_does_not_depend_on_scale(cupy: StandIn, scale: float) -> None:
    G, R = draw_system(13, 20, 8)
    H = nnls(G, R, mode="exact")[0]
    H_scaled, _, residual = nnls(G * scale, R * scale, mode="exact")
    assert residual.max() <= 1e-10
    np.testing.assert_allclose(H_scaled, H, atol=1e-10 * H.max())


def test_exact_mode_falls_back_where_pivoting_ends_unsolved(
    cupy: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    G, R = draw_system(17, 20, 10)
    expected = nnls(G, R, mode="exact")[0]
    replace_source(monkeypatch, {"PIVOTS_PER_FACTOR = 5": "PIVOTS_PER_FACTOR = 0"})
    H, pivots, residual = np.zeros((10, 20)), np.empty(10, np.int32), np.empty(10)
    pivot_into(G, R, H, pivots, residual, 1e-10)
    forget_kernels()
    assert (pivots == 1).all()
    assert residual.max() <= 1e-10
    np.testing.assert_allclose(H, expected, atol=1e-10 * H.max())


def test_more_factors_than_lanes_hold_are_refused(cupy: StandIn) -> None:
    k = MAX_FACTORS + 1
    with pytest.raises(ValueError, match=r"too many factors for the GPU \(129\): at most 128"):
        nnls(np.eye(k), np.ones((2, k)))


def test_too_little_shared_memory_is_told(cupy: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"MultiProcessorCount": 3, "MaxSharedMemoryPerBlockOptin": 49_152}
    monkeypatch.setattr(type(cupy.cuda), "attributes", small)
    forget_kernels()
    with pytest.raises(ValueError, match="a block of this GPU has 49152"):
        nnls(np.eye(128), np.ones((2, 128)), mode="tight")
    assert nnls(np.eye(20), np.ones((2, 20)), mode="tight")[0].max() == 1.0
    monkeypatch.undo()
    forget_kernels()


def condition(G: np.ndarray) -> float:
    """Condition number of the factors that are not zero, scaled to unit diagonal."""
    used = np.diag(G) > 0
    scale = 1.0 / np.sqrt(np.diag(G)[used])
    return (
        float(np.linalg.cond(G[np.ix_(used, used)] * np.outer(scale, scale))) if len(scale) else 1.0
    )


@given(
    seed=st.integers(0, 2**32 - 1),
    k=st.sampled_from([1, 7, 20]),
    n=st.integers(0, 40),
    density=st.floats(0.0, 1.0),
    size=st.floats(-8.0, 8.0),
    mode=st.sampled_from(["fast", "tight", "exact"]),
)
@settings(deadline=None, max_examples=40)
def test_any_system_is_solved_to_its_tolerance(
    cupy: StandIn, seed: int, k: int, n: int, density: float, size: float, mode: str
) -> None:
    rng = np.random.default_rng(seed)
    L = rng.gamma(0.3, 1.0, (k, 3 * k)) * (rng.random((k, 1)) < 0.95)
    G = 10.0**size * (L @ L.T)
    R = 10.0**size * (rng.normal(0.3, 1.0, (n, 3 * k)) * (rng.random((n, 3 * k)) < density)) @ L.T
    H, _, residual = nnls(G, R, mode=mode)
    assert np.isfinite(H).all()
    assert (H >= 0).all()
    assert not H[:, np.diag(G) == 0].any()
    # Factors may be close to dependent: 500 sweeps may then fall short, and say so.
    if mode == "exact" or condition(G) < 1e3:
        assert residual.max(initial=0.0) <= TOLERANCES[mode]
    true = reference.kkt_residual(G, R, H.astype(float))
    np.testing.assert_allclose(residual, true, atol=1e-11)
