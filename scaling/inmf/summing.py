"""Sums over tiles in the order of the tiles, added while others are still solved."""

from __future__ import annotations

import threading

from tigon.kernels.tile import TileStatistics
from tigon.scaling.inmf.tiles import add_statistics


class OrderedSums:
    """Adds statistics of tiles that several threads give.

    A tile is added when all before it have been, by whichever thread finds it so: the
    thread that is done with its own tile, and not the one that waits for all of them.

    Parameters
    ----------
    by_dataset
        What they are added to; holds all of them once every tile has been given.
    """

    def __init__(self, by_dataset: dict[int, TileStatistics]) -> None:
        self._by_dataset = by_dataset
        self._waiting: dict[int, tuple[int, TileStatistics]] = {}
        self._next = 0
        self._adding = threading.Lock()

    def add(self, number: int, dataset: int, found: TileStatistics) -> None:
        """Give the statistics of a tile; tiles are numbered from 0."""
        self._waiting[number] = dataset, found
        # One thread adds. What comes meanwhile, it looks for again once it has let go.
        while self._next in self._waiting and self._adding.acquire(blocking=False):
            try:
                while self._next in self._waiting:
                    add_statistics(self._by_dataset, *self._waiting.pop(self._next))
                    self._next += 1
            finally:
                self._adding.release()
