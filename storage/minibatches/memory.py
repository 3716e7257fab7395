"""What reading mini-batches holds, known before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tigon.storage.counts import index_dtype
from tigon.storage.errors import MemoryLimitError
from tigon.storage.recycling import SLACK

if TYPE_CHECKING:
    from tigon.storage.atlas import Atlas

READERS = 2
"""Pieces of a window that are read at once: one waits for bytes while one is decoded."""

BATCHES_AHEAD = 1
"""Mini-batches that are cut from the window while one is in use."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes of what is held while mini-batches are read.

    Attributes
    ----------
    batch, piece, window
        Of a mini-batch, of a piece of a window as it is read, and of a window.
    n_pieces
        Pieces in a window.
    """

    batch: int
    piece: int
    window: int
    n_pieces: int

    def total(self, n_pieces_ahead: int) -> int:
        """Most bytes held when so many pieces are read ahead of the window in use."""
        held = -(-self.window // self.n_pieces)
        n_reading = min(READERS, n_pieces_ahead + 1)
        return (
            self.window
            + n_pieces_ahead * held
            + n_reading * self.piece
            # Those ahead, the one being made and the one in use.
            + (BATCHES_AHEAD + 2) * self.batch
        )

    def pieces_ahead(self, memory_limit: int | None) -> int:
        """Pieces to read ahead: half a window's where the limit allows it, else fewer.

        More are not read while a window is cut into mini-batches, unless whoever takes
        them is slow, and then there is no hurry.

        Raises
        ------
        MemoryLimitError
            Not even the window in use fits.
        """
        for n_ahead in range(-(-self.n_pieces // 2), -1, -1):
            if memory_limit is None or self.total(n_ahead) <= memory_limit:
                return n_ahead
        raise MemoryLimitError(
            f"mini-batches need {self.total(0):,} bytes and memory_limit is {memory_limit:,}: "
            f"raise it to that, or make batch_size or window_cells smaller"
        )


def footprint(atlas: Atlas, batch_size: int, window_cells: int, piece_cells: int) -> Footprint:
    """Bytes that the fullest runs of cells would take.

    Notes
    -----
    Windows take runs from everywhere in the atlas, which together are less full than
    the fullest run of as many cells. Cells in no order take 40 bytes each.
    """
    window_cells, batch_size = min(window_cells, atlas.n_cells), min(batch_size, atlas.n_cells)
    batch_entries, window_entries = atlas.most_entries(batch_size), atlas.most_entries(window_cells)
    entry = index_dtype(atlas.n_genes).itemsize + atlas.values_dtype.itemsize
    return Footprint(
        batch=(batch_entries + batch_entries // SLACK) * entry + 40 * batch_size,
        piece=atlas.estimate_block_bytes(min(piece_cells, window_cells)),
        window=(window_entries + window_entries // SLACK) * entry + 40 * window_cells,
        n_pieces=-(-window_cells // piece_cells),
    )
