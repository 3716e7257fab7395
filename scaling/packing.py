"""The second pass: build the pack from an atlas."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets
from tigon.scaling.selecting import GeneSelection, select
from tigon.scaling.statistics import BLOCK_CELLS, Statistics
from tigon.storage.counts import index_dtype
from tigon.storage.packs.pack import CELL, Pack, PackBlock
from tigon.storage.packs.writer import PackWriter
from tigon.storage.progress import Progress, silent

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas

BUCKET_BYTES = 32 * 2**20


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
        stretch, holds nearly the same share of every dataset.
    """
    rng = np.random.default_rng(seed)
    cells = np.flatnonzero(codes >= 0)
    key = np.empty(len(cells))
    chosen = codes[cells]
    by_dataset = np.argsort(chosen, kind="stable")
    edges = np.flatnonzero(np.diff(chosen[by_dataset], prepend=-1, append=-1))
    for start, stop in pairwise(edges):
        n = stop - start
        key[by_dataset[start:stop]] = (rng.permutation(n) + rng.random(n)) / n
    places = np.full(len(codes), -1, np.int64)
    places[cells[np.argsort(key, kind="stable")]] = np.arange(len(cells))
    return places


def pack_dtypes(
    statistics: Statistics, n_genes: int
) -> tuple[np.dtype[np.unsignedinteger], np.dtype[Any]]:
    """Narrowest dtypes that hold the gene positions and the counts exactly."""
    genes = index_dtype(n_genes)
    if not statistics.integer:
        return genes, np.dtype("<f4")
    return genes, np.dtype("<u2" if statistics.largest < 2**16 else "<u4")


def pack_bytes(statistics: Statistics, genes: NDArray[np.int64]) -> int:
    """Bytes that the pack of the given genes takes on disk."""
    entry = sum(dtype.itemsize for dtype in pack_dtypes(statistics, len(genes)))
    n_cells = int(statistics.kept.sum())
    return int(statistics.n_cells_detected[genes].sum()) * entry + n_cells * (CELL.itemsize + 8) + 8


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
    One pass over the atlas; the pack is written twice. Holds the blocks in
    flight and about three buckets of 32 MiB.
    """
    places = pack_order(datasets.codes, seed)
    n_buckets = max(1, -(-pack_bytes(statistics, genes) // BUCKET_BYTES))
    shape = (int((places >= 0).sum()), len(genes))
    writer = PackWriter(folder, shape, pack_dtypes(statistics, len(genes)), n_buckets)
    selection = GeneSelection.of(genes, atlas.n_genes)

    def rows_of(start: int) -> PackBlock:
        block = atlas.read(start, min(start + BLOCK_CELLS, atlas.n_cells))
        return select(block, selection, datasets.codes, statistics.totals[start:])

    try:
        done = 0
        for block in engine.ordered_map(rows_of, range(0, atlas.n_cells, BLOCK_CELLS)):
            writer.add(places[block.positions], block)
            done = min(done + BLOCK_CELLS, atlas.n_cells)
            progress("packing cells", done, atlas.n_cells)
        return writer.finish()
    finally:
        writer.close()
