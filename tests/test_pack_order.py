"""Places in the pack: every stretch is a fair sample, of few datasets at a time."""

from __future__ import annotations

import numpy as np
import pytest

from tigon.scaling.packing import FEW_DATASETS, PIECE_CELLS, most_datasets, pack_order


def datasets_in_order(codes: np.ndarray, seed: int = 0) -> np.ndarray:
    places = pack_order(codes, np.random.SeedSequence(seed))
    kept = codes >= 0
    assert sorted(places[kept]) == list(range(kept.sum()))
    assert (places[~kept] == -1).all()
    ordered = np.empty(kept.sum(), np.int64)
    ordered[places[kept]] = codes[kept]
    return ordered


def draw_codes(n_datasets: int, n_cells: int) -> np.ndarray:
    """Datasets of very different sizes, in no order, and some cells left out."""
    rng = np.random.default_rng(n_datasets)
    shares = rng.gamma(1.0, 1.0, n_datasets) + 0.05
    codes = rng.choice(n_datasets, n_cells, p=shares / shares.sum()).astype(np.int32)
    codes[rng.random(n_cells) < 0.1] = -1
    return codes


@pytest.mark.parametrize("n_datasets", [1, 3, FEW_DATASETS, FEW_DATASETS + 1, 300])
def test_any_prefix_is_near_proportional(n_datasets: int) -> None:
    codes = draw_codes(n_datasets, 120_000)
    ordered = datasets_in_order(codes)
    n = len(ordered)
    totals = np.bincount(ordered, minlength=n_datasets)
    piece = 1 if n_datasets <= FEW_DATASETS else PIECE_CELLS
    for stop in (n // 7, n // 3, n // 2, n - 5):
        seen = np.bincount(ordered[:stop], minlength=n_datasets)
        # Each dataset's pieces are spread evenly over [0, 1): off by two at most, and the
        # prefix ends where the pieces of the others together put it.
        spread = np.sqrt(n_datasets) * piece * totals / n
        assert (abs(seen - totals * stop / n) <= 2 * piece + 3 * spread + 1).all()


def test_a_minibatch_touches_few_of_many_datasets() -> None:
    ordered = datasets_in_order(draw_codes(300, 200_000))
    for start in range(0, len(ordered) - 5000, 2500):
        n_touched = len(np.unique(ordered[start : start + 5000]))
        assert 15 < n_touched <= most_datasets(300, 5000) < 100


def test_cells_that_stay_together_are_drawn_from_the_whole_dataset() -> None:
    codes = draw_codes(60, 60_000)
    places = pack_order(codes, np.random.SeedSequence(0))
    cells = np.flatnonzero(codes == 7)
    rank = np.argsort(np.argsort(places[cells]))
    for piece in range(len(cells) // PIECE_CELLS):
        mine = np.flatnonzero(rank // PIECE_CELLS == piece)
        # The mean of a sample of n uniform positions, at six standard errors.
        assert abs(mine.mean() / len(cells) - 0.5) < 6 * 0.29 / np.sqrt(PIECE_CELLS)


def test_the_seed_decides() -> None:
    codes = draw_codes(40, 5000)
    one, same, other = (pack_order(codes, np.random.SeedSequence(s)) for s in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
