"""What training asks of a pack, and two views that answer like one.

A view changes which cells are seen, or how often a file is read for them, and never the
bytes of a cell.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from threading import Lock
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tigon.storage.packs.blocks import PackBlock, StoredBlock


class CellReader(Protocol):
    """Packed cells that are read a stretch at a time; several threads may ask at once."""

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        ...

    def datasets(self, start: int, stop: int) -> NDArray[np.int32]:
        """Datasets of the cells ``start`` to ``stop``, shape (stop - start,)."""
        ...

    def read(self, start: int, stop: int) -> PackBlock:
        """Cells ``start`` to ``stop``; not to be written to."""
        ...

    def stored(self, start: int, stop: int) -> StoredBlock:
        """The same as they are written, to be put together tile by tile."""
        ...


@dataclass(frozen=True, slots=True)
class PackPart:
    """Some stretches of a pack, one behind the other, as if there were no other cells.

    Attributes
    ----------
    pack
        The pack.
    stretches
        First cell of each and the one after its last, ascending and apart.
    """

    pack: CellReader
    stretches: tuple[tuple[int, int], ...]

    @property
    def n_cells(self) -> int:
        """Cells in the stretches."""
        return sum(stop - start for start, stop in self.stretches)

    def datasets(self, start: int, stop: int) -> NDArray[np.int32]:
        """Datasets of the cells ``start`` to ``stop`` of the part."""
        found = [self.pack.datasets(*cut) for cut in self._cuts(start, stop)]
        return np.concatenate([np.zeros(0, np.int32), *found])

    def read(self, start: int, stop: int) -> PackBlock:
        """Cells ``start`` to ``stop`` of the part."""
        return self.stored(start, stop).whole()

    def stored(self, start: int, stop: int) -> StoredBlock:
        """The same as they are written; those of one stretch are not copied."""
        blocks = [self.pack.stored(*cut) for cut in self._cuts(start, stop) or [(0, 0)]]
        return blocks[0] if len(blocks) == 1 else _joined(blocks)

    def _cuts(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Where cells of the part lie in the pack."""
        cuts, before = [], 0
        for first, end in self.stretches:
            low, high = max(start - before, 0), min(stop - before, end - first)
            if low < high:
                cuts.append((first + low, first + high))
            before += end - first
        return cuts


def _joined(blocks: Sequence[StoredBlock]) -> StoredBlock:
    ends = np.cumsum([0, *(block.indptr[-1] for block in blocks)])
    starts = [block.indptr[:-1] + end for block, end in zip(blocks, ends[:-1], strict=True)]
    names = ("positions", "datasets", "weights", "gaps", "counts")
    joined = {name: np.concatenate([getattr(block, name) for block in blocks]) for name in names}
    folder, cells = blocks[0].place[0], ", ".join(block.place[1] for block in blocks)
    indptr = np.concatenate([*starts, ends[-1:]])
    return StoredBlock(**joined, indptr=indptr, n_genes=blocks[0].n_genes, place=(folder, cells))


class SharedReads:
    """A pack whose last few blocks stay in memory for others that want the same.

    Parameters
    ----------
    pack
        The pack.
    n_blocks
        Blocks that are kept at most.
    """

    def __init__(self, pack: CellReader, n_blocks: int) -> None:
        self._pack, self._n_blocks = pack, n_blocks
        self._blocks: OrderedDict[tuple[int, int], Future[StoredBlock]] = OrderedDict()
        self._lock = Lock()

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self._pack.n_cells

    def datasets(self, start: int, stop: int) -> NDArray[np.int32]:
        """Datasets of the cells ``start`` to ``stop``."""
        return self._pack.datasets(start, stop)

    def read(self, start: int, stop: int) -> PackBlock:
        """Cells ``start`` to ``stop``; not to be written to."""
        return self.stored(start, stop).whole()

    def stored(self, start: int, stop: int) -> StoredBlock:
        """The same as they are written; whoever asks first reads, others wait for it."""
        with self._lock:
            known = self._blocks.get((start, stop))
            if known is None:
                coming = self._blocks[start, stop] = Future()
                while len(self._blocks) > self._n_blocks:
                    self._blocks.popitem(last=False)
        if known is not None:
            return known.result()
        try:
            coming.set_result(self._pack.stored(start, stop))
        except BaseException as error:
            coming.set_exception(error)
        return coming.result()
