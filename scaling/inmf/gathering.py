"""Loadings on their way to a file, many at a time.

They are solved in the order of the pack, which is shuffled: the more are written at once,
the nearer each lies to the next, and fewer calls write them.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

WriteCells = Callable[[NDArray[np.int64], NDArray[np.float32]], None]
"""Takes atlas positions (n,) and loadings (n, k)."""

GATHERED_BYTES = 8 * 2**20
"""Loadings that are written together, with their positions, and those of one block more."""


class Gathered:
    """Hands on what it is given, some blocks at a time.

    Parameters
    ----------
    write
        Who is given what was gathered.

    Notes
    -----
    What has been gathered is written only by :meth:`finish` where it is not enough.
    """

    def __init__(self, write: WriteCells) -> None:
        self._write = write
        self._blocks: list[tuple[NDArray[np.int64], NDArray[np.float32]]] = []
        self._n_bytes = 0

    def add(self, positions: NDArray[np.int64], H: NDArray[np.float32]) -> None:
        """Atlas positions (n,) and loadings (n, k) of a block."""
        self._blocks.append((positions, H))
        # Whoever writes them puts them in order, which takes as much again for positions.
        self._n_bytes += H.nbytes + 4 * positions.nbytes
        if self._n_bytes >= GATHERED_BYTES:
            self.finish()

    def finish(self) -> None:
        """Write what is left."""
        blocks, self._blocks, self._n_bytes = self._blocks, [], 0
        if len(blocks) > 1:
            positions, H = map(np.concatenate, zip(*blocks, strict=True))
            blocks = [(positions, H)]
        for block in blocks:
            self._write(*block)
