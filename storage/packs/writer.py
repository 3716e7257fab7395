"""Writing a pack: cells are scattered to buckets on disk, then each bucket is sorted.

Every cell knows its place in the pack beforehand, so the result does not
depend on the order or the sizes in which cells arrive, nor on the number of
buckets. Memory: write buffers, then one bucket at a time.
"""

from __future__ import annotations

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from tigon.storage.packs.pack import CELL, Pack, PackBlock
from tigon.storage.raw import write_array

_ARRIVAL = np.dtype([("place", "<i8"), ("n_nonzeros", "<i8"), ("cell", CELL)])
_PARTS = ("arrivals", "genes", "counts")
_MOST_OPEN = 32
"""Buckets whose files are open at once, three each: a process may often open 1024 files."""


def take_rows(
    indptr: NDArray[np.int64], rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Entries of the given CSR rows, in that order, and the indptr of the result."""
    lengths = np.diff(indptr)[rows]
    taken = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    offsets = np.repeat(indptr[rows] - taken[:-1], lengths)
    return np.arange(taken[-1]) + offsets, taken


class PackWriter:
    """Writes one pack; use as ``writer.add(places, block)`` for all cells, then ``finish()``.

    Parameters
    ----------
    folder
        Created; must not exist.
    shape
        Cells and genes of the pack; ``places`` must fill 0 to n_cells exactly once.
    dtypes
        Types of the gene positions and of the counts.
    n_buckets
        Files scattered to; one bucket must fit in memory about three times.
    """

    def __init__(
        self,
        folder: Path,
        shape: tuple[int, int],
        dtypes: tuple[np.dtype[Any], np.dtype[Any]],
        n_buckets: int,
    ) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._n_cells, self._n_genes = shape
        self._genes, self._counts = dtypes
        self._bucket_cells = max(1, -(-self._n_cells // n_buckets))
        self._n_buckets = -(-self._n_cells // self._bucket_cells)
        self._open: dict[int, tuple[ExitStack, list[BinaryIO]]] = {}

    def _create(self, stack: ExitStack, name: str) -> BinaryIO:
        # When one file of a stack cannot be closed, the others still are.
        return stack.enter_context((self._folder / name).open("ab"))

    def _files(self, b: int) -> list[BinaryIO]:
        """The files of a bucket; those that were opened first make room for it."""
        if b not in self._open:
            if len(self._open) == _MOST_OPEN:
                self._open.pop(next(iter(self._open)))[0].close()
            stack = ExitStack()
            self._open[b] = stack, []
            self._open[b][1].extend(self._create(stack, f"{part}.{b}") for part in _PARTS)
        return self._open[b][1]

    def add(self, places: NDArray[np.int64], block: PackBlock) -> None:
        """Scatter the cells of ``block`` to their buckets; ``places`` (n,) says where they go."""
        bucket = places // self._bucket_cells
        order = np.argsort(bucket, kind="stable")
        edges = np.searchsorted(bucket[order], np.arange(self._n_buckets + 1))
        for b in np.unique(bucket).tolist():
            chosen = order[edges[b] : edges[b + 1]]
            self._append(self._files(b), places[chosen], block, chosen)

    def _append(
        self,
        files: list[BinaryIO],
        places: NDArray[np.int64],
        block: PackBlock,
        chosen: NDArray[np.int64],
    ) -> None:
        entries, indptr = take_rows(block.indptr, chosen)
        arrivals = np.empty(len(chosen), _ARRIVAL)
        arrivals["place"] = places
        arrivals["n_nonzeros"] = np.diff(indptr)
        arrivals["cell"]["position"] = block.positions[chosen]
        arrivals["cell"]["dataset"] = block.datasets[chosen]
        arrivals["cell"]["weight"] = block.weights[chosen]
        write_array(files[0], arrivals)
        write_array(files[1], block.genes[entries].astype(self._genes))
        write_array(files[2], block.counts[entries].astype(self._counts))

    def finish(self) -> Pack:
        """Sort every bucket, join them, and publish the pack."""
        self.close()
        n_nonzeros = 0
        names = ("cells.bin", "indptr.bin", "genes.bin", "counts.bin")
        with ExitStack() as stack:
            outputs = [self._create(stack, name) for name in names]
            write_array(outputs[1], np.zeros(1, "<i8"))
            for b in range(self._n_buckets):
                n_nonzeros += self._sort_bucket(b, n_nonzeros, outputs)
        described = {
            "n_cells": self._n_cells,
            "n_genes": self._n_genes,
            "n_nonzeros": n_nonzeros,
            "genes": self._genes.str,
            "counts": self._counts.str,
        }
        (self._folder / "pack.json").write_text(json.dumps(described))
        return Pack(self._folder)

    def _sort_bucket(self, b: int, offset: int, outputs: list[BinaryIO]) -> int:
        arrivals = np.fromfile(self._part("arrivals", b), _ARRIVAL)
        order = np.argsort(arrivals["place"], kind="stable")
        expected = np.arange(len(order)) + b * self._bucket_cells
        assert np.array_equal(arrivals["place"][order], expected), "a cell is missing or doubled"
        arrived = np.concatenate([np.zeros(1, np.int64), np.cumsum(arrivals["n_nonzeros"])])
        entries, indptr = take_rows(arrived, order)
        write_array(outputs[0], arrivals["cell"][order])
        write_array(outputs[1], (indptr[1:] + offset).astype("<i8"))
        for part, dtype, file in (
            ("genes", self._genes, outputs[2]),
            ("counts", self._counts, outputs[3]),
        ):
            write_array(file, np.fromfile(self._part(part, b), dtype)[entries])
        for part in _PARTS:
            self._part(part, b).unlink()
        return int(indptr[-1])

    def _part(self, part: str, b: int) -> Path:
        return self._folder / f"{part}.{b}"

    def close(self) -> None:
        """Close the bucket files."""
        with ExitStack() as closing:
            while self._open:
                closing.push(self._open.popitem()[1][0])
