"""Batch iNMF: the path of alternating least squares, an F that never rises, the same bits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import anndata
import numpy as np
import pytest
from atlases import planted
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import sparse
from scipy.optimize import nnls

import tigon
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf import batch, improving
from tigon.scaling.inmf.checkpoint import Checkpoints
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.cutting import task_cuts
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.state import Problem, State, init_state
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.storage.packs.pack import Pack

Array = NDArray[np.float64]


class Stopped(Exception):
    """What interrupts a fit."""


@dataclass(frozen=True)
class Case:
    """Packed cells, and a start."""

    pack: Pack
    problem: Problem
    k: int

    def start(self) -> State:
        return init_state(self.problem, self.k, np.random.SeedSequence(1))

    def dense(self) -> list[Array]:
        """Scaled counts of each dataset, cells in the order of the pack."""
        block = self.pack.read(0, self.pack.n_cells)
        counts = (block.counts.astype(float), block.genes.astype(np.int64), block.indptr)
        X = sparse.csr_array(counts, (self.pack.n_cells, self.pack.n_genes)).toarray()
        X *= block.weights[:, None].astype(float)
        d = self.problem.n_datasets
        return [X[block.datasets == i] * self.problem.scale[i] for i in range(d)]


def packed(folder: Path, adata: anndata.AnnData, k: int, hidden: bool = False) -> Case:
    """Cells of an AnnData; half of the genes are hidden in every second dataset."""
    parts = [adata[adata.obs["batch"] == name].copy() for name in sorted(set(adata.obs["batch"]))]
    if hidden:
        shown = np.arange(adata.n_vars) % 2 == 0
        parts = [p[:, shown].copy() if i % 2 else p for i, p in enumerate(parts)]
    with tigon.open(parts, join="outer") as atlas, ThreadEngine(1) as engine:
        prepared = prepare(atlas, PrepareConfig(batch_key="batch", n_genes="all"), k, engine)
        chosen = prepared.datasets, prepared.statistics, prepared.genes
        pack = build_pack(atlas, *chosen, folder / "pack", engine, np.random.SeedSequence(0))
    return Case(pack, prepared.problem(5.0), k)


def with_empty_cells(adata: anndata.AnnData) -> anndata.AnnData:
    adata.X = sparse.csr_matrix(adata.X.multiply(np.arange(adata.n_obs)[:, None] % 9 != 4))
    return adata


def config_of(case: Case, **given: float) -> INMFConfig:
    """Tight, and ended by the number of iterations alone."""
    return INMFConfig(**{"n_components": case.k, "tol_batch": 0.0, "tol_residual": 0.0} | given)


def fit(
    case: Case,
    folder: Path,
    n_iterations: int = 5,
    n_threads: int = 1,
    state: State | None = None,
    stop_after: int | None = None,
    checkpoints: Checkpoints | None = None,
    **given: float,
) -> tuple[State, History]:
    """Iterate; ``stop_after`` so many tasks an exception interrupts it."""
    folder.mkdir(exist_ok=True)
    n_tasks = 0

    def progress(stage: str, done: int, total: int, **figures: float) -> None:
        nonlocal n_tasks
        n_tasks += 1
        if n_tasks == stop_after:
            raise Stopped

    with ThreadEngine(n_threads) as engine:
        return batch.descend(
            case.pack,
            folder,
            case.problem,
            state or case.start(),
            n_iterations,
            config_of(case, **given),
            engine,
            History(),
            progress,
            checkpoints,
        )


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """Three tasks a pass."""
    adata = planted(n=2600, m=70, k=4, d=3).adata
    return packed(tmp_path_factory.mktemp("case"), adata, 4, hidden=True)


def loadings(X: list[Array], W: Array, V: Array, problem: Problem) -> list[Array]:
    """The best of every cell, by SciPy."""
    found = []
    for x, v, seen in zip(X, V, problem.measured, strict=True):
        stacked = np.vstack([((W + v) * seen).T, np.sqrt(problem.lam) * v.T])
        found.append([nnls(stacked, np.append(row, np.zeros(len(row))))[0] for row in x])
    return [np.array(H) for H in found]


def best_metagenes(
    X: list[Array], H: list[Array], measured: NDArray[np.bool_], lam: float
) -> tuple[Array, Array]:
    """W and all V_i of every gene at once: one problem of k (d + 1) unknowns a gene."""
    d, k, m = len(X), H[0].shape[1], X[0].shape[1]
    W, V = np.zeros((k, m)), np.zeros((d, k, m))
    for g in range(m):
        rows, targets = [], []
        for i in np.flatnonzero(measured[:, g]):
            both, own = np.zeros((2, len(H[i]), k * (d + 1)))
            both[:, :k] = both[:, k * (i + 1) : k * (i + 2)] = H[i]
            own[:, k * (i + 1) : k * (i + 2)] = np.sqrt(lam) * H[i]
            rows += [both, own]
            targets += [X[i][:, g], np.zeros(len(H[i]))]
        found = nnls(np.vstack(rows), np.concatenate(targets))[0]
        W[:, g], V[:, :, g] = found[:k], found[k:].reshape(d, k)
    return W, V


def objective(X: list[Array], H: list[Array], W: Array, V: Array, problem: Problem) -> float:
    """F from its definition."""
    total = 0.0
    for x, h, v, seen in zip(X, H, V, problem.measured, strict=True):
        missing = (x - h @ (W + v)) * seen
        total += float((missing**2).sum() + problem.lam * ((h @ v) ** 2).sum())
    return total


@pytest.mark.parametrize(
    ("k", "d", "hidden", "empty"),
    [(3, 2, False, False), (3, 3, True, False), (3, 2, False, True), (1, 2, True, True)],
)
def test_the_path_is_that_of_alternating_least_squares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, k: int, d: int, hidden: bool, empty: bool
) -> None:
    """SciPy solves both halves of an iteration exactly; so do sweeps, if there are many."""
    monkeypatch.setattr(improving, "N_SWEEPS", 300)
    adata = planted(n=120, m=20, k=3, d=d).adata
    case = packed(tmp_path, with_empty_cells(adata) if empty else adata, k, hidden)
    state, history = fit(case, tmp_path / "fit", tol=1e-5)
    X, problem = case.dense(), case.problem
    start = case.start()
    W, V, path = start.W.astype(float), start.V.astype(float), []
    for _ in history.step:
        H = loadings(X, W, V, problem)
        path.append(objective(X, H, W, V, problem))
        W, V = best_metagenes(X, H, problem.measured, problem.lam)
    found = np.array(history.loss) * case.pack.n_cells
    # Loadings are solved to 1e-5. Theirs is the square of it in the F that they minimise, and
    # ten times as much, the condition of random metagenes, in the F of the iteration after.
    np.testing.assert_allclose(found[0], path[0], rtol=1e-8)
    np.testing.assert_allclose(found, path, rtol=1e-4)
    assert len(path) == 5
    assert (state.V[~np.repeat(problem.measured[:, None], k, axis=1)] == 0).all()


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 1000),
    k=st.sampled_from([1, 2, 5]),
    d=st.integers(1, 3),
    hidden=st.booleans(),
    tol=st.sampled_from([1e-5, 1e-3, 0.5]),
)
def test_objective_never_rises(
    tmp_path_factory: pytest.TempPathFactory, seed: int, k: int, d: int, hidden: bool, tol: float
) -> None:
    adata = with_empty_cells(planted(n=240, m=30, k=3, d=d, seed=seed, depth=300).adata)
    folder = tmp_path_factory.mktemp("never")
    case = packed(folder, adata, k, hidden)
    raw: list[tuple[float, float]] = []
    judge = batch._judge

    def watching(state, tried, tables, problem, at, *rest):  # type: ignore[no-untyped-def]
        F = at.total + batch.explained(problem, tables, tried.W, tried.V, state.A, state.B)
        raw.append((F, at.total))
        return judge(state, tried, tables, problem, at, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batch, "_judge", watching)
        _, history = fit(case, folder / "fit", 60, tol=tol)
    assert (np.diff(history.loss) <= 0).all()
    assert (np.array(history.fall[1:]) >= 0).all()
    # Before anything is refused F rises by no more than float32 metagenes explain.
    F, size = np.array(raw).T
    assert (np.diff(F) <= 1e-8 * size[1:]).all()


def test_what_would_raise_the_objective_is_refused(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, good_history = fit(case, tmp_path / "good", 3)
    improve, n_called = batch.improve, 0

    def worse(state: State, problem: Problem, engine: ThreadEngine) -> State:
        nonlocal n_called
        n_called += 1
        found = improve(state, problem, engine)
        if n_called == 3:
            found.W[:, ::2] *= 0
        return found

    monkeypatch.setattr(batch, "improve", worse)
    state, history = fit(case, tmp_path / "bad", 50)
    for name in ("W", "V", "A", "B", "sizes"):
        np.testing.assert_array_equal(getattr(state, name), getattr(good, name))
    assert history.loss == good_history.loss


def test_reported_sums_are_those_of_the_metagenes(case: Case, tmp_path: Path) -> None:
    state, history = fit(case, tmp_path, 30, tol=1e-5)
    X, problem = case.dense(), case.problem
    W, V = state.W.astype(float), state.V.astype(float)
    H = loadings(X, W, V, problem)
    F = objective(X, H, W, V, problem)
    assert abs(history.loss[-1] * case.pack.n_cells - F) <= 1e-7 * F
    for i, (x, h) in enumerate(zip(X, H, strict=True)):
        A, B = h.T @ h, h.T @ x
        assert np.abs(state.A[i] - A).max() <= 1e-3 * A.max()
        assert np.abs(state.B[i] - B).max() <= 1e-3 * B.max()


def test_residual_is_what_single_entries_could_gain(case: Case, tmp_path: Path) -> None:
    state, _ = fit(case, tmp_path, 4)
    problem, gain = case.problem, 0.0
    gradient, curvature = np.zeros(state.W.shape), np.zeros(state.W.shape)
    W = state.W.astype(float)
    parts = state.A, state.B, state.V.astype(float), problem.measured
    for A, B, V, seen in zip(*parts, strict=True):
        own = (A @ (W + V) - B) * seen
        gradient += own
        curvature += np.diag(A)[:, None] * seen
        c = 6.0 * np.diag(A)[:, None] * seen
        step = np.divide(own + 5.0 * A @ V * seen, c, out=np.zeros_like(V), where=c > 0)
        gain += float((c * np.minimum(step, V) ** 2).sum())
    gain += float((curvature * np.minimum(gradient / curvature, W) ** 2).sum())
    with ThreadEngine(2) as engine:
        found = improving.residual(state, problem, engine)
        assert abs(found - np.sqrt(gain)) <= 1e-4 * found
        settled = improving.improve(batch_end(state, problem), problem, engine)
        improving.sweep_all(settled, problem, 1000, engine)
        assert improving.residual(settled, problem, engine) <= 1e-3 * found


def batch_end(state: State, problem: Problem) -> State:
    """As after a whole pass, its sums handed over."""
    np.copyto(state.A_previous, state.A)
    np.copyto(state.B_previous, state.B)
    return state


def test_sizes_of_factors_are_of_no_matter(case: Case, tmp_path: Path) -> None:
    """To the bit, where they are powers of two: F, residuals and metagenes brought to size."""
    up = np.exp2([-9, 0, 4, 11]).astype(np.float32)[:, None]
    start = case.start()
    np.multiply(start.W, up, out=start.W)
    np.multiply(start.V, up, out=start.V)
    one, history = fit(case, tmp_path / "one")
    other, other_history = fit(case, tmp_path / "other", state=start)
    assert one.W.tobytes() == other.W.tobytes()
    assert history.loss == other_history.loss
    assert history.residual == other_history.residual
    size = np.sqrt((one.W.astype(float) ** 2).mean(axis=1))
    assert ((size >= 0.7) & (size <= 1.5)).all()


def assert_same(one: tuple[State, History], other: tuple[State, History]) -> None:
    for field in fields(State):
        a, b = getattr(one[0], field.name), getattr(other[0], field.name)
        np.testing.assert_array_equal(a, b, err_msg=field.name)
    np.testing.assert_equal(one[1].columns(), other[1].columns())


def test_any_threads_give_the_same_bytes(case: Case, tmp_path: Path) -> None:
    assert len(task_cuts(case.pack.n_cells, 2)) == 3
    one, two = (fit(case, tmp_path / str(n), n_threads=n) for n in (1, 2))
    assert_same(one, two)


@pytest.mark.parametrize("stops", [(1,), (3,), (4, 5), (15,)])
def test_interrupted_and_resumed(case: Case, tmp_path: Path, stops: tuple[int, ...]) -> None:
    undisturbed, folder = fit(case, tmp_path / "whole"), tmp_path / "parts"
    folder.mkdir()
    for stop in stops:
        with pytest.raises(Stopped):
            fit(case, folder, stop_after=stop, checkpoints=Checkpoints(folder, every=0.0))
    resumed = fit(case, folder, n_threads=2, checkpoints=Checkpoints(folder, every=0.0))
    assert_same(undisturbed, resumed)
    assert [path.name for path in folder.iterdir()] == ["checkpoint.npz"]
    again = fit(case, folder, stop_after=1, checkpoints=Checkpoints(folder, every=0.0))
    assert_same(undisturbed, again)


@pytest.mark.parametrize(
    ("tolerances", "reached"), [({"tol_batch": 1e-4}, "fall"), ({"tol_residual": 1e-2}, "residual")]
)
def test_iterations_end_where_little_is_left(
    case: Case, tmp_path: Path, tolerances: dict[str, float], reached: str
) -> None:
    _, history = fit(case, tmp_path, 500, **tolerances)
    limit = next(iter(tolerances.values()))
    path = getattr(history, reached)
    assert path[-1] <= limit
    assert min(path[1:-1]) > limit
    assert 5 < len(path) < 200
