"""The second pass: build the pack from an atlas."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets
from tigon.scaling.memory import give_back
from tigon.scaling.selecting import GeneSelection, select
from tigon.scaling.statistics import BLOCK_CELLS, Statistics, blocks_together
from tigon.storage.counts import index_dtype
from tigon.storage.packs.escape import LARGEST
from tigon.storage.packs.pack import CELL, Pack, PackBlock
from tigon.storage.packs.writer import PackWriter, Piece
from tigon.storage.progress import Progress, silent
from tigon.storage.views.reopening import reference

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas

RUN_BYTES = 32 * 2**20
"""Cells that are sorted at a time."""

BUCKET_BYTES = 16 * 2**20
_BUCKETS_AT_ONCE = 3

MOST_ENTRIES = 64
"""Entries that a count is split into at most; larger ones widen the pack. The kernels add
products in float32, and the sum of so few is as exact as that of the cell's genes."""


FEW_DATASETS = 32
"""Of so many every mini-batch may hold cells."""

PIECE_CELLS = 256
"""Cells of one dataset that stay together where there are more."""


def most_datasets(n_datasets: int, n_cells: int) -> int:
    """Datasets that a stretch of the pack touches at most, or nearly so: for planning."""
    if n_datasets <= FEW_DATASETS:
        return n_datasets
    return min(n_datasets, 3 * -(-n_cells // PIECE_CELLS))  # the last of each is smaller


def pack_order(codes: NDArray[np.int32], seed: np.random.SeedSequence) -> NDArray[np.int64]:
    """Place of every cell in the pack: shuffled, every stretch near-proportional.

    Parameters
    ----------
    codes
        Dataset of each cell, shape (n_cells,); -1 for a cell left out.
    seed
        One generator is drawn from it.

    Returns
    -------
    ndarray of int64, shape (n_cells,)
        Place, or -1. Within a dataset of n_i cells the shuffled cell of rank r
        sorts by (r + u) / n_i with u uniform, so that any prefix, and any
        stretch, holds nearly the same share of every dataset. Where there are more
        than 32 datasets, this holds for pieces of 256 shuffled cells, which stay
        together: a mini-batch costs what the datasets cost that it touches.
    """
    rng = np.random.default_rng(seed)
    cells = np.flatnonzero(codes >= 0)
    key = np.empty(len(cells))
    chosen = codes[cells]
    by_dataset = np.argsort(chosen, kind="stable")
    edges = np.flatnonzero(np.diff(chosen[by_dataset], prepend=-1, append=-1))
    size = 1 if len(edges) - 1 <= FEW_DATASETS else PIECE_CELLS
    for start, stop in pairwise(edges):
        n, n_pieces = stop - start, -(-(stop - start) // size)
        piece, draw = rng.permutation(n) // size, rng.random(n)
        key[by_dataset[start:stop]] = (piece + (draw if size == 1 else draw[piece])) / n_pieces
    del chosen, by_dataset  # 12 bytes a cell, where sorting takes as much again
    places = np.full(len(codes), -1, np.int64)
    places[cells[np.argsort(key, kind="stable")]] = np.arange(len(cells))
    return places


def pack_dtypes(
    statistics: Statistics, genes: NDArray[np.int64]
) -> tuple[np.dtype[np.unsignedinteger], np.dtype[Any]]:
    """Narrowest dtypes that hold the gene positions and the counts exactly.

    Counts above 65,535 are split into several entries of 16 bits
    (:mod:`tigon.storage.packs.escape`), unless that would take more room than
    wider counts.
    """
    index = index_dtype(len(genes))
    if not statistics.integer or statistics.largest >= 2**32:
        return index, np.dtype("<f4")
    if statistics.largest <= LARGEST:
        return index, np.dtype("<u2")
    widening = 2 * int(statistics.n_cells_detected[genes].sum())
    splitting = _most_split(statistics) * (index.itemsize + 2)
    few = statistics.largest <= MOST_ENTRIES * LARGEST and splitting <= widening
    return index, np.dtype("<u2" if few else "<u4")


def _most_split(statistics: Statistics) -> int:
    """Entries that splitting may add at most: each stands for 65,535 of the total counts."""
    return int(statistics.totals[statistics.kept].sum() // LARGEST)


def pack_bytes(statistics: Statistics, genes: NDArray[np.int64]) -> int:
    """Bytes that the pack of the given genes takes on disk at most, its description aside."""
    dtypes = pack_dtypes(statistics, genes)
    n_entries = int(statistics.n_cells_detected[genes].sum())
    if dtypes[1].itemsize == 2:
        n_entries += _most_split(statistics)
    n_cells = int(statistics.kept.sum())
    entry = sum(dtype.itemsize for dtype in dtypes)
    return n_entries * entry + n_cells * (CELL.itemsize + 8) + 8


def sorting_bytes(n_bytes: int) -> tuple[int, int]:
    """Bytes that sorting a pack of ``n_bytes`` holds at most: while cells come, and after."""
    run = min(RUN_BYTES, n_bytes)
    # Of a bucket one array is there twice while it is put in order, and one is done.
    buckets = (_BUCKETS_AT_ONCE + 1) * 3 * BUCKET_BYTES // 2
    return run + run // 2, min(buckets, 2 * n_bytes)


def build_pack(
    atlas: Atlas,
    datasets: Datasets,
    statistics: Statistics,
    genes: NDArray[np.int64],
    folder: Path,
    engine: ThreadEngine,
    seed: np.random.SeedSequence,
    progress: Progress = silent,
) -> Pack:
    """Write the pack of the kept cells and the selected genes.

    Parameters
    ----------
    atlas, datasets, statistics
        Counts, and what the first pass found.
    genes
        Positions of the selected genes, ascending, int64, shape (m,).
    folder
        Created.
    engine, seed, progress
        Where it runs, the order of cells, and who is told.

    Returns
    -------
    Pack

    Notes
    -----
    One pass over the atlas; the pack is written twice. Holds the blocks in flight
    and what :func:`sorting_bytes` says.
    """
    places = pack_order(datasets.codes, seed)
    return write_pack(atlas, datasets, statistics, genes, places, folder, engine, progress)


def write_pack(
    atlas: Atlas,
    datasets: Datasets,
    statistics: Statistics,
    genes: NDArray[np.int64],
    places: NDArray[np.int64],
    folder: Path,
    engine: ThreadEngine,
    progress: Progress = silent,
) -> Pack:
    """As :func:`build_pack`, with the ``places`` of :func:`pack_order`."""
    n_buckets = max(1, -(-pack_bytes(statistics, genes) // BUCKET_BYTES))
    shape = (int((places >= 0).sum()), len(genes))
    writer = PackWriter(folder, shape, pack_dtypes(statistics, genes), n_buckets, RUN_BYTES)
    selection = GeneSelection.of(genes, atlas.n_genes)
    shared, n_cells = reference(atlas), atlas.n_cells
    give_back()  # what putting cells in order took

    def rows_of(start: int) -> PackBlock:
        block = shared.get().read(start, min(start + BLOCK_CELLS, n_cells))
        return select(block, selection, datasets.codes, statistics.totals[start:])

    def in_order(fn: Callable[[int], Piece], buckets: Sequence[int]) -> Iterator[Piece]:
        window = min(engine.window, _BUCKETS_AT_ONCE)
        pieces = engine.local.ordered_map(fn, iter(buckets), window)
        for n, piece in enumerate(pieces, 1):
            progress("ordering cells (parts)", n, len(buckets))
            yield piece

    try:
        done = 0
        of_a_block = pack_bytes(statistics, genes) * BLOCK_CELLS // max(1, n_cells)
        starts = range(0, n_cells, BLOCK_CELLS)
        for block in engine.ordered_map(rows_of, starts, together=blocks_together(of_a_block)):
            writer.add(places[block.positions], block)
            done = min(done + BLOCK_CELLS, atlas.n_cells)
            progress("packing cells", done, atlas.n_cells)
        return writer.finish(in_order, atlas=atlas.path or ", ".join(atlas.source_names))
    finally:
        writer.close()
