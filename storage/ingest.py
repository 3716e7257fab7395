"""Writing an atlas: one pass over the counts, every stage at work at once.

Blocks of cells are read, checked and summed on threads, in the order of the
atlas; their counts are cut into chunks, compressed on the same threads and
appended to shards (see ``tigon.storage.layout``). Counts start as uint16; where
a larger one turns up, what is written already is copied to uint32, so that none
is ever clipped. The bytes depend on the counts, the names and the layout alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.storage import layout, sums
from tigon.storage.atlas import Atlas
from tigon.storage.count_writer import CountWriter, Piece
from tigon.storage.encoding import ANNDATA, DICT, key, quiet_codecs, quiet_writers
from tigon.storage.errors import InputError
from tigon.storage.gene_kinds import kinds_of
from tigon.storage.ingest_plan import IngestPlan, plan_ingest
from tigon.storage.layout import Profile
from tigon.storage.objects import BUCKETS, is_bucket
from tigon.storage.opening import open_atlas
from tigon.storage.ordered import ordered
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import published
from tigon.storage.sources.matrices.matrix import SparseRows
from tigon.storage.sums import Cells, cell_totals, kind_sums, sum_tiles
from tigon.storage.tables import storable
from tigon.storage.uploading import uploaded

if TYPE_CHECKING:
    import zarr

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
    scratch: Path | None = None,
    chunk_nonzeros: int = layout.CHUNK_NONZEROS,
    shard_chunks: int = layout.SHARD_CHUNKS,
    beside: Callable[[zarr.Group], None] | None = None,
    expected_digest: str | None = None,
) -> Atlas:
    """Write an atlas as one store that Tigon and AnnData read, and open it.

    Parameters
    ----------
    atlas
        What ``open_atlas`` gave.
    out
        Folder to make, usually named ``*.zarr``; it appears when it is complete. Or a
        place in a bucket (``s3://``, ``gs://``, ``az://``), which opens when all is there.
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
    scratch
        Folder for a store on its way to a bucket; None for the system's temporary one.
    chunk_nonzeros
        Counts per chunk.
    shard_chunks
        Chunks per shard.
    beside
        Adds what else is to be in the store, given its root.
    expected_digest
        Digest that the counts must turn out to have.

    Returns
    -------
    Atlas
        The new store, opened.

    Raises
    ------
    InputError
        A source holds something that is not a count, or has changed (its digest is not
        the expected one), or ``out`` cannot be written.
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
    if chunk_nonzeros < 1 or shard_chunks < 1:
        raise InputError(
            f"chunk_nonzeros={chunk_nonzeros}, shard_chunks={shard_chunks}: both are at least 1"
        )
    how = _How(
        find_profile(profile), (chunk_nonzeros, shard_chunks), beside, expected_digest, progress
    )
    plan = plan_ingest(atlas, n_threads, memory_limit)
    if is_bucket(out):
        _check_is_elsewhere(atlas, str(out))
        place = uploaded(str(out), overwrite=overwrite, scratch=scratch, progress=progress)
    else:
        place = published(_local(out), overwrite=overwrite)
    with place as aside:
        _write_store(atlas, aside, how, plan)
    return open_atlas(out)


@dataclass(frozen=True, slots=True)
class _How:
    """How a store is written; see :func:`write_atlas`."""

    profile: Profile
    chunks: tuple[int, int]
    beside: Callable[[zarr.Group], None] | None
    expected_digest: str | None
    progress: Progress


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


def _local(out: str | Path) -> Path:
    if "://" in str(out):
        raise InputError(
            f"{out} is a URL that cannot be written to: an atlas goes to a folder or to a bucket "
            f"({', '.join(BUCKETS)})"
        )
    if Path(out).is_file():
        raise InputError(f"{out} is a file and an atlas is a folder: choose another name")
    return Path(out)


def _check_is_elsewhere(atlas: Atlas, url: str) -> None:
    """A bucket has no rename: what is read there would go before it is copied."""
    if (atlas.path or "").rstrip("/") == url.rstrip("/"):
        raise InputError(
            f"the output {url} is one of the sources: it would be replaced; choose another name"
        )


def _write_store(atlas: Atlas, folder: Path, how: _How, plan: IngestPlan) -> None:
    import zarr

    root = zarr.create_group(store=str(folder), zarr_format=3)
    with ThreadPoolExecutor(plan.n_threads, thread_name_prefix="tigon-ingest") as pool:
        writer = CountWriter(root.create_group("X"), atlas, how.profile, how.chunks, pool)
        for piece in _pieces(atlas, plan, pool):
            writer.add(piece)
            how.progress("writing cells", piece.start + piece.n_cells, atlas.n_cells)
        _check_digest(atlas, writer.finish(), how.expected_digest)
    with quiet_writers(), quiet_codecs():
        _write_tables(root, atlas)
        if how.beside is not None:
            how.beside(root)
        # What lets a reader open the store comes last.
        root.attrs.update(ANNDATA)
        zarr.consolidate_metadata(str(folder))


def _check_digest(atlas: Atlas, found: str, expected: str | None) -> None:
    if expected is not None and found != expected:
        raise InputError(
            f"{atlas.path}: its counts or names are not those that were written (digest "
            f"{found[:12]}, noted {expected[:12]}): the atlas was damaged or changed by hand; "
            "copy it again or ingest it again"
        )


def _pieces(atlas: Atlas, plan: IngestPlan, pool: Executor) -> Iterator[Piece]:
    kinds = kinds_of(atlas.var.index)

    def read(start: int) -> Piece:
        stop = min(start + plan.block_cells, atlas.n_cells)
        reads = [
            _read(atlas, kinds, first, min(first + plan.read_cells, stop))
            for first in range(start, stop, plan.read_cells)
        ]
        whole = plan.block_cells % sums.TILE_CELLS == 0
        return Piece(start, reads, list(sum_tiles(start, reads, atlas.n_genes)) if whole else None)

    return ordered(pool, read, range(0, atlas.n_cells, plan.block_cells), plan.window)


def _read(atlas: Atlas, kinds: NDArray[np.uint8], start: int, stop: int) -> Cells:
    block = atlas.read(start, stop)
    rows = SparseRows(block.indptr, block.indices, _narrow(block.values))
    codes = atlas.source_codes[start:stop]
    return Cells(rows, codes, cell_totals(rows), kind_sums(rows, kinds))


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
