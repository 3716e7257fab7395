"""A source: one matrix of counts with its tables of cells and genes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.sources.matrices.matrix import Matrix

if TYPE_CHECKING:
    from tigon.storage.known_sums import KnownSums


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Which matrix of a source to take.

    Attributes
    ----------
    layer
        Name of a layer, None for ``X``.
    raw
        Take ``.raw``.
    scratch
        Folder for intermediate files, None for the system's temporary folder.
    """

    layer: str | None = None
    raw: bool = False
    scratch: Path | None = None

    def __post_init__(self) -> None:
        if self.raw and self.layer is not None:
            raise InputError(
                f"both --raw and --layer {self.layer} were given: one matrix is read; choose one"
            )


@dataclass(frozen=True, kw_only=True)
class Labels:
    """Which dataset each cell of a source is from, and what each dataset measured.

    Attributes
    ----------
    names
        Names of the datasets.
    codes
        Dataset of each cell, int32, shape (n_cells,).
    measured
        Which genes each dataset measured, bool, shape (n_datasets, n_genes).
    """

    names: list[str]
    codes: NDArray[np.int32]
    measured: NDArray[np.bool_]


def one_dataset(name: str, n_cells: int, n_genes: int) -> Labels:
    """All cells from one dataset that measured all genes."""
    return Labels(
        names=[name],
        codes=np.zeros(n_cells, np.int32),
        measured=np.ones((1, n_genes), np.bool_),
    )


def _nothing() -> None:
    """Close a source that holds nothing open."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """One matrix of counts with its tables.

    Attributes
    ----------
    where
        The file, for messages.
    matrix
        The matrix; its rows are the cells.
    load_obs, load_var
        Give the tables of cells and genes.
    labels
        Which dataset each cell is from.
    columns
        Columns of the matrix that ``var`` describes, int64, shape (n_genes,);
        None for all.
    hint
        What to try when the matrix does not hold counts.
    n_nonzeros
        Entries of the matrix where its counts are known to be clean: Tigon's own atlas.
    sums
        Sums over its cells and genes, where they are stored.
    selection
        Which matrix of ``where`` it is; None where ``where`` is no file or URL.
    close
        Close files and remove intermediate ones.
    """

    where: str
    matrix: Matrix
    load_obs: Callable[[], pd.DataFrame]
    load_var: Callable[[], pd.DataFrame]
    labels: Labels
    columns: NDArray[np.int64] | None = None
    hint: str = ""
    n_nonzeros: int | None = None
    sums: KnownSums | None = None
    selection: str | None = None
    close: Callable[[], None] = field(default=_nothing)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.matrix.shape[0]

    @property
    def n_genes(self) -> int:
        """Number of genes, after leaving out other features."""
        return self.matrix.shape[1] if self.columns is None else len(self.columns)


def check_tables(where: str, shape: tuple[int, int], obs: pd.DataFrame, var: pd.DataFrame) -> None:
    """Refuse a matrix without cells or genes, and tables that do not fit or repeat a column."""
    for name, table, size in (("cells", obs, shape[0]), ("genes", var, shape[1])):
        repeated = list(dict.fromkeys(map(str, table.columns[table.columns.duplicated()])))
        if repeated:
            raise InputError(
                f"{where}: the table of {name} has several columns of the same name "
                f"({', '.join(repeated[:5])}): each needs its own; rename or remove them"
            )
        if len(table) != size:
            raise InputError(
                f"{where}: the matrix has {size:,} {name} and their table {len(table):,} rows: "
                "they must agree; the file is damaged, write it again"
            )
        if not size:
            raise InputError(f"{where} holds no {name}: at least one is needed; leave it out")
