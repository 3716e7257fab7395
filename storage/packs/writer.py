"""Writing a pack: cells are sorted by their places in it, on disk.

Every cell knows its place in the pack beforehand, so the result does not
depend on the order or the sizes in which cells arrive, nor on the number of
buckets or threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.packs.escape import split_counts
from tigon.storage.packs.pack import CELL, FILES, FORMAT, Pack, PackBlock, write_description
from tigon.storage.packs.sorting import RUN_BYTES, RowSorter
from tigon.storage.packs.stretches import SummedFile

_INDPTR_CELLS = 2**20


Piece = tuple[list[bytes], ...]
"""Genes and counts of the cells of a bucket, each in pieces."""

OrderedMap = Callable[[Callable[[int], Piece], Sequence[int]], Iterator[Piece]]
"""As ``map``; may work on several buckets at once, and gives them in order."""


class PackWriter:
    """Writes one pack; use as ``writer.add(places, block)`` for all cells, then ``finish()``.

    Parameters
    ----------
    folder
        Created; must not exist.
    shape
        Cells and genes of the pack; ``places`` must fill 0 to n_cells exactly once.
    dtypes
        Types of the gene positions and of the counts. Counts above 65,535 are split
        where that is uint16; in any other case they must fit.
    n_buckets
        Stretches that are put in order one by one.
    run_bytes
        Bytes of cells that are held before they are sorted and written.

    Notes
    -----
    Cells are written twice, and read once in between. Holds 24 bytes for every cell, a run
    and half of one; then two copies of a bucket for each that is worked on.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int],
        dtypes: tuple[np.dtype[Any], np.dtype[Any]],
        n_buckets: int,
        run_bytes: int = RUN_BYTES,
    ) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._n_cells, self._n_genes = shape
        self._genes, self._counts = dtypes
        self._cells = np.zeros(self._n_cells, CELL)
        bucket_cells = max(1, -(-self._n_cells // n_buckets))
        self._rows = RowSorter(folder / "runs", self._n_cells, dtypes, bucket_cells, run_bytes)

    def add(self, places: NDArray[np.int64], block: PackBlock) -> None:
        """Take the cells of ``block``; ``places`` (n,) says where they go."""
        self._cells["position"][places] = block.positions
        self._cells["dataset"][places] = block.datasets
        self._cells["weight"][places] = block.weights
        indptr, genes, counts = block.indptr, block.genes, block.counts
        if self._counts == np.uint16:
            indptr, genes, counts = split_counts(indptr, genes, counts)
        narrow = genes.astype(self._genes, copy=False), counts.astype(self._counts, copy=False)
        self._rows.add(places, indptr, narrow)

    def finish(self, ordered_map: OrderedMap = map, atlas: str = "") -> Pack:
        """Put every bucket in order, join them, and note what the pack is.

        Parameters
        ----------
        ordered_map
            Works on the buckets.
        atlas
            What the cells are of, for people.
        """
        lengths = self._rows.lengths()
        n_nonzeros = int(lengths.sum(dtype=np.int64))
        with ExitStack() as stack:
            opened = ((self._folder / name).open("wb") for name in FILES)
            cells, indptr, genes, counts = [SummedFile(stack.enter_context(f)) for f in opened]
            cells.write(self._cells.view(np.uint8).data)
            for piece in _running_sums(lengths):
                indptr.write(piece.view(np.uint8).data)
            for of_genes, of_counts in ordered_map(self._rows.bucket, range(self._rows.n_buckets)):
                genes.writelines(of_genes)
                counts.writelines(of_counts)
        self.close()
        sums = [file.finish() for file in (cells, indptr, genes, counts)]
        described = {
            "format": FORMAT,
            "n_cells": self._n_cells,
            "n_genes": self._n_genes,
            "n_nonzeros": n_nonzeros,
            "genes": self._genes.str,
            "counts": self._counts.str,
            "atlas": atlas,
            "crc32": dict(zip(FILES, sums, strict=True)),
        }
        write_description(self._folder / "pack.json", described)
        return Pack(self._folder)

    def close(self) -> None:
        """Remove what was written to sort; a writer that is not finished is of no more use."""
        self._rows.close()


def _running_sums(lengths: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """0 and the sums of ``lengths`` (n,), in pieces of together n + 1 numbers."""
    total = np.zeros(1, "<i8")
    yield total
    for start in range(0, len(lengths), _INDPTR_CELLS):
        piece = total[-1] + np.cumsum(lengths[start : start + _INDPTR_CELLS], dtype="<i8")
        yield piece
        total = piece[-1:]
