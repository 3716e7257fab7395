"""How random mini-batches are, held against what theory says of drawing cells in runs."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tigon.storage.minibatches.order import cells_of, proportional_order, runs_of, stretch
from tigon.storage.minibatches.plan import Plan

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from randomness import (  # after the folder of the benchmarks is known
    block_shortfall,
    entropy,
    mean_shortfall,
    perfect_shortfall,
)

N_CELLS, BATCH, BLOCK, WINDOW = 120_000, 1000, 20, 4000


def plan(strata: NDArray[np.int32], seed: int = 0) -> Plan:
    return Plan(
        strata=strata,
        batch_size=BATCH,
        shuffle=True,
        seed=seed,
        block_cells=BLOCK,
        window_cells=WINDOW,
        drop_last=False,
    )


def batches(made: Plan, epoch: int = 0) -> list[NDArray[np.int64]]:
    windows = made.windows(epoch, 0, (0, 1))
    return [w.cells[w.rows(number)] for w in windows for number in range(w.n_steps)]


def sorted_labels(n_groups: int) -> NDArray[np.int64]:
    """Cells sorted by label; labels differ in size by up to three times."""
    sizes = np.linspace(1, 3, n_groups)
    ends = np.round(np.cumsum(sizes) / sizes.sum() * N_CELLS).astype(int)
    return np.searchsorted(ends, np.arange(N_CELLS), side="right")


@pytest.mark.parametrize("n_groups", [2, 8, 30])
def test_runs_of_sorted_labels_cost_what_theory_says(n_groups: int) -> None:
    labels, one_dataset = sorted_labels(n_groups), np.zeros(N_CELLS, np.int32)
    drawn = [batches(plan(one_dataset, seed)) for seed in range(4)]
    found = np.mean([mean_shortfall(labels, each) for each in drawn])
    expected = block_shortfall(n_groups, N_CELLS, BATCH, BLOCK, WINDOW)
    # Twice the runs of a window times the shortfall is chi-squared, K - 1 degrees of
    # freedom; windows of an epoch are as good as independent. Third-order terms of the
    # entropy are below a tenth.
    n_windows, runs = 4 * N_CELLS // WINDOW, WINDOW // BLOCK
    spread = np.sqrt(2 * (n_groups - 1)) / (2 * runs) / np.sqrt(n_windows)
    assert abs(found - expected) < 5 * spread + 0.1 * expected
    assert expected < 8 * perfect_shortfall(n_groups, N_CELLS, BATCH)


def test_labels_that_do_not_lie_sorted_are_as_in_a_perfect_shuffle() -> None:
    rng = np.random.default_rng(0)
    n_groups, labels = 10, rng.integers(0, 10, N_CELLS)
    found = mean_shortfall(labels, batches(plan(np.zeros(N_CELLS, np.int32))))
    expected = perfect_shortfall(n_groups, N_CELLS, BATCH)
    n_batches = N_CELLS // BATCH
    spread = np.sqrt(2 * (n_groups - 1)) / (2 * BATCH) / np.sqrt(n_batches)
    assert abs(found - expected) < 5 * spread + 0.1 * expected


def test_theory_agrees_with_a_perfect_shuffle() -> None:
    labels, rng = sorted_labels(12), np.random.default_rng(3)
    order = rng.permutation(N_CELLS)
    found = mean_shortfall(labels, order.reshape(-1, BATCH))
    expected = perfect_shortfall(12, N_CELLS, BATCH)
    spread = np.sqrt(22) / (2 * BATCH) / np.sqrt(N_CELLS // BATCH)
    assert abs(found - expected) < 5 * spread + 0.1 * expected


def test_datasets_are_closer_to_their_shares_than_by_chance() -> None:
    datasets = sorted_labels(16).astype(np.int32)
    made = plan(datasets)
    assert mean_shortfall(datasets, batches(made)) < perfect_shortfall(16, N_CELLS, BATCH)
    shares = np.bincount(datasets) / N_CELLS
    for window in made.windows(0, 0, (0, 1)):
        held = np.bincount(datasets[window.cells], minlength=16)
        # To a run for each end of the stretch, and runs that lie on a border.
        assert np.abs(held - shares * WINDOW).max() <= 4 * BLOCK
        for number in range(window.n_steps):
            found = np.bincount(window.strata[window.rows(number)], minlength=16)
            assert np.abs(found - held * BATCH / WINDOW).max() <= 2


def test_entropy_of_equal_shares_is_the_logarithm_of_their_number() -> None:
    assert entropy(np.repeat(np.arange(7), 5)) == pytest.approx(np.log(7))
    assert entropy(np.zeros(4, int)) == 0


def test_neighbours_differ_between_epochs() -> None:
    made = plan(np.zeros(N_CELLS, np.int32))
    first = [set(window.cells.tolist()) for window in made.windows(0, 0, (0, 1))]
    cuts = [set(runs_of(w.cells)[:, 0] % BLOCK) for e in (0, 1) for w in made.windows(e, 0, (0, 1))]
    # The runs begin at another offset in each epoch.
    assert cuts[1] != cuts[-1]
    second = made.window(1, 0)
    assert max(len(each & set(second.cells.tolist())) for each in first) < WINDOW / 4


def test_every_stretch_of_runs_is_the_cells_in_order() -> None:
    rng = np.random.default_rng(0)
    edges = np.unique(np.concatenate([[0, 200], rng.integers(1, 200, 30)]))
    runs = rng.permutation(np.stack([edges[:-1], edges[1:]], axis=1))
    flat = cells_of(runs)
    np.testing.assert_array_equal(np.sort(flat), np.arange(200))
    for start, stop in rng.integers(0, 200, (200, 2)):
        if start < stop:
            found = stretch(runs, int(start), int(stop))
            np.testing.assert_array_equal(found, np.sort(flat[start:stop]))
            np.testing.assert_array_equal(cells_of(runs_of(found)), found)


def test_an_order_holds_every_member_once() -> None:
    rng = np.random.default_rng(0)
    for n in (0, 1, 5, 1000):
        strata = rng.integers(-1, 4, n)
        order = proportional_order(strata, rng)
        np.testing.assert_array_equal(np.sort(order), np.arange(n))
