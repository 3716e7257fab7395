"""A step of online iNMF against its equations in plain NumPy, and its bits on any threads."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tigon.kernels import reference
from tigon.kernels.tile import TileStatistics
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.rescaling import rebuild
from tigon.scaling.inmf.state import Problem, State, begin_round, init_state
from tigon.scaling.inmf.steps import apply_step
from tigon.scaling.inmf.tiles import metagenes_of

Array = np.ndarray

EPS = 6e-8
"""Half a unit in the last place of float32, relative."""

LAM = 5.0
N_CELLS = np.array([400, 90, 250])


def draw_problem(seed: int, m: int, n_masked: int) -> Problem:
    """Three datasets, of which the last ``n_masked`` do not measure some genes."""
    rng = np.random.default_rng(seed)
    measured = np.ones((3, m), bool)
    for d in range(3 - n_masked, 3):
        measured[d] = rng.random(m) < 0.7
    if n_masked == 3:
        measured[:, 0] = False  # a gene that nothing measures
    return Problem(N_CELLS, measured, rng.uniform(1, 9, (3, m)) * measured, LAM)


def test_masks_have_one_order_however_genes_were_picked() -> None:
    """So that steps are compiled once."""
    p = draw_problem(0, 20, 1)
    picked = p.measured[:, np.array([3, 1, 4])]
    assert not picked.flags.c_contiguous
    assert replace(p, measured=picked).measured.flags.c_contiguous


def draw_statistics(rng: np.random.Generator, p: Problem, d: int, k: int, n: int) -> TileStatistics:
    """Sums over n cells of a dataset that three quarters of the factors explain."""
    used = rng.random(k) < 0.75
    H = (rng.gamma(0.5, 1.0, (n, k)) * used).astype(np.float32).astype(float)
    X = H @ rng.gamma(0.5, 1.0, (k, p.n_genes)) + rng.random((n, p.n_genes))
    X *= p.measured[d]
    return TileStatistics(H.T @ H, np.ascontiguousarray(X.T @ H), float((X**2).sum()), 0.0, n, 0)


def plain_step(
    state: State, p: Problem, deltas: dict[int, TileStatistics], n_sweeps: int
) -> tuple[Array, Array]:
    """W and V after a step, from the sums themselves: no S or T that is kept up to date."""
    W, V = state.W.astype(float), state.V.astype(float)
    left = (state.n_seen + [deltas[d].n_cells if d in deltas else 0 for d in range(3)]) / N_CELLS
    A = state.A + (1 - left)[:, None, None] * state.A_previous
    B = state.B + (1 - left)[:, None, None] * state.B_previous
    for d, delta in deltas.items():
        A[d] += delta.A
        B[d] += delta.B.T
    for _ in range(n_sweeps):
        T = sum(B[d] - A[d] @ V[d] for d in range(3))
        for g in range(p.n_genes):
            S = sum((A[d] for d in range(3) if p.informing[d, g]), np.zeros(A[0].shape))
            W[:, g] = reference.hals(W[:, [g]], T[:, [g]], S)[:, 0]
        for d in sorted(deltas):
            target = B[d] - A[d] @ W
            V[d] = reference.hals(V[d], target, (1 + p.lam_of(d)) * A[d]) * p.measured[d]
    return W, V


def plan(seed: int, p: Problem, k: int) -> list[dict[int, TileStatistics]]:
    """Mini-batches of one epoch and the beginning of the next; not every one has every dataset."""
    rng = np.random.default_rng(seed)
    sizes = [{0: 200, 1: 50}, {0: 200, 2: 250}, {1: 40}, {1: 90, 2: 100}, {0: 7}]
    return [{d: draw_statistics(rng, p, d, k, n) for d, n in batch.items()} for batch in sizes]


def run(
    p: Problem, k: int, n_sweeps: int, n_threads: int, *, check: bool = False
) -> tuple[State, list[float]]:
    """State after the plan, and how far each step was from the plain one, relative."""
    state = init_state(p, k, np.random.SeedSequence(3))
    off = []
    with ThreadEngine(n_threads) as engine:
        for i, deltas in enumerate(plan(1, p, k)):
            if i == 3:
                begin_round(state)
            expected = plain_step(copy.deepcopy(state), p, deltas, n_sweeps) if check else ()
            apply_step(state, p, dict(deltas), n_sweeps, engine)
            found = (state.W, state.V)
            off += [np.abs(a - b).max() / b.max() for a, b in zip(found, expected, strict=False)]
    return state, off


@pytest.mark.parametrize("n_masked", [0, 1, 3])
@pytest.mark.parametrize("k", [1, 6, 20])
def test_a_step_is_its_equations(n_masked: int, k: int) -> None:
    p = draw_problem(n_masked, 40, n_masked)
    state, off = run(p, k, 2, 1, check=True)
    # Sums of A W and A V are float32 and nearly cancel: a few roundings, over the diagonal of A.
    assert max(off) <= 20 * EPS
    assert len(off) == 10
    assert 0.02 < (state.V > 0).mean() < 1
    assert not state.V[:, :, :][~np.broadcast_to(p.measured[:, None], state.V.shape)].any()


def unshared(p: Problem) -> Problem:
    """The same with W held at zero where a dataset lacks the gene, and a lambda for each."""
    return replace(p, shared=p.common, lam=np.array([5.0, 0.0, 1.5]))


@pytest.mark.parametrize("n_masked", [1, 2])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_a_step_is_its_equations_with_unshared_genes(n_masked: int, n_threads: int) -> None:
    p = unshared(draw_problem(n_masked, 40, n_masked))
    assert 0 < p.common.sum() < 40
    state, off = run(p, 6, 2, n_threads, check=True)
    assert max(off) <= 20 * EPS
    assert not state.W[:, ~p.common].any()
    assert (state.W[:, p.common] > 0).any()
    for d in range(3):
        own = p.measured[d] & ~p.common
        assert (state.V[d][:, own] > 0).any() == own.any()
        assert not state.V[d][:, ~p.measured[d]].any()


@pytest.mark.parametrize("n_masked", [0, 3])
def test_normal_equations_stay_those_of_the_sums(n_masked: int) -> None:
    p = draw_problem(5, 600, n_masked)
    state, _ = run(p, 9, 1, 2)
    A, B = (
        np.stack(parts)
        for parts in zip(*(state.statistics_of(d, N_CELLS[d]) for d in range(3)), strict=True)
    )
    for pattern, datasets in enumerate(state.in_pattern):
        np.testing.assert_allclose(state.S[pattern], A[datasets].sum(axis=0), rtol=1e-12)
    T = sum(B[d] - A[d] @ state.V[d].astype(float) for d in range(3))
    # Each of ten updates takes float32 products of the size of A V in.
    size = max(float((A[d] @ state.V[d]).max()) for d in range(3))
    np.testing.assert_allclose(state.T, T, rtol=0, atol=10 * EPS * size)
    np.testing.assert_array_equal(state.n_seen, [7, 90, 100])


@pytest.mark.parametrize("n_masked", [0, 3])
@pytest.mark.parametrize("n_threads", [2, 4])
def test_a_step_has_the_same_bits_on_any_threads(n_masked: int, n_threads: int) -> None:
    p = draw_problem(2, 1300, n_masked)  # three ranges of genes
    one, _ = run(p, 20, 2, 1)
    more, _ = run(p, 20, 2, n_threads)
    for name in ("W", "V", "A", "B", "A_previous", "B_previous", "n_seen", "S", "T"):
        np.testing.assert_array_equal(getattr(one, name), getattr(more, name), err_msg=name)


def test_genes_that_nothing_measures_keep_what_they_have() -> None:
    p = draw_problem(4, 40, 3)
    state, _ = run(p, 6, 2, 1)
    before = init_state(p, 6, np.random.SeedSequence(3))
    np.testing.assert_array_equal(state.W[:, 0], before.W[:, 0])
    assert not state.V[:, :, 0].any()


def test_datasets_that_a_batch_lacks_keep_their_own() -> None:
    p = draw_problem(6, 40, 0)
    state = init_state(p, 6, np.random.SeedSequence(3))
    rng = np.random.default_rng(0)
    with ThreadEngine(1) as engine:
        for d in range(3):
            apply_step(state, p, {d: draw_statistics(rng, p, d, 6, 30)}, 1, engine)
        before = copy.deepcopy(state)
        apply_step(state, p, {1: draw_statistics(rng, p, 1, 6, 30)}, 1, engine)
    for name in ("V", "A", "B"):
        for d in (0, 2):
            np.testing.assert_array_equal(getattr(state, name)[d], getattr(before, name)[d])
        assert (getattr(state, name)[1] != getattr(before, name)[1]).any()
    assert (state.W != before.W).any()


def with_base(p: Problem, k: int, seed: int) -> State:
    """A state that rests on earlier cells: dataset 0 goes on, 1 is at rest, 2 is new."""
    rng = np.random.default_rng(seed)
    state = init_state(p, k, np.random.SeedSequence(seed))
    for d in (0, 1):
        old = draw_statistics(rng, p, d, k, 120)
        state.A[d], state.B[d] = old.A, old.B.T
    return replace(
        state,
        continued=np.array([0]),
        A_base=state.A[[0]].copy(),
        B_base=state.B[[0]].copy(),
    )


def drawn_with_base(n_masked: int) -> Problem:
    p = draw_problem(n_masked, 40, n_masked)
    return Problem(np.array([400, 0, 250]), p.measured, p.scale, p.lam)


@pytest.mark.parametrize("n_masked", [0, 1, 3])
def test_cells_that_are_not_read_weigh_as_if_they_were(n_masked: int) -> None:
    """Steps over a base are those over sums of which the base is a part that never fades."""
    p, k = drawn_with_base(n_masked), 6
    state = with_base(p, k, 1)
    base_A, base_B = state.A.copy(), state.B.copy()
    rng = np.random.default_rng(7)
    epochs = [[{0: 150, 2: 100}, {0: 250, 2: 150}], [{0: 100}, {0: 300, 2: 250}]]
    before: dict[int, tuple[Array, Array]] = {d: (0 * base_A[d], 0 * base_B[d]) for d in range(3)}
    with ThreadEngine(2) as engine:
        rebuild(state, p, engine)
        for number, epoch in enumerate(epochs):
            if number:
                begin_round(state)
            seen = dict.fromkeys(range(3), 0)
            now = {d: (np.zeros((k, k)), np.zeros((k, p.n_genes))) for d in range(3)}
            for sizes in epoch:
                deltas = {d: draw_statistics(rng, p, d, k, n) for d, n in sizes.items()}
                for d, delta in deltas.items():
                    now[d] = now[d][0] + delta.A, now[d][1] + delta.B.T
                    seen[d] += delta.n_cells
                apply_step(state, p, deltas, 1, engine)
                for d in range(3):
                    left = 1 - seen[d] / max(int(p.n_cells[d]), 1)
                    A, B = state.statistics_of(d, int(p.n_cells[d]))
                    expected = base_A[d] + now[d][0] + left * before[d][0]
                    np.testing.assert_allclose(A, expected, rtol=1e-12)
                    expected = base_B[d] + now[d][1] + left * before[d][1]
                    np.testing.assert_allclose(B, expected, rtol=1e-12)
            before = now
    for pattern, datasets in enumerate(state.in_pattern):
        A = np.stack([state.statistics_of(d, int(p.n_cells[d]))[0] for d in range(3)])
        np.testing.assert_allclose(state.S[pattern], A[datasets].sum(axis=0), rtol=1e-12)


def test_a_dataset_at_rest_costs_a_step_nothing() -> None:
    p = drawn_with_base(0)
    state = with_base(p, 6, 3)
    with ThreadEngine(1) as engine:
        rebuild(state, p, engine)
        before = copy.deepcopy(state)
        rng = np.random.default_rng(0)
        apply_step(state, p, {2: draw_statistics(rng, p, 2, 6, 30)}, 1, engine)
        begin_round(state)
    for name in ("A", "B", "V", "A_previous", "B_previous"):
        np.testing.assert_array_equal(getattr(state, name)[1], getattr(before, name)[1])
    assert (state.W != before.W).any()


@pytest.mark.parametrize("n_masked", [0, 2])
@pytest.mark.parametrize("n_threads", [1, 2])
def test_tables_made_with_a_step_are_those_of_its_metagenes(n_masked: int, n_threads: int) -> None:
    p = draw_problem(n_masked, 1100, n_masked)
    state, rng = init_state(p, 5, np.random.SeedSequence(3)), np.random.default_rng(2)
    deltas = {d: draw_statistics(rng, p, d, 5, 30) for d in (0, 2)}
    with ThreadEngine(n_threads) as engine:
        assert apply_step(copy.deepcopy(state), p, dict(deltas), 1, engine) == {}
        some = apply_step(copy.deepcopy(state), p, dict(deltas), 1, engine, tabulate=[1, 2])
        assert sorted(some) == [2]  # no statistics are there of 1
        tables = apply_step(state, p, deltas, 1, engine, tabulate=[0, 1, 2])
    assert sorted(tables) == [0, 2]
    assert tables[2].table.tobytes() == some[2].table.tobytes()
    for dataset, table in tables.items():
        expected = metagenes_of(p, state.W, state.V, dataset)
        for name in ("table", "gram", "scale"):
            assert getattr(table, name).tobytes() == getattr(expected, name).tobytes()
        for mine, other in zip(table.solver.arrays, expected.solver.arrays, strict=True):
            assert mine.tobytes() == other.tobytes()


def anywhere(sums: Array) -> Array:
    """The same numbers in an array that may not be written and begins at an odd byte."""
    room = np.zeros(sums.nbytes + 1, np.uint8)
    room[1:] = np.ascontiguousarray(sums).view(np.uint8).ravel()
    found = room[1:].view(np.float64).reshape(sums.shape)
    found.flags.writeable = False
    assert not found.flags.aligned
    return found


@pytest.mark.parametrize("moved", [anywhere, np.asfortranarray], ids=["unaligned", "by column"])
def test_statistics_may_lie_anywhere(moved: Callable[[Array], Array]) -> None:
    p, states = draw_problem(0, 40, 0), []
    for move in (np.ascontiguousarray, moved):
        state, rng = init_state(p, 6, np.random.SeedSequence(3)), np.random.default_rng(2)
        delta = draw_statistics(rng, p, 1, 6, 30)
        with ThreadEngine(1) as engine:
            deltas = {1: replace(delta, A=move(delta.A), B=move(delta.B))}
            apply_step(state, p, deltas, 2, engine)
        states.append([state.W.tobytes(), state.V.tobytes(), state.B.tobytes(), state.A.tobytes()])
    assert states[0] == states[1]
