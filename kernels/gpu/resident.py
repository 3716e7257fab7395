"""Counts on the device: kept there when they fit, streamed through pinned memory when not.

Two slots take turns: while the device works on the tile in one, the next is
gathered into pinned memory and copied into the other on a stream of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.tile import CellTile

if TYPE_CHECKING:
    import cupy

BYTES_PER_NONZERO = 16
"""By cell, uint16 gene and count or twice that, and by gene, position and value."""


def fits(nnz: int, n_cells: int, k: int, share: float = 0.8) -> bool:
    """Whether counts, by cell and by gene, and loadings fit the device's free memory.

    Parameters
    ----------
    nnz, n_cells, k
        Non-zeros, cells and factors.
    share
        Of the free memory that may be taken.
    """
    import cupy

    free, _ = cupy.cuda.runtime.memGetInfo()
    needed = BYTES_PER_NONZERO * nnz + n_cells * (4 * k + 32)
    return bool(needed <= share * free)


def gathered(tile: CellTile) -> tuple[NDArray[np.int64], slice | NDArray[np.int64]]:
    """``indptr`` of the tile's cells alone, and where their entries lie in the block."""
    starts, lengths = tile.indptr[tile.rows], np.diff(tile.indptr)[tile.rows]
    indptr = np.zeros(len(tile.rows) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    if len(tile.rows) and (np.diff(tile.rows) == 1).all():
        return indptr, slice(int(starts[0]), int(starts[0] + indptr[-1]))
    return indptr, np.arange(indptr[-1]) + np.repeat(starts - indptr[:-1], lengths)


def to_device(tile: CellTile) -> CellTile:
    """A tile of NumPy arrays on the device, cut down to its own cells."""
    import cupy

    indptr, entries = gathered(tile)
    return CellTile(
        cupy.arange(len(tile.rows), dtype=np.int64),
        cupy.asarray(indptr),
        cupy.asarray(tile.genes[entries]),
        cupy.asarray(tile.counts[entries]),
        cupy.asarray(tile.weights[tile.rows]),
    )


@dataclass(slots=True)
class _Slot:
    """Pinned and device memory for one tile, and when each may be written again."""

    pinned: dict[str, NDArray[Any]]
    device: dict[str, cupy.ndarray]
    copied: Any
    released: Any
    sizes: dict[str, int]

    def view(self) -> CellTile:
        found = {name: array[: self.sizes[name]] for name, array in self.device.items()}
        return CellTile(**found)


class TileStream:
    """Tiles from the host, two at a time on the device.

    Parameters
    ----------
    n_cells, nnz
        Cells and non-zeros of the largest tile.
    genes_dtype, counts_dtype
        As the tiles keep them.

    Notes
    -----
    Holds twice ``24 n_cells + nnz * (bytes of a gene and a count)``, pinned and
    on the device.
    """

    def __init__(self, n_cells: int, nnz: int, genes_dtype: Any, counts_dtype: Any) -> None:
        import cupy

        self._stream = cupy.cuda.Stream(non_blocking=True)
        shapes = {
            "rows": (n_cells, np.int64),
            "indptr": (n_cells + 1, np.int64),
            "genes": (nnz, genes_dtype),
            "counts": (nnz, counts_dtype),
            "weights": (n_cells, np.float32),
        }
        self._slots = [self._slot(shapes) for _ in range(2)]

    @staticmethod
    def _slot(shapes: dict[str, tuple[int, Any]]) -> _Slot:
        import cupy
        import cupyx

        event = cupy.cuda.Event
        return _Slot(
            {name: cupyx.empty_pinned(n, dtype) for name, (n, dtype) in shapes.items()},
            {name: cupy.empty(n, dtype) for name, (n, dtype) in shapes.items()},
            event(disable_timing=True),
            event(disable_timing=True),
            {},
        )

    def _send(self, slot: _Slot, tile: CellTile) -> None:
        slot.copied.synchronize()
        indptr, entries = gathered(tile)
        arrays = {
            "rows": np.arange(len(tile.rows)),
            "indptr": indptr,
            "genes": tile.genes[entries],
            "counts": tile.counts[entries],
            "weights": tile.weights[tile.rows],
        }
        self._stream.wait_event(slot.released)
        for name, array in arrays.items():
            n = slot.sizes[name] = len(array)
            slot.pinned[name][:n] = array
            slot.device[name][:n].set(slot.pinned[name][:n], stream=self._stream)
        self._stream.record(slot.copied)

    def __call__(self, tiles: Iterable[CellTile]) -> Iterator[CellTile]:
        """Each tile in turn, on the device; valid until the next one is asked for.

        What is launched on the current stream before the next tile is asked for
        may read it.
        """
        import cupy

        ahead: _Slot | None = None
        for number, tile in enumerate(tiles):
            slot = self._slots[number % 2]
            self._send(slot, tile)
            if ahead is not None:
                yield from self._lend(ahead)
            ahead = slot
        if ahead is not None:
            yield from self._lend(ahead)
        cupy.cuda.get_current_stream().synchronize()

    @staticmethod
    def _lend(slot: _Slot) -> Iterator[CellTile]:
        import cupy

        current = cupy.cuda.get_current_stream()
        current.wait_event(slot.copied)
        yield slot.view()
        current.record(slot.released)
