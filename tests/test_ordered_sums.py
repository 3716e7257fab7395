"""Sums over tiles, given in any order and by several threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tigon.kernels.tile import TileStatistics
from tigon.scaling.inmf.summing import OrderedSums
from tigon.scaling.inmf.tiles import add_statistics


def _tiles(n: int) -> list[tuple[int, TileStatistics]]:
    """Datasets in turn, and sums of such different sizes that their order shows."""
    rng = np.random.default_rng(0)
    sums = (
        (rng.normal(size=s) * 10.0 ** rng.integers(-9, 9) for s in ((4, 4), (9, 4)))
        for _ in range(n)
    )
    return [
        (i % 3, TileStatistics(A, B, float(A.sum()), float(B.sum()), i, 1))
        for i, (A, B) in enumerate(sums)
    ]


def _summed(tiles: list[tuple[int, TileStatistics]]) -> dict[int, TileStatistics]:
    sums: dict[int, TileStatistics] = {}
    for dataset, found in tiles:
        add_statistics(sums, dataset, found)
    return sums


@pytest.mark.parametrize("n_threads", [1, 4])
def test_whoever_is_first_sums_are_of_the_tiles_order(n_threads: int) -> None:
    wanted = _summed(_tiles(60))
    for order in (
        range(60),
        reversed(range(60)),
        np.random.default_rng(1).permutation(60).tolist(),
    ):
        tiles, found_of = _tiles(60), {}
        sums = OrderedSums(found_of)
        with ThreadPoolExecutor(n_threads) as pool:
            list(pool.map(lambda i: sums.add(i, *tiles[i]), list(order)))  # noqa: B023
        assert found_of.keys() == wanted.keys()
        for dataset, found in found_of.items():
            assert found.A.tobytes() == wanted[dataset].A.tobytes()
            assert found.B.tobytes() == wanted[dataset].B.tobytes()
            assert (found.loss, found.n_cells) == (wanted[dataset].loss, wanted[dataset].n_cells)


def test_the_order_of_these_tiles_shows() -> None:
    forth, back = _summed(_tiles(60)), _summed(_tiles(60)[::-1])
    assert any(forth[i].B.tobytes() != back[i].B.tobytes() for i in forth)
