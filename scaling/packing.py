"""The second pass: build the pack from an atlas."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets
from tigon.scaling.memory import give_back
from tigon.scaling.selecting import GeneSelection, cell_weights, selected_entries
from tigon.scaling.statistics import BLOCK_CELLS, Statistics
from tigon.storage.packs.coding import LARGEST, largest
from tigon.storage.packs.pack import CELL, Pack
from tigon.storage.packs.sorting import PIECE_BYTES, Bucket, Rows
from tigon.storage.packs.writer import PackWriter, RunWriter, Sums
from tigon.storage.progress import Progress, silent
from tigon.storage.views.reopening import AtlasReference, reference

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas

RUN_BYTES, RUN_BLOCKS = 16 * 2**20, 8
"""Cells that a task sorts: most bytes of them, and most blocks."""

_RUNS_TOGETHER = 4
"""Runs that are sent to a worker as one at most, where tasks travel: a round trip takes
milliseconds."""

BUCKET_BYTES = 24 * 2**20
"""Cells that a task puts in their place in the pack, and holds."""

BUCKET_CELLS, _PLACING_BYTES = 2**16, 64
"""So many cells at most, and of each where it lies and where it goes."""

MOST_ENTRIES = 64
"""Entries of 65,535 that a count is read as at most; larger ones widen the pack. The kernels add
products in float32, and the sum of so few is as exact as that of the cell's genes."""

_GAPS = tuple(map(np.dtype, ("<u1", "<u2", "<u4")))
_COUNTS = tuple(map(np.dtype, ("<u1", "<u2", "<u4")))


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
    """Types of gaps between genes and of counts with which the pack is smallest at most.

    What does not fit into them takes several entries (:mod:`tigon.storage.packs.coding`).
    """
    if not statistics.integer or statistics.largest >= 2**32:
        of_counts: tuple[np.dtype[Any], ...] = (np.dtype("<f4"),)
    elif statistics.largest > MOST_ENTRIES * LARGEST:
        of_counts = _COUNTS[2:]
    else:
        of_counts = _COUNTS
    pairs = [(gaps, counts) for gaps in _GAPS for counts in of_counts]
    return min(pairs, key=lambda dtypes: _entries_bytes(statistics, genes, *dtypes))


def _entries_bytes(
    statistics: Statistics,
    genes: NDArray[np.int64],
    gaps: np.dtype[np.unsignedinteger],
    counts: np.dtype[Any],
) -> int:
    """Bytes of all entries at most.

    Each that a gap takes beyond one stands for 255 genes, or what ``gaps`` holds, and each that a
    count takes beyond one for as many of the total counts.
    """
    n_entries = int(statistics.n_cells_detected[genes].sum())
    n_entries += int(statistics.kept.sum()) * (len(genes) // int(np.iinfo(gaps).max))
    most = largest(counts)
    if most is not None and statistics.largest > most:
        n_entries += int(statistics.totals[statistics.kept].sum() // most)
    return n_entries * (gaps.itemsize + counts.itemsize)


def pack_bytes(statistics: Statistics, genes: NDArray[np.int64]) -> int:
    """Bytes that the pack of the given genes takes on disk at most, its description aside."""
    n_cells = int(statistics.kept.sum())
    entries = _entries_bytes(statistics, genes, *pack_dtypes(statistics, genes))
    return entries + n_cells * (CELL.itemsize + 8) + 8


def run_bytes(block_bytes: int, packed_bytes: int, n_cells: int) -> int:
    """Bytes that a task of the pack holds at most.

    Parameters
    ----------
    block_bytes
        Of a block of the atlas as it is read.
    packed_bytes
        Of its selected genes.
    n_cells
        Cells of the atlas.
    """
    run = max(packed_bytes, min(RUN_BYTES, RUN_BLOCKS * packed_bytes))
    of_cells = -(-packed_bytes // BLOCK_CELLS) * n_cells
    bucket = min(BUCKET_BYTES, of_cells) + _PLACING_BYTES * min(BUCKET_CELLS, n_cells)
    pieces = 2 * min(PIECE_BYTES, of_cells)
    # A run with its last block and what is taken out of that, or once more as it is written.
    return max(run + max(block_bytes + packed_bytes, run + pieces), bucket + pieces)


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
    One pass over the atlas; the pack is written twice. Holds 32 bytes a cell, and what
    :func:`run_bytes` says where each task runs.
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
    n_bytes, n_cells = pack_bytes(statistics, genes), atlas.n_cells
    shape = (int((places >= 0).sum()), len(genes))
    n_buckets = max(1, -(-n_bytes // BUCKET_BYTES), -(-shape[0] // BUCKET_CELLS))
    writer = PackWriter(folder, shape, pack_dtypes(statistics, genes), n_buckets)
    selection = GeneSelection.of(genes, atlas.n_genes)
    task = _RunTask(reference(atlas), selection, writer.run_writer)
    give_back()  # what putting cells in order took

    def in_order(fn: Callable[[Bucket], Sums], buckets: Iterable[Bucket]) -> Iterator[Sums]:
        for n, sums in enumerate(engine.ordered_map(fn, buckets), 1):
            progress("ordering cells (parts)", n, writer.n_buckets)
            yield sums

    try:
        runs = list(_runs(places, statistics, n_bytes, engine.window))
        written = engine.ordered_map(task, runs, together=_RUNS_TOGETHER)
        for run, lengths in zip(runs, written, strict=True):
            kept = run.start + np.flatnonzero(run.kept)
            cells = np.empty(len(kept), CELL)
            cells["position"], cells["dataset"] = kept, datasets.codes[kept]
            cells["weight"] = cell_weights(statistics.totals[kept])
            writer.take(places[kept], cells, lengths)
            progress("packing cells", run.stop, n_cells)
        return writer.finish(in_order, atlas=atlas.path or ", ".join(atlas.source_names))
    finally:
        writer.close()


@dataclass(frozen=True, slots=True)
class _Run:
    """Cells of the atlas from ``start`` on that are sorted together, and their places."""

    number: int
    start: int
    places: NDArray[np.int64]

    @property
    def stop(self) -> int:
        return self.start + len(self.places)

    @property
    def kept(self) -> NDArray[np.bool_]:
        return self.places >= 0

    def __str__(self) -> str:
        return f"cells {self.start} to {self.stop}"


def _runs(
    places: NDArray[np.int64], statistics: Statistics, n_bytes: int, at_once: int
) -> Iterator[_Run]:
    """Cut the cells, of which ``n_bytes`` are written: the same wherever the cuts are."""
    firsts = range(0, len(places), BLOCK_CELLS)
    # Cells in which many genes are seen have more of the selected ones.
    detected = np.add.reduceat(np.where(places >= 0, statistics.n_detected, 0), firsts)
    of_block = n_bytes * detected / max(1, detected.sum())
    most = min(RUN_BLOCKS, -(-len(firsts) // at_once))
    number = start = 0
    held = 0.0
    for first, more in zip(firsts, of_block.tolist(), strict=True):
        if first - start >= most * BLOCK_CELLS or (start < first and held + more > RUN_BYTES):
            yield _Run(number, start, places[start:first])
            number, start, held = number + 1, first, 0.0
        held += more
    yield _Run(number, start, places[start:])


@dataclass(frozen=True, slots=True)
class _RunTask:
    """Reads a run, block by block, and writes it sorted; the entries of its kept cells."""

    atlas: AtlasReference
    selection: GeneSelection
    write: RunWriter

    def __call__(self, run: _Run) -> NDArray[np.uint32]:
        kept = run.kept
        firsts = range(0, len(kept), BLOCK_CELLS)
        parts = (self._part(run.start + i, kept[i : i + BLOCK_CELLS]) for i in firsts)
        return self.write(run.number, run.places[kept], parts)

    def _part(self, start: int, kept: NDArray[np.bool_]) -> Rows:
        block = self.atlas.get().read(start, start + len(kept))
        indptr, *entries = selected_entries(block, self.selection, kept)
        return indptr, tuple(entries)
