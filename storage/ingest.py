"""Writing an atlas: one pass over the counts, every stage at work at once.

Blocks of cells are read, checked and summed on threads, in the order of the
atlas; their counts are cut into chunks, compressed on the same threads and
appended to shards (see ``tigon.storage.layout``). Counts start as uint16; where
a larger one turns up, what is written already is copied to uint32, so that none
is ever clipped. The bytes depend on the counts, the names and the layout alone.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.storage import layout
from tigon.storage.atlas import Atlas
from tigon.storage.counts import index_dtype
from tigon.storage.digest import ContentDigest
from tigon.storage.encoding import ANNDATA, CSR, DICT, key, quiet_codecs, quiet_writers
from tigon.storage.errors import InputError
from tigon.storage.ingest_plan import IngestPlan, plan_ingest
from tigon.storage.layout import Profile
from tigon.storage.opening import open_atlas
from tigon.storage.ordered import ordered
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import published
from tigon.storage.sharded import ShardedArray
from tigon.storage.sources.matrices.matrix import SparseRows
from tigon.storage.sources.matrices.offsets import OffsetsBuilder
from tigon.storage.sums import TILE_CELLS, GeneSumsWriter, TileSums, cell_totals, tiles_of
from tigon.storage.tables import storable

if TYPE_CHECKING:
    import zarr

_INDPTR_CHUNK = 1 << 16
_INDPTR_CHUNKS = (_INDPTR_CHUNK, 1)
_UINT16 = np.dtype(np.uint16)
_LARGEST_NARROW = 65535


def write_atlas(
    atlas: Atlas,
    out: str | Path,
    *,
    profile: str = "local",
    overwrite: bool = False,
    progress: Progress = silent,
    n_threads: int | None = None,
    memory_limit: int | None = None,
    chunk_nonzeros: int = layout.CHUNK_NONZEROS,
    shard_chunks: int = layout.SHARD_CHUNKS,
) -> Atlas:
    """Write an atlas as one store that Tigon and AnnData read, and open it.

    Parameters
    ----------
    atlas
        What ``open_atlas`` gave.
    out
        Folder to make, usually named ``*.zarr``; it appears when it is complete.
    profile
        "local" (LZ4, readable by any Zarr implementation) or "network" (pcodec: less
        than half the bytes, slower to write, for Python and Rust).
    overwrite
        Replace a store that is already there, once the new one is complete.
    progress
        Called after every block of cells.
    n_threads
        Threads that read, check and compress; None for all processors. The bytes
        written do not depend on it.
    memory_limit
        Bytes that the process shall stay below; None to take what is quick: about
        64 MiB a thread.
    chunk_nonzeros
        Counts per chunk.
    shard_chunks
        Chunks per shard.

    Returns
    -------
    Atlas
        The new store, opened.

    Raises
    ------
    InputError
        A source holds something that is not a count, or ``out`` cannot be written.
    OutputExistsError
        ``out`` exists and ``overwrite`` is False.
    NoSpaceError
        The disk is full.
    MemoryLimitError
        The smallest blocks do not fit in ``memory_limit``.

    Notes
    -----
    One pass over the sources. Memory: blocks as ``tigon.storage.ingest_plan`` says, a
    few chunks, 24 bytes for each gene of each source, 8 bytes a cell, and the tables.
    """
    out = Path(_local(out))
    if chunk_nonzeros < 1 or shard_chunks < 1:
        raise InputError(
            f"chunk_nonzeros={chunk_nonzeros}, shard_chunks={shard_chunks}: both are at least 1"
        )
    how = Layout(find_profile(profile), (chunk_nonzeros, shard_chunks))
    plan = plan_ingest(atlas, n_threads, memory_limit)
    with published(out, overwrite=overwrite) as aside:
        _write_store(atlas, aside, progress, how, plan)
    return open_atlas(out)


@dataclass(frozen=True, slots=True)
class Layout:
    """How counts are stored.

    Attributes
    ----------
    profile
        How chunks are compressed.
    chunks
        Counts per chunk and chunks per shard.
    """

    profile: Profile
    chunks: tuple[int, int]


def find_profile(name: str) -> Profile:
    """The profile of this name.

    Raises
    ------
    InputError
        There is none.
    """
    if name not in layout.PROFILES:
        known = " or ".join(map(repr, layout.PROFILES))
        raise InputError(f"profile={name!r} is not known: it is {known}")
    return layout.PROFILES[name]


def _local(out: str | Path) -> str | Path:
    if "://" in str(out):
        raise InputError(f"{out} is a URL: an atlas is written to a folder; copy it from there")
    if Path(out).is_file():
        raise InputError(f"{out} is a file and an atlas is a folder: choose another name")
    return out


def _write_store(
    atlas: Atlas, folder: Path, progress: Progress, how: Layout, plan: IngestPlan
) -> None:
    import zarr

    root = zarr.create_group(store=str(folder), zarr_format=3)
    with ThreadPoolExecutor(plan.n_threads, thread_name_prefix="tigon-ingest") as pool:
        writer = _CountWriter(root.create_group("X"), atlas, how, pool)
        for piece in _pieces(atlas, plan, pool):
            writer.add(piece)
            progress("writing cells", piece.start + piece.n_cells, atlas.n_cells)
        writer.finish()
    with quiet_writers(), quiet_codecs():
        _write_tables(root, atlas)
        # What lets a reader open the store comes last.
        root.attrs.update(ANNDATA)
        zarr.consolidate_metadata(str(folder))


@dataclass(frozen=True, slots=True)
class _Piece:
    """A block of cells, their totals, and the sums of tiles where it has whole ones."""

    start: int
    rows: SparseRows
    totals: NDArray[np.float64]
    tiles: list[TileSums]

    @property
    def n_cells(self) -> int:
        return len(self.totals)


def _pieces(atlas: Atlas, plan: IngestPlan, pool: Executor) -> Iterator[_Piece]:
    def read(start: int) -> _Piece:
        block = atlas.read(start, min(start + plan.block_cells, atlas.n_cells))
        rows = SparseRows(block.indptr, block.indices, _narrow(block.values))
        totals = cell_totals(rows)
        tiles = []
        if plan.block_cells % TILE_CELLS == 0:
            codes = atlas.source_codes[start : start + block.n_cells]
            for first, *cells in tiles_of(start, rows, codes, totals):
                tiles.append(TileSums(first, atlas.n_genes))
                tiles[-1].add(*cells)
        return _Piece(start, rows, totals, tiles)

    return ordered(pool, read, range(0, atlas.n_cells, plan.block_cells), plan.window)


def _narrow(values: NDArray[Any]) -> NDArray[Any]:
    """Counts as uint16 where all of them fit, whatever their source keeps them in."""
    if values.dtype.kind == "f" or values.max(initial=0) > _LARGEST_NARROW:
        return values
    return values.astype(_UINT16, copy=False)


def _write_tables(root: zarr.Group, atlas: Atlas) -> None:
    from anndata.io import write_elem

    write_elem(root, "obs", _keyed(atlas.obs))
    write_elem(root, "var", _keyed(atlas.var))
    uns = root.create_group("uns", attributes=DICT)
    tigon = {
        "format_version": layout.FORMAT_VERSION,
        layout.SOURCE_NAMES: np.array(atlas.source_names, dtype=object),
        layout.MEASURED: atlas.measured,
    }
    write_elem(uns, layout.UNS, tigon)


def _keyed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with columns fit for keys of a store."""
    return storable(table).rename(columns=lambda column: key(str(column)))


class _CountWriter:
    """Appends blocks to the arrays of ``X``."""

    def __init__(self, X: zarr.Group, atlas: Atlas, how: Layout, pool: Executor) -> None:
        profile, chunks = how.profile, how.chunks
        is_float = atlas.values_dtype.kind == "f"
        values = atlas.values_dtype if is_float else _UINT16
        self._X, self._atlas, self._profile = X, atlas, profile
        self._values = ShardedArray(X, "data", values, chunks, profile.values, pool)
        positions = index_dtype(atlas.n_genes)
        nowhere = int(np.iinfo(positions).max)
        self._indices = ShardedArray(
            X, "indices", positions, chunks, profile.rising, pool, lost=nowhere
        )
        self._indptr = ShardedArray(
            X, "indptr", np.dtype(np.int64), _INDPTR_CHUNKS, profile.rising, pool, lost=-1
        )
        self._indptr.append(np.zeros(1, np.int64))
        self._totals = ShardedArray(
            X, layout.TOTALS, np.dtype(np.float64), _INDPTR_CHUNKS, profile.values, pool, lost=-1
        )
        self._offsets = OffsetsBuilder()
        self._digest = ContentDigest(atlas.n_genes)
        shape = (len(atlas.source_names), atlas.n_genes)
        self._sums = GeneSumsWriter(X.create_group(layout.GENE_SUMS), atlas.source_codes, shape)
        self._tile: TileSums | None = None
        self._n_nonzeros = 0

    def add(self, piece: _Piece) -> None:
        rows = piece.rows
        if self._values.dtype == _UINT16 and rows.values.dtype != _UINT16:
            logging.getLogger("tigon").info("a count above 65,535: counts are stored as uint32")
            self._values.widen(np.dtype(np.uint32))
        self._values.append(rows.values)
        self._indices.append(rows.indices)
        self._indptr.append(rows.indptr[1:] + self._n_nonzeros)
        self._totals.append(piece.totals)
        self._offsets.add(np.diff(rows.indptr))
        self._digest.add(rows)
        self._n_nonzeros += len(rows.values)
        for tile in piece.tiles or self._tiles(piece):
            self._sums.add(tile)

    def finish(self) -> None:
        for array in (self._values, self._indices, self._indptr, self._totals):
            array.finish()
        if self._tile is not None:
            self._sums.add(self._tile)
        self._sums.finish()
        offsets = self._offsets.build()
        self._X.create_array(layout.OFFSETS, data=offsets.values)
        atlas = self._atlas
        mark = {
            "format_version": layout.FORMAT_VERSION,
            "largest_row": offsets.largest_row,
            "profile": self._profile.name,
            "digest": self._digest.finish(
                atlas.obs.index, atlas.var.index, atlas.source_codes, atlas.measured
            ),
        }
        self._X.attrs.update({**CSR, "shape": list(atlas.shape), layout.MARK: mark})

    def _tiles(self, piece: _Piece) -> Iterator[TileSums]:
        """Tiles that small blocks complete; one that begins may end in a later block."""
        codes = self._atlas.source_codes[piece.start : piece.start + piece.n_cells]
        for start, *cells in tiles_of(piece.start, piece.rows, codes, piece.totals):
            if start % TILE_CELLS == 0:
                if self._tile is not None:
                    yield self._tile
                self._tile = TileSums(start, self._atlas.n_genes)
            assert self._tile is not None
            self._tile.add(*cells)
