"""Sums over cells and genes, gathered while an atlas is written.

With x a count divided by the total of its cell, ``X/tigon_genes`` holds what the
first pass of an integration finds where its datasets are the sources and every
cell is kept, to the bit: tiles of 2,048 cells are each summed entry by entry,
and tiles are added up in order, in float64.

===============  ===================  ==========================================
``first``        n_sources, n_genes   sums of x, float64
``second``       n_sources, n_genes   sums of x^2, float64
``cells``        n_sources, n_genes   cells with a count above zero, int64
``counts``       n_runs, n_genes      sums of counts, float64, exact below 2^53
``run_starts``   n_runs               first cell of each run, int64
``run_sources``  n_runs               source of each run, int64
===============  ===================  ==========================================

A run is the cells of one source among 16,384 cells of the atlas.

With the total of each cell are stored its counts in mitochondrial and in ribosomal genes, so
that :mod:`tigon.storage.known_sums` gives all that the first pass finds.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.storage.gene_kinds import COUNTED
from tigon.storage.sources.matrices.matrix import SparseRows

if TYPE_CHECKING:
    import zarr

TILE_CELLS = 2048
"""As the first pass of an integration cuts its tasks."""

RUN_CELLS = 16384
"""A multiple of the tile; about as many cells as a shard holds."""


def cell_totals(rows: SparseRows) -> NDArray[np.float64]:
    """Sum of each row's values, float64, shape (n_rows,); added one after another."""
    n_rows = len(rows.indptr) - 1
    lengths = np.diff(rows.indptr)
    if rows.values.dtype.kind == "f":
        of_rows = np.repeat(np.arange(n_rows), lengths)
        return np.bincount(of_rows, rows.values, minlength=n_rows).astype(np.float64)
    totals = np.zeros(n_rows)
    filled = np.flatnonzero(lengths)
    if len(filled):
        # Whole numbers: exact in any order.
        starts = rows.indptr[:-1][filled]
        totals[filled] = np.add.reduceat(rows.values, starts, dtype=np.uint64)
    return totals


def kind_sums(rows: SparseRows, kinds: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Sums of each row's values over the genes of each kind, added one after another.

    Parameters
    ----------
    rows
        Some rows.
    kinds
        Kind of each gene, uint8, shape (n_genes,). Kinds 1 to ``COUNTED`` are summed.

    Returns
    -------
    ndarray of float64, shape (n_rows, COUNTED)
    """
    n_rows = len(rows.indptr) - 1
    is_counted = (kinds > 0) & (kinds <= COUNTED)
    entries = np.flatnonzero(is_counted[rows.indices])  # a bool each: the quickest to look through
    of_rows = np.searchsorted(rows.indptr, entries, side="right") - 1
    places = of_rows * COUNTED + kinds[rows.indices[entries]] - 1
    found = np.bincount(places, rows.values[entries], minlength=n_rows * COUNTED)
    return found.astype(np.float64).reshape(n_rows, COUNTED)


def checksum_of_sources(codes: NDArray[np.int32]) -> int:
    """Of which cell is of which source, as the sums take them."""
    return zlib.crc32(np.ascontiguousarray(codes, np.int32).tobytes())


class Cells(NamedTuple):
    """Some cells: their clean counts, their sources, their totals, and those of kinds of genes."""

    rows: SparseRows
    codes: NDArray[np.int32]
    totals: NDArray[np.float64]
    of_kinds: NDArray[np.float64]


class TileSums:
    """Per-gene sums of the cells of one tile, by source.

    Parameters
    ----------
    start
        The first cell of the tile.
    n_genes
        Genes of the atlas.

    Attributes
    ----------
    by_source
        (counts, first, second, cells) of each source that has cells here, each float64,
        shape (n_genes,).
    """

    def __init__(self, start: int, n_genes: int) -> None:
        self.start = start
        self.by_source: dict[int, list[NDArray[np.float64]]] = {}
        self._n_genes = n_genes

    def add(self, cells: Cells) -> None:
        """Take the next cells of the tile."""
        sources = np.unique(cells.codes).tolist()
        for source in sources:
            chosen = cells if len(sources) == 1 else _of_source(cells, source)
            before = self.by_source.get(source) or [np.zeros(self._n_genes)] * 4
            self.by_source[source] = _added(before, chosen)


def _added(before: Sequence[NDArray[np.float64]], cells: Cells) -> list[NDArray[np.float64]]:
    """Sums so far with these cells added, entry by entry in their order.

    SciPy multiplies sparse columns by ones in that order and lets other threads work
    meanwhile, as ``numpy.add.at`` does not; the sums so far are the first column.
    """
    rows, totals = cells.rows, cells.totals
    n_genes, n_cells = len(before[0]), len(totals)
    genes = np.concatenate([np.arange(n_genes, dtype=np.int32), rows.indices], dtype=np.int32)
    indptr = np.concatenate([[0], rows.indptr + n_genes], dtype=np.int32)
    entries = (np.empty(len(genes)), genes, indptr)
    by_cell = sparse.csc_array(entries, shape=(n_genes, n_cells + 1))
    ones, after = np.ones(n_cells + 1), []
    for sums, _ in zip(before, _entries(cells, by_cell.data[n_genes:]), strict=True):
        by_cell.data[:n_genes] = sums
        after.append(np.asarray(by_cell @ ones, np.float64))
    return after


def _entries(cells: Cells, out: NDArray[np.float64]) -> Iterator[None]:
    """Put counts, x, x^2 and ones into ``out``, one after the other."""
    rows, totals = cells.rows, cells.totals
    weights = np.divide(1.0, totals, out=np.zeros(len(totals)), where=totals > 0)
    out[:] = rows.values
    yield
    out *= np.repeat(weights, np.diff(rows.indptr))
    yield
    np.square(out, out=out)
    yield
    out.fill(1.0)
    yield


def _of_source(cells: Cells, source: int) -> Cells:
    """The cells of one source."""
    rows, codes, totals, of_kinds = cells
    chosen, lengths = codes == source, np.diff(rows.indptr)
    entries = np.repeat(chosen, lengths)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths[chosen])])
    piece = SparseRows(indptr, rows.indices[entries], rows.values[entries])
    return Cells(piece, codes[chosen], totals[chosen], of_kinds[chosen])


def tiles_of(start: int, cells: Cells) -> Iterator[tuple[int, Cells]]:
    """Cells from ``start`` on, cut where tiles end, without copying entries."""
    rows, codes, totals, of_kinds = cells
    first = 0
    while first < len(totals):
        last = min(len(totals), first + TILE_CELLS - (start + first) % TILE_CELLS)
        indptr = rows.indptr[first : last + 1]
        entries = slice(int(indptr[0]), int(indptr[-1]))
        piece = SparseRows(indptr - indptr[0], rows.indices[entries], rows.values[entries])
        here = slice(first, last)
        yield start + first, Cells(piece, codes[here], totals[here], of_kinds[here])
        first = last


def sum_tiles(
    start: int, reads: Sequence[Cells], n_genes: int, tile: TileSums | None = None
) -> Iterator[TileSums]:
    """Sums of the tiles of consecutive cells from ``start`` on.

    Parameters
    ----------
    start
        Position of the first cell in the atlas.
    reads
        The cells, in any number of stretches.
    n_genes
        Genes of the atlas.
    tile
        The tile that cells before ``start`` belong to, where the first cell does too.

    Yields
    ------
    TileSums
        Each tile in order, the last perhaps to be gone on with.
    """
    for cells in reads:
        for first, piece in tiles_of(start, cells):
            if tile is None or first % TILE_CELLS == 0:
                if tile is not None:
                    yield tile
                tile = TileSums(first, n_genes)
            tile.add(piece)
        start += len(cells.totals)
    if tile is not None:
        yield tile


class GeneSumsWriter:
    """Adds up tiles in order and stores the sums.

    Parameters
    ----------
    group
        Where to store them.
    codes
        Source of each cell of the atlas, int32, shape (n_cells,).
    shape
        Sources and genes.

    Notes
    -----
    Holds 24 bytes for each gene of each source, and 8 for each gene of the sources of a run.
    """

    def __init__(self, group: zarr.Group, codes: NDArray[np.int32], shape: tuple[int, int]) -> None:
        self._group = group
        self._first, self._second = np.zeros(shape), np.zeros(shape)
        self._cells = np.zeros(shape, np.int64)
        runs = _runs(codes)
        self._places = {run: place for place, run in enumerate(runs)}
        self._counts = group.create_array(
            "counts", shape=(len(runs), shape[1]), dtype=np.float64, chunks=(1, shape[1])
        )
        for name, column in (("run_starts", 0), ("run_sources", 1)):
            group.create_array(name, data=np.array(runs, np.int64).reshape(-1, 2)[:, column])
        self._open: dict[int, NDArray[np.float64]] = {}
        self._run = 0

    def add(self, tile: TileSums) -> None:
        """Take the next tile."""
        run = tile.start // RUN_CELLS * RUN_CELLS
        if run != self._run:
            self._end_run()
            self._run = run
        for source, (counts, first, second, cells) in tile.by_source.items():
            self._first[source] += first
            self._second[source] += second
            self._cells[source] += cells.astype(np.int64)
            if source in self._open:
                self._open[source] += counts
            else:
                self._open[source] = counts

    def finish(self) -> None:
        """Store the sums."""
        from zarr.codecs import Crc32cCodec, ZstdCodec

        self._end_run()
        # A file that is lost reads as what no sum is.
        how: dict[str, Any] = {"compressors": [ZstdCodec(), Crc32cCodec()], "fill_value": -1}
        for name in ("first", "second", "cells"):
            self._group.create_array(name, data=getattr(self, f"_{name}"), **how)

    def _end_run(self) -> None:
        for source, counts in self._open.items():
            self._counts[self._places[self._run, source]] = counts
        self._open = {}


def _runs(codes: NDArray[np.int32]) -> list[tuple[int, int]]:
    """First cell and source of every run."""
    return [
        (start, int(source))
        for start in range(0, len(codes), RUN_CELLS)
        for source in np.unique(codes[start : start + RUN_CELLS])
    ]
