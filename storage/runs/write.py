"""Write a run: an AnnData-encoded Zarr v3 store, written aside and published whole.

The marks that let a reader open the store (AnnData's encoding of the root, the
consolidated metadata) are written last, and the store takes its name after them,
so a half-written run never opens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from tigon.storage.encoding import ANNDATA, ARRAY, DICT, STRINGS, TABLE, key, quiet_writers
from tigon.storage.errors import InputError
from tigon.storage.publish import published
from tigon.storage.rows import ArrayRows, RowReader
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.statistics import write_statistics
from tigon.storage.tables import storable, storable_column, text_index

if TYPE_CHECKING:
    import zarr

FORMAT_VERSION = 1
CHUNK_ROWS = 16384
NAMES_IN_CHUNK = 1 << 16
_SHARD_BYTES = 16 << 20


def write_run(path: str | Path, contents: RunContents, *, overwrite: bool = False) -> Path:
    """Write a run and publish it under ``path`` at the end.

    Parameters
    ----------
    path
        Folder of the run, usually named ``*.zarr``.
    contents
        What to write; ``obsm`` readers are streamed.
    overwrite
        Replace a run that is already there, once the new one is complete.

    Returns
    -------
    Path
        Where the run is.

    Raises
    ------
    OutputExistsError
        ``path`` exists and ``overwrite`` is False.

    Notes
    -----
    One pass over every ``obsm`` reader, holding one Zarr shard (about 16 MiB)
    of it at a time.
    """
    import zarr

    with published(path, overwrite=overwrite) as aside, quiet_writers():
        root = zarr.create_group(store=str(aside), zarr_format=3)
        _write_tables(root, contents)
        root.create_group("varm", attributes=DICT)
        _write_obsm(root, contents.obsm)
        root.create_group("uns", attributes=DICT)
        _write_uns(Path(aside, "uns"), contents)
        write_statistics(root, contents)
        contents.model.write(root)
        root.attrs.update(ANNDATA)
        zarr.consolidate_metadata(str(aside))
    return Path(path)


def _write_tables(root: zarr.Group, contents: RunContents) -> None:
    from anndata.io import write_elem

    if contents.cell_names is None:
        write_elem(root, "obs", _keyed(contents.obs))
    else:
        _write_streamed(root, contents.obs, contents.cell_names)
    write_elem(root, "var", _keyed(contents.var))


def _write_streamed(root: zarr.Group, table: pd.DataFrame, names: Iterable[pd.Index[Any]]) -> None:
    """``obs`` as AnnData encodes it, column by column, the names of cells as they come."""
    from anndata.io import write_elem

    _check_columns(table)
    keys = {key(str(name)): name for name in table}
    attributes = {**TABLE, "_index": "_index", "column-order": list(keys)}
    group = root.create_group("obs", attributes=attributes)
    for name, column in keys.items():
        write_elem(group, name, pd.Series(storable_column(table[column]), copy=False).values)
    index = group.create_array(
        "_index",
        shape=(len(table),),
        dtype=str,
        chunks=(min(NAMES_IN_CHUNK, max(1, len(table))),),
        attributes=STRINGS,
    )
    done = 0
    for piece in names:
        told = text_index(piece).to_numpy(object)
        for start in range(0, len(told), NAMES_IN_CHUNK):
            some = told[start : start + NAMES_IN_CHUNK]
            index[done : done + len(some)] = some
            done += len(some)


def _keyed(table: pd.DataFrame) -> pd.DataFrame:
    """The table with column names fit for keys and columns that AnnData stores."""
    _check_columns(table)
    return storable(table).rename(columns=key)


def _check_columns(table: pd.DataFrame) -> None:
    if "_index" in table.columns:
        raise InputError('a column is named "_index": AnnData keeps that name; rename the column')


def _write_obsm(root: zarr.Group, obsm: Mapping[str, Any]) -> None:
    write_matrices(root.create_group("obsm", attributes=DICT), obsm)


def write_matrices(group: zarr.Group, obsm: Mapping[str, Any]) -> None:
    """Write matrices with a row per cell, one Zarr shard in memory at a time.

    Parameters
    ----------
    group
        ``obsm`` of a run.
    obsm
        Matrices by name; readers are streamed.
    """
    for name, source in obsm.items():
        rows = ArrayRows(source) if isinstance(source, np.ndarray) else source
        _stream_rows(group, key(name), rows)


def _stream_rows(group: zarr.Group, name: str, rows: RowReader) -> None:
    n, width = rows.shape[0], rows.shape[1:]
    chunk_rows = min(CHUNK_ROWS, n)
    chunk_bytes = chunk_rows * int(np.prod(width)) * rows.dtype.itemsize
    chunks_per_shard = max(1, min(_SHARD_BYTES // chunk_bytes, -(-n // chunk_rows)))
    shard_rows = chunk_rows * chunks_per_shard
    array = group.create_array(
        name,
        shape=rows.shape,
        dtype=rows.dtype,
        chunks=(chunk_rows, *width),
        shards=(shard_rows, *width),
        attributes=ARRAY,
    )
    for start in range(0, n, shard_rows):
        stop = min(start + shard_rows, n)
        array[start:stop] = rows.read(start, stop)


def _write_uns(folder: Path, contents: RunContents) -> None:
    tigon: dict[str, Any] = {
        "format_version": FORMAT_VERSION,
        **contents.model.told(),
        "config": contents.config,
        "versions": contents.versions,
        "history": {name: np.asarray(column) for name, column in contents.history.items()},
        "timings_s": {name: float(seconds) for name, seconds in contents.timings_s.items()},
        "scores": {name: float(score) for name, score in contents.scores.items()},
        "peak_memory_bytes": int(contents.peak_memory_bytes),
        "notices": contents.notices,
        "command": contents.command,
    }
    if contents.memory_limit_bytes is not None:
        tigon["memory_limit_bytes"] = int(contents.memory_limit_bytes)
    _write_small(folder, "tigon", storable_setting(tigon))


def _write_small(folder: Path, name: str, value: Any) -> None:
    """Write something of many small parts into a group.

    They are put together in memory: Zarr asks other threads for each of a dozen reads and
    writes that a number takes in a folder, which is a second for some tens of numbers.
    """
    import zarr
    from anndata.io import write_elem

    parts: dict[str, Any] = {}
    group = zarr.create_group(store=zarr.storage.MemoryStore(parts), zarr_format=3)
    write_elem(group, name, value)
    for place, part in parts.items():
        if place.startswith(f"{name}/"):
            path = folder / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(part.to_bytes())


def storable_setting(value: Any) -> Any:
    """``value`` in the types that AnnData stores: dicts, arrays, strings, numbers, None."""
    if isinstance(value, Mapping):
        return {key(str(name)): storable_setting(item) for name, item in value.items()}
    if isinstance(value, str | bool | int | float | np.ndarray | np.generic | None):
        return value
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, Sequence) and all(isinstance(item, str) for item in value):
        return np.array(value, dtype=object)
    if isinstance(value, Sequence) and all(isinstance(item, int | float) for item in value):
        return np.array(value)
    raise TypeError(f"a run cannot store {value!r} of type {type(value).__name__}")
