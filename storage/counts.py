"""From rows as stored to counts: whole, non-negative, sorted, each gene once.

Every block is checked as it is read: what needs no change in one pass
(``tigon.storage.narrowing``), the rest in a few vectorised ones. What is
harmless is put in order: unsorted genes are sorted, explicit zeros dropped, and
entries for the same cell and gene summed, which is what SciPy and AnnData take
them to mean. What is not a count is refused, with its place.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.storage.narrowing import is_sorted, narrowed
from tigon.storage.sources.matrices.matrix import SparseRows


class BadEntry(Exception):
    """An entry that is no count.

    Attributes
    ----------
    row, column
        Its place in the rows read; ``column`` as stored, which may be out of range.
    value
        Its value.
    problem
        What is wrong, as "a negative value"; or "" for a column out of range.
    """

    def __init__(self, row: int, column: int, value: float, problem: str) -> None:
        super().__init__(problem)
        self.row, self.column, self.value, self.problem = row, column, value, problem


NEGATIVE = "a negative value"
NOT_FINITE = "a missing or infinite value"
FRACTION = "a value that is not a whole number"
TOO_LARGE = "a count too large to store"
OUT_OF_RANGE = "a gene position outside the table of genes"


@dataclass(frozen=True, slots=True)
class CountType:
    """What clean counts are stored as.

    Attributes
    ----------
    n_columns
        Columns of the rows read.
    n_genes
        Genes of the atlas.
    values
        uint16, uint32, or float32 where non-integers are allowed.
    gene_map
        Gene of each column, -1 for columns left out, int32, shape (n_columns,);
        None where columns are the genes.
    """

    n_columns: int
    n_genes: int
    values: np.dtype[Any]
    gene_map: NDArray[np.int32] | None = None

    @property
    def indices(self) -> np.dtype[Any]:
        """Type of gene positions."""
        return index_dtype(self.n_genes)


def index_dtype(n_genes: int) -> np.dtype[np.unsignedinteger]:
    """uint16 where the positions of ``n_genes`` fit, else uint32."""
    return np.dtype(np.uint16 if n_genes <= 1 << 16 else np.uint32)


def clean_rows(rows: SparseRows, kind: CountType) -> SparseRows:
    """Rows as counts, with ascending genes, each once, and no zeros.

    Parameters
    ----------
    rows
        Rows as stored.
    kind
        What they are to become.

    Returns
    -------
    SparseRows
        ``indices`` of type ``kind.indices``, ``values`` of type ``kind.values``.

    Raises
    ------
    BadEntry
        For the first entry that is not a count.
    """
    if kind.gene_map is None:
        narrow = narrowed(rows, kind.n_columns, kind.indices, kind.values)
        if narrow is not None:
            return narrow
    _check_columns(rows, kind.n_columns)
    indptr, indices, values = rows.indptr, rows.indices, _as_counts(rows, kind.values)
    kept = values != 0
    if kind.gene_map is not None:
        indices = kind.gene_map[indices]
        kept &= indices >= 0
    if not kept.all():
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept, dtype=np.int64)])
        indptr, indices, values = before[indptr], indices[kept], values[kept]
    clean = SparseRows(indptr, indices.astype(kind.indices, copy=False), values)
    if is_sorted(clean):
        return clean
    return _summed(_sorted(clean, kind), kind)


def _check_columns(rows: SparseRows, n_columns: int) -> None:
    indices = rows.indices
    if not len(indices) or (indices.max() < n_columns and indices.min() >= 0):
        return
    raise _bad(rows, (indices < 0) | (indices >= n_columns), OUT_OF_RANGE)


def _as_counts(rows: SparseRows, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The values as ``dtype``, without loss; as they are where they have that type."""
    values = rows.values
    if not len(values):
        return values.astype(dtype)
    if values.dtype.kind in "if":
        # One NaN makes both of them NaN, and every comparison false.
        low, high = values.min(), values.max()
        if not (low >= 0 and high < np.inf):
            _refuse(rows)
    _check_size(rows, dtype)
    counts = values.astype(dtype, copy=False)
    if values.dtype.kind == "f" and dtype.kind == "u":
        whole = counts.astype(values.dtype) == values
        if not whole.all():
            raise _bad(rows, ~whole, FRACTION)
    return counts


def _check_size(rows: SparseRows, dtype: np.dtype[Any]) -> None:
    limit = float(np.finfo(dtype).max) if dtype.kind == "f" else 2.0 ** (8 * dtype.itemsize)
    too_large = np.greater if dtype.kind == "f" else np.greater_equal
    # As Python numbers: the limit has no equal in the narrow types.
    if too_large(rows.values.max().item(), limit):
        raise _bad(rows, too_large(rows.values.astype(np.float64), limit), TOO_LARGE)


def _refuse(rows: SparseRows) -> None:
    """Raise for the first value that is negative, missing or infinite."""
    finite = np.isfinite(rows.values)
    if not finite.all():
        raise _bad(rows, ~finite, NOT_FINITE)
    raise _bad(rows, rows.values < 0, NEGATIVE)


def _bad(rows: SparseRows, which: NDArray[np.bool_], problem: str) -> BadEntry:
    entry = int(which.argmax())
    row = int(np.searchsorted(rows.indptr, entry, side="right")) - 1
    return BadEntry(row, int(rows.indices[entry]), rows.values[entry].item(), problem)


def _sorted(rows: SparseRows, kind: CountType) -> SparseRows:
    """The rows with their columns in order."""
    shape = (len(rows.indptr) - 1, kind.n_genes)
    # Copies: SciPy sorts in place, and the values may be the caller's own.
    entries = rows.values.copy(), rows.indices.astype(np.int64), rows.indptr
    matrix = sparse.csr_array(entries, shape)
    matrix.sort_indices()
    return SparseRows(rows.indptr, matrix.indices.astype(kind.indices), matrix.data)


def _summed(rows: SparseRows, kind: CountType) -> SparseRows:
    """Sorted rows with entries for the same cell and gene added up."""
    if is_sorted(rows):
        return rows
    first = np.ones(len(rows.indices), np.bool_)
    first[1:] = rows.indices[1:] != rows.indices[:-1]
    first[rows.indptr[:-1][np.diff(rows.indptr) > 0]] = True
    starts = np.flatnonzero(first)
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(first, dtype=np.int64)])
    # Exact: sums of counts below 2^32 stay below 2^53.
    sums = np.add.reduceat(rows.values.astype(np.float64), starts)
    summed = SparseRows(before[rows.indptr], rows.indices[starts], sums)
    try:
        return SparseRows(summed.indptr, summed.indices, _as_counts(summed, kind.values))
    except BadEntry as error:
        if kind.gene_map is not None:
            error.column = int(np.flatnonzero(kind.gene_map == error.column)[0])
        raise
