"""Chosen cells and genes of an atlas as SciPy sparse rows, read when asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from tigon.storage.errors import InputError
from tigon.storage.minibatches.genes import Genes
from tigon.storage.sources.matrices.matrix import SparseRows
from tigon.storage.views.reopening import AtlasReference
from tigon.storage.views.selection import runs_in_order

_EXACT_FLOAT32 = 1 << 24


@dataclass(frozen=True, eq=False)
class CountsView:
    """Counts of some cells and genes; a slice of rows reads them.

    Attributes
    ----------
    atlas
        Where they are.
    shape
        Cells and genes that were chosen.
    dtype
        Type of the counts that are given.
    cells
        Positions of the cells, int64, in the order of the rows; None for all.
    genes
        The genes, in the order of the columns; None for all.
    """

    atlas: AtlasReference
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    cells: NDArray[np.int64] | None = None
    genes: Genes | None = None
    ndim: ClassVar[int] = 2

    def read(self, start: int, stop: int) -> SparseRows:
        """Rows ``start`` to ``stop`` in the types they are stored in, columns ascending.

        Raises
        ------
        InputError
            A count is not exact in the type asked for, or cannot be read.

        Notes
        -----
        All that the rows need is asked for together. Memory: the rows with all
        genes, and with the chosen ones.
        """
        atlas = self.atlas.get()
        if self.cells is None:
            runs = np.array([[start, stop]])
        else:
            runs = runs_in_order(self.cells[start:stop])
        rows = atlas.read_runs(runs)
        if self.genes is not None:
            rows = self.genes.of(rows)
        check_exact(rows.values, self.dtype)
        return rows

    def __getitem__(self, key: tuple[slice, slice]) -> sparse.csr_matrix[Any]:
        start, stop, step = key[0].indices(self.shape[0])
        assert step == 1
        rows = self.read(start, max(start, stop))
        block = to_csr(rows, self.shape[1], self.dtype)
        all_columns = key[1].indices(self.shape[1]) == (0, self.shape[1], 1)
        return block if all_columns else block[:, key[1]]


def to_csr(rows: SparseRows, n_columns: int, dtype: np.dtype[Any]) -> sparse.csr_matrix[Any]:
    """Sorted rows as a SciPy matrix of ``dtype``, whose positions are int32 where they fit."""
    wide = len(rows.indices) > np.iinfo(np.int32).max
    positions = np.int64 if wide else np.int32
    matrix = sparse.csr_matrix(
        (
            rows.values.astype(dtype, copy=False),
            rows.indices.astype(positions, copy=False),
            rows.indptr.astype(positions, copy=False),
        ),
        shape=(len(rows.indptr) - 1, n_columns),
    )
    # Known, so that SciPy need not look.
    matrix.has_sorted_indices = matrix.has_canonical_format = True
    return matrix


def view_dtype(asked: DTypeLike | None, stored: np.dtype[Any]) -> np.dtype[Any]:
    """The type that counts are given in: float32, float64, or (None) as they are stored.

    Raises
    ------
    InputError
        Another type is asked for.
    """
    if asked is None:
        return stored
    dtype = np.dtype(asked)
    if dtype not in (np.float32, np.float64, stored):
        raise InputError(
            f"dtype is {dtype}: counts are given as float32, float64 or, with None, as they are "
            f"stored ({stored})"
        )
    return dtype


def check_exact(values: NDArray[Any], dtype: np.dtype[Any]) -> None:
    """Refuse counts that have no equal in a type of :func:`view_dtype`."""
    if dtype != np.float32 or values.dtype != np.uint32 or not len(values):
        return
    largest = int(values.max())
    if largest > _EXACT_FLOAT32:
        raise InputError(
            f"a count of {largest:,} cannot be given as float32: whole numbers are exact up to "
            f"{_EXACT_FLOAT32:,}; ask for dtype float64, or None for them as stored"
        )
