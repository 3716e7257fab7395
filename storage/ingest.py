"""Writing an atlas: one pass over the counts, whole shards at a time.

The store is AnnData's encoding of sorted CSR in Zarr v3 (see
``tigon.storage.layout``). Counts start as uint16; where a larger one turns up,
what is written already is copied to uint32, so that none is ever clipped.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from tigon.storage import layout
from tigon.storage.atlas import Atlas
from tigon.storage.block import Block
from tigon.storage.counts import index_dtype
from tigon.storage.encoding import ANNDATA, CSR, DICT, key, quiet_writers
from tigon.storage.errors import InputError
from tigon.storage.opening import open_atlas
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import published
from tigon.storage.sharded import ShardedArray
from tigon.storage.sources.matrices.offsets import OffsetsBuilder
from tigon.storage.tables import storable

if TYPE_CHECKING:
    import zarr

_BLOCK_BYTES = 64 << 20
_MOST_BLOCK_CELLS = 1 << 16
_INDPTR_CHUNK = 1 << 16
_UINT16 = np.dtype(np.uint16)


def write_atlas(
    atlas: Atlas,
    out: str | Path,
    *,
    overwrite: bool = False,
    progress: Progress = silent,
    chunk_nonzeros: int = 1 << 17,
    shard_chunks: int = 128,
) -> Atlas:
    """Write an atlas as one store that Tigon and AnnData read, and open it.

    Parameters
    ----------
    atlas
        What ``open_atlas`` gave.
    out
        Folder to make, usually named ``*.zarr``; it appears when it is complete.
    overwrite
        Replace a store that is already there, once the new one is complete.
    progress
        Called after every block of cells.
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

    Notes
    -----
    One pass over the sources. Memory: a shard of indices and one of counts (64
    to 96 MiB together with the defaults, and as much again while they are
    compressed), one block of about 64 MiB, and the tables.
    """
    out = Path(_local(out))
    if chunk_nonzeros < 1 or shard_chunks < 1:
        raise InputError(
            f"chunk_nonzeros={chunk_nonzeros}, shard_chunks={shard_chunks}: both are at least 1"
        )
    with published(out, overwrite=overwrite) as aside:
        _write_store(atlas, aside, progress, (chunk_nonzeros, shard_chunks))
    return open_atlas(out)


def _local(out: str | Path) -> str | Path:
    if "://" in str(out):
        raise InputError(f"{out} is a URL: an atlas is written to a folder; copy it from there")
    if Path(out).is_file():
        raise InputError(f"{out} is a file and an atlas is a folder: choose another name")
    return out


def _write_store(atlas: Atlas, folder: Path, progress: Progress, chunks: tuple[int, int]) -> None:
    import zarr

    root = zarr.create_group(store=str(folder), zarr_format=3)
    writer = _CountWriter(root.create_group("X"), atlas, chunks)
    step = block_cells(atlas)
    for start in range(0, atlas.n_cells, step):
        stop = min(start + step, atlas.n_cells)
        writer.add(atlas.read(start, stop))
        progress("writing cells", stop, atlas.n_cells)
    writer.finish()
    with quiet_writers():
        _write_tables(root, atlas)
        # What lets a reader open the store comes last.
        root.attrs.update(ANNDATA)
        zarr.consolidate_metadata(str(folder))


def block_cells(atlas: Atlas) -> int:
    """Cells to read at a time so that a block takes about 64 MiB."""
    n_cells = _MOST_BLOCK_CELLS
    while n_cells > 1 and atlas.estimate_block_bytes(n_cells) > _BLOCK_BYTES:
        n_cells //= 2
    return n_cells


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

    def __init__(self, X: zarr.Group, atlas: Atlas, chunks: tuple[int, int]) -> None:
        is_float = atlas.values_dtype.kind == "f"
        values = atlas.values_dtype if is_float else _UINT16
        self._X, self._shape = X, atlas.shape
        self._values = ShardedArray(X, "data", values, *chunks)
        positions = index_dtype(atlas.n_genes)
        nowhere = int(np.iinfo(positions).max)
        self._indices = ShardedArray(X, "indices", positions, *chunks, lost=nowhere)
        self._indptr = ShardedArray(X, "indptr", np.dtype(np.int64), _INDPTR_CHUNK, 1, lost=-1)
        self._indptr.append(np.zeros(1, np.int64))
        self._offsets = OffsetsBuilder()
        self._n_nonzeros = 0

    def add(self, block: Block) -> None:
        if self._values.dtype == _UINT16 and len(block.values) and block.values.max() > 65535:
            logging.getLogger("tigon").info("a count above 65,535: counts are stored as uint32")
            self._values.widen(np.dtype(np.uint32))
        self._values.append(block.values)
        self._indices.append(block.indices)
        self._indptr.append(block.indptr[1:] + self._n_nonzeros)
        self._offsets.add(np.diff(block.indptr))
        self._n_nonzeros += len(block.values)

    def finish(self) -> None:
        for array in (self._values, self._indices, self._indptr):
            array.finish()
        offsets = self._offsets.build()
        self._X.create_array(layout.OFFSETS, data=offsets.values)
        mark = {
            "format_version": layout.FORMAT_VERSION,
            "largest_row": offsets.largest_row,
        }
        self._X.attrs.update({**CSR, "shape": list(self._shape), layout.MARK: mark})
