"""10x Genomics matrix directories: ``matrix.mtx``, features and barcodes, plain or gzipped.

A Matrix Market file is text in one piece, so it is read once and sorted into
rows under a scratch folder.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
import pandas as pd

from tigon.storage.errors import InputError
from tigon.storage.scratch import Scratch
from tigon.storage.sources.features import choose_genes
from tigon.storage.sources.matrices.transpose import PIECE_ENTRIES, Entries, rows_from_entries
from tigon.storage.sources.source import Choice, Source, check_tables, one_dataset


def find_matrix(folder: Path) -> Path | None:
    """The Matrix Market file of a 10x directory; its name may carry a prefix."""
    found = sorted([*folder.glob("*matrix.mtx"), *folder.glob("*matrix.mtx.gz")])
    if len(found) > 1:
        names = ", ".join(path.name for path in found[:4])
        raise InputError(
            f"{folder} holds {len(found)} matrices ({names}): a directory is read as one sample; "
            "give each file by its own name"
        )
    return found[0] if found else None


def open_tenx_mtx(matrix: Path, name: str, choice: Choice) -> Source:
    """Read the directory of ``matrix``, sorting its entries into rows.

    Raises
    ------
    InputError
        A part is missing, or contradicts another.
    """
    if choice.layer is not None or choice.raw:
        raise InputError(f"{matrix.parent} is a 10x matrix: it has no layers and no .raw")
    with _damaged_as_input_error(matrix):
        barcodes = _read_table(_part(matrix, "barcodes.tsv"))
        table = _read_table(_part(matrix, "features.tsv", "genes.tsv"))
        obs = pd.DataFrame(index=barcodes[0].to_numpy(object))
        features = _features(table)
        # The file has features in rows and cells in columns.
        n_features, n_cells, n_entries, values = _read_header(matrix)
    shape = (n_cells, n_features)
    check_tables(str(matrix), shape, obs, features)
    var, columns = choose_genes(features, str(matrix))
    scratch = Scratch(choice.scratch)
    with _damaged_as_input_error(matrix):
        rows = rows_from_entries(
            _entries(matrix, n_entries, values), shape, n_entries, values, str(matrix), scratch
        )
    return Source(
        where=str(matrix),
        matrix=rows,
        load_obs=lambda: obs,
        load_var=lambda: var,
        labels=one_dataset(name, n_cells, len(var)),
        columns=columns,
        close=scratch.close,
    )


def _part(matrix: Path, *names: str) -> Path:
    """The file beside the matrix that bears one of the names, after the same prefix."""
    prefix = matrix.name.split("matrix.mtx")[0]
    paths = [matrix.with_name(prefix + name + end) for name in names for end in ("", ".gz")]
    for path in paths:
        if path.is_file():
            return path
    looked_for = " or ".join(prefix + name for name in names)
    raise InputError(
        f"{matrix.parent} has no {looked_for} (nor .gz): a 10x directory has a matrix.mtx, "
        "features.tsv or genes.tsv, and barcodes.tsv; put it there"
    )


def _read_table(path: Path) -> pd.DataFrame:
    # Quotes and "NA" are part of names here.
    return pd.read_csv(path, sep="\t", header=None, dtype=str, quoting=3, keep_default_na=False)


def _features(table: pd.DataFrame) -> pd.DataFrame:
    """Identifiers, names and types, under the column names that scanpy uses."""
    if table.shape[1] == 1:
        return pd.DataFrame(index=table[0].to_numpy(object))
    columns = {"gene_ids": table[0].to_numpy(object)}
    if table.shape[1] > 2:
        columns["feature_types"] = table[2].to_numpy(object)
    return pd.DataFrame(columns, index=table[1].to_numpy(object))


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return cast("IO[str]", gzip.open(path, "rt"))
    return path.open("rt")


def _read_header(path: Path) -> tuple[int, int, int, np.dtype[Any]]:
    with _open_text(path) as file:
        first = file.readline().lower().split()
        if first[:3] != ["%%matrixmarket", "matrix", "coordinate"] or len(first) < 5:
            raise InputError(
                f"{path} is not a sparse Matrix Market file, whatever its name says (it begins "
                f"with {' '.join(first[:3])[:40]!r}): check that it was copied whole"
            )
        if first[3] not in ("integer", "real") or first[4] != "general":
            raise InputError(
                f"{path} is a Matrix Market file of kind {' '.join(first[3:])!r}: counts are "
                "'integer general' or 'real general'; write it again"
            )
        _skip_comments(file, path)
        sizes = _read_sizes(file, path)
    return (*sizes, np.dtype(np.int64 if first[3] == "integer" else np.float64))


def _skip_comments(file: IO[str], path: Path) -> None:
    """Stop before the line of sizes."""
    while True:
        position = file.tell()
        line = file.readline()
        if not line:
            raise InputError(f"{path} ends before its sizes: it is cut short; copy it again")
        if not line.startswith("%"):
            file.seek(position)
            return


def _read_sizes(file: IO[str], path: Path) -> tuple[int, int, int]:
    line = file.readline()
    try:
        n_rows, n_columns, n_entries = (int(size) for size in line.split())
    except ValueError as error:
        raise InputError(
            f"{path}: the sizes {line.strip()[:40]!r} are not three whole numbers: the file is "
            "damaged; copy it again"
        ) from error
    return n_rows, n_columns, n_entries


def _entries(path: Path, n_entries: int, values: np.dtype[Any]) -> Iterator[Entries]:
    seen = 0
    with _open_text(path) as file:
        file.readline()
        _skip_comments(file, path)
        file.readline()
        for piece in _read_pieces(file, values):
            seen += len(piece)
            # Positions in the file begin with 1.
            yield Entries(
                rows=piece["column"].to_numpy() - 1,
                columns=piece["row"].to_numpy() - 1,
                values=piece["value"].to_numpy(),
            )
    if seen != n_entries:
        raise InputError(
            f"{path} holds {seen:,} entries and announces {n_entries:,}: it is cut short or "
            "damaged; copy it again"
        )


def _read_pieces(file: IO[str], values: np.dtype[Any]) -> Iterator[pd.DataFrame]:
    try:
        yield from pd.read_csv(
            file,
            sep=r"\s+",
            header=None,
            names=["row", "column", "value"],
            dtype={"row": "int64", "column": "int64", "value": values.name},
            chunksize=PIECE_ENTRIES,
        )
    except pd.errors.EmptyDataError:
        return


@contextmanager
def _damaged_as_input_error(matrix: Path) -> Iterator[None]:
    """Say plainly what the decompressor or the parser could not read."""
    try:
        yield
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{matrix.parent}: the 10x files cannot be read ({str(error).splitlines()[0]}): one is "
            "cut short or damaged; copy or download them again"
        ) from error
