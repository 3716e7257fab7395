"""Reading the windows of a plan, piece by piece, and cutting them into mini-batches."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from tigon.storage.minibatches.batch import MiniBatch
from tigon.storage.minibatches.memory import BATCHES_AHEAD, READERS
from tigon.storage.minibatches.order import runs_of
from tigon.storage.minibatches.rows import Rows
from tigon.storage.ordered import ordered
from tigon.storage.recycling import Empty, Recycled
from tigon.storage.sources.matrices.matrix import SparseRows

if TYPE_CHECKING:
    from tigon.storage.atlas import Atlas
    from tigon.storage.minibatches.genes import Genes
    from tigon.storage.minibatches.plan import Window

PIECE_CELLS = 4096
"""Cells of a window that are read at once."""


class Memory:
    """Of pieces and mini-batches that nobody has any more, for the next ones."""

    def __init__(self) -> None:
        self.pieces = Recycled()
        # Whoever takes mini-batches may keep many, and then let go of all.
        self.batches = Recycled(n_kept=2)


@dataclass(frozen=True, eq=False)
class Reader:
    """Turns windows into mini-batches.

    Attributes
    ----------
    atlas
        Where the cells are.
    genes
        Those kept; None for all.
    """

    atlas: Atlas
    genes: Genes | None

    @property
    def n_genes(self) -> int:
        """Genes of the mini-batches."""
        return self.atlas.n_genes if self.genes is None else len(self.genes.positions)

    def read(self, window: Window) -> list[MiniBatch]:
        """All mini-batches of a window, read by this thread."""
        pieces = [self._piece(piece) for piece in _pieces([window])]
        rows = Rows.of([rows for _, _, rows in pieces])
        return [self._batch(window, rows, number) for number in range(window.n_steps)]

    def stream(
        self, windows: Iterable[Window], pieces_ahead: int, memory: Memory
    ) -> Generator[MiniBatch]:
        """The mini-batches of windows, in order, read ahead on threads.

        Parameters
        ----------
        windows
            Taken one by one.
        pieces_ahead
            Pieces of the windows to come that are read while one is in use.
        memory
            What windows and mini-batches are read into.

        Notes
        -----
        Errors are raised in place of the mini-batches that they prevent. The threads
        end with the generator, however it ends.
        """
        read = partial(self._piece, empty=memory.pieces.empty)
        with (
            ThreadPoolExecutor(READERS, "tigon-minibatches-read") as readers,
            ThreadPoolExecutor(1, "tigon-minibatches-cut") as cutter,
            closing(ordered(readers, read, _pieces(windows), pieces_ahead + 1)) as pieces,
        ):
            gathered: list[SparseRows] = []
            for window, is_last, rows in pieces:
                gathered.append(rows)
                if is_last:
                    rows_of_window, empty = Rows.of(gathered), memory.batches.empty
                    cut = partial(self._batch, window, rows_of_window, empty=empty)
                    gathered = []
                    steps = range(window.n_steps)
                    with closing(ordered(cutter, cut, steps, BATCHES_AHEAD + 1)) as found:
                        yield from found
                    # The window is let go of before the next one is put together.
                    del cut, found, rows_of_window
                del rows

    def _piece(
        self, piece: tuple[Window, int, bool], empty: Empty = np.empty
    ) -> tuple[Window, bool, SparseRows]:
        window, start, is_last = piece
        rows = self.atlas.read_runs(runs_of(window.cells[start : start + PIECE_CELLS]), empty)
        return window, is_last, rows if self.genes is None else self.genes.of(rows)

    def _batch(self, window: Window, rows: Rows, number: int, empty: Empty = np.empty) -> MiniBatch:
        places = window.rows(number)
        taken = rows.take(places, empty)
        return MiniBatch(
            step=window.first_step + number,
            cells=window.cells[places],
            datasets=window.strata[places],
            indptr=taken.indptr,
            indices=taken.indices,  # type: ignore[arg-type]
            values=taken.values,  # type: ignore[arg-type]
            n_genes=self.n_genes,
        )


def _pieces(windows: Iterable[Window]) -> Iterator[tuple[Window, int, bool]]:
    for window in windows:
        for start in range(0, len(window.cells), PIECE_CELLS):
            yield window, start, start + PIECE_CELLS >= len(window.cells)
