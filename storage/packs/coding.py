"""Entries of a pack, in two bytes as a rule: how many genes further, and how many counts.

An entry moves on from the gene of the one before it, in a row from gene 0, and adds to the
counts of the gene that it comes to. What does not fit is said by several: a gap of 600 genes by
255 + 255 + 90, the first two with no counts; a count of 600 by 255 + 255 + 90, the last two
with no gap. Reading puts such entries together again, so that who reads a pack sees each gene
once, unless its count takes more than 16 bits (:data:`LARGEST`).

Types wider than a byte are used where these take less room: see :func:`tigon.scaling.packing.
pack_dtypes`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.storage.counts import index_dtype

LARGEST = 65_535
"""The largest count of one entry that is read, where counts are split at all: whoever reads
adds adjacent entries of a gene up, so that a few large counts need not widen all the others."""

Entries = tuple[NDArray[np.int64], NDArray[Any], NDArray[Any]]
"""Where rows begin and end, (n + 1,), and two arrays of entries."""


def largest(dtype: np.dtype[Any]) -> int | None:
    """The largest count of one entry that is written; None for types that are never split."""
    return int(np.iinfo(dtype).max) if dtype.itemsize < 4 else None


def count_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """What counts written as ``dtype`` are read as."""
    return np.dtype("<u2") if dtype.itemsize == 1 else dtype


def encode(
    indptr: NDArray[np.int64],
    genes: NDArray[np.unsignedinteger],
    counts: NDArray[Any],
    dtypes: tuple[np.dtype[Any], ...],
) -> Entries:
    """Rows as they are written.

    Parameters
    ----------
    indptr, genes, counts
        CSR: int64 (n + 1,), (nnz,), ascending within a row, and (nnz,), which are whole numbers
        below 2^32 unless they are written as float32.
    dtypes
        Of gaps, any unsigned type, and of counts: uint8, uint16, uint32 or float32.

    Returns
    -------
    indptr, gaps, counts

    Raises
    ------
    ValueError
        Genes that do not ascend.

    Notes
    -----
    Two passes. Zeros are left out.
    """
    gap_dtype, dtype = dtypes
    if dtype.itemsize == 4:
        counts = counts.astype(dtype, copy=False).view(np.uint32)  # bits, whatever they mean
    elif counts.dtype.kind == "f":
        counts = counts.astype(np.uint32)
    most_gap, most = int(np.iinfo(gap_dtype).max), largest(dtype) or 2**32 - 1
    starts = np.zeros_like(indptr)
    if not _measure(indptr, genes, counts, most_gap, most, starts):
        raise ValueError("genes of a row do not ascend: sort them")
    gaps = np.empty(starts[-1], gap_dtype)
    found = np.empty(starts[-1], np.dtype(f"<u{dtype.itemsize}"))
    _encode(indptr, genes, counts, most_gap, most, starts, gaps, found)
    return starts, gaps, found.view(dtype)


def decode(
    rows: NDArray[np.int64],
    indptr: NDArray[np.int64],
    gaps: NDArray[Any],
    counts: NDArray[Any],
    n_genes: int,
) -> Entries:
    """Some rows as they are read: what :func:`encode` was given, with large counts split.

    Parameters
    ----------
    rows
        Which ones, in any order, shape (r,).
    indptr, gaps, counts
        From :func:`encode`, (n + 1,), and (nnz,) each.
    n_genes
        How many there are.

    Returns
    -------
    indptr, genes, counts
        Of these rows, one behind the other: int64 (r + 1,), uint16 or uint32, and of type
        :func:`count_dtype`.

    Raises
    ------
    ValueError
        Arrays that do not fit, rows that are not there, or genes beyond the ``n_genes``.
    """
    if not int(indptr[-1]) == len(gaps) == len(counts):
        raise ValueError(f"{indptr[-1]} entries are told, {len(gaps)} and {len(counts)} are there")
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(indptr) - 1:
        raise ValueError(f"rows {rows.min()} to {rows.max()} are asked of {len(indptr) - 1}")
    splits = largest(counts.dtype) is not None
    n_entries = int((indptr[rows + 1] - indptr[rows]).sum())
    genes = np.empty(n_entries, index_dtype(n_genes))
    found = np.empty(n_entries, count_dtype(counts.dtype))
    bits = [array if splits else array.view(np.uint32) for array in (counts, found)]
    starts = np.zeros(len(rows) + 1, np.int64)
    most = LARGEST if splits else 0
    if not _decode(rows, indptr, gaps, bits[0], n_genes, most, starts, genes, bits[1]):
        raise ValueError(f"they name genes beyond the {n_genes} there are")
    return starts, genes[: starts[-1]], found[: starts[-1]]


_DISORDER = -(2**62)
_ONE = np.uint64(1)  # positions are unsigned: Numba looks whether others count from the end


@njit(cache=True, nogil=True)
def _measure(indptr, genes, counts, most_gap, most, starts):  # type: ignore[no-untyped-def]
    """Where rows begin once they are written; whether genes ascend."""
    n = np.int64(0)
    for c in range(len(indptr) - 1):
        start, stop = np.uint64(indptr[c]), np.uint64(indptr[c + 1])
        n += np.int64(stop - start)
        if not _is_plain(genes, counts, start, stop, most_gap, most):
            more = _n_more(genes, counts, start, stop, most_gap, most)
            if more == _DISORDER:
                return False
            n += more
        starts[c + 1] = n
    return True


@njit(cache=True, nogil=True)
def _is_plain(genes, counts, start, stop, most_gap, most):  # type: ignore[no-untyped-def]
    """Whether each entry of a row is one where it is written; many at once, without branches."""
    strange = np.int64(0)
    for t in range(start, stop):
        strange += np.int64(counts[t] == 0) | np.int64(counts[t] > most)
    for t in range(start + _ONE, stop):
        gap = np.int64(genes[t]) - np.int64(genes[t - _ONE])
        strange += np.int64(gap <= 0) | np.int64(gap > most_gap)
    return strange == 0 and (start == stop or genes[start] <= most_gap)


@njit(cache=True, nogil=True)
def _n_more(genes, counts, start, stop, most_gap, most):  # type: ignore[no-untyped-def]
    """Entries that a row takes beyond its own."""
    before, n = np.int64(-1), np.int64(0)
    for t in range(start, stop):
        gene, count = np.int64(genes[t]), np.int64(counts[t])
        if count == 0:
            n -= 1
            continue
        if gene <= before:
            return np.int64(_DISORDER)
        gap = gene - max(before, np.int64(0))
        if gap > most_gap:
            n += (gap - 1) // most_gap
        if count > most:
            n += (count - 1) // most
        before = gene
    return n


@njit(cache=True, nogil=True)
def _encode(indptr, genes, counts, most_gap, most, starts, gaps, found):  # type: ignore[no-untyped-def]
    for c in range(len(indptr) - 1):
        start, stop = np.uint64(indptr[c]), np.uint64(indptr[c + 1])
        to = np.uint64(starts[c])
        if start == stop or not _is_plain(genes, counts, start, stop, most_gap, most):
            _encode_row(genes, counts, start, stop, most_gap, most, to, gaps, found)
            continue
        gaps[to] = genes[start]
        for t in range(start + _ONE, stop):
            gaps[to + t - start] = genes[t] - genes[t - _ONE]
        for t in range(start, stop):
            found[to + t - start] = counts[t]


@njit(cache=True, nogil=True)
def _encode_row(genes, counts, start, stop, most_gap, most, to, gaps, found):  # type: ignore[no-untyped-def]
    gene = np.int64(0)
    for t in range(start, stop):
        count = np.int64(counts[t])
        if count == 0:
            continue
        gap = np.int64(genes[t]) - gene
        gene += gap
        while gap > most_gap:
            gaps[to], found[to] = most_gap, 0
            gap -= most_gap
            to += _ONE
        while count > most:
            gaps[to], found[to] = gap, most
            count -= most
            gap = np.int64(0)
            to += _ONE
        gaps[to], found[to] = gap, count
        to += _ONE


@njit(cache=True, nogil=True)
def _decode(rows, indptr, gaps, counts, n_genes, most, starts, genes, found):  # type: ignore[no-untyped-def]
    """Whether all genes are there."""
    to = np.uint64(0)
    for i in range(len(rows)):
        c = rows[i]
        start, stop = np.uint64(indptr[c]), np.uint64(indptr[c + 1])
        if start < stop and _is_plainly_coded(gaps, counts, start, stop):
            gene = np.int64(0)
            for t in range(start, stop):
                found[to + t - start] = counts[t]
            for t in range(start, stop):
                gene += np.int64(gaps[t])
                genes[to + t - start] = gene
            to += stop - start
        else:
            to, gene = _decode_row(gaps, counts, start, stop, most, to, genes, found)
        if gene >= n_genes:
            return False
        starts[i + 1] = to
    return True


@njit(cache=True, nogil=True)
def _is_plainly_coded(gaps, counts, start, stop):  # type: ignore[no-untyped-def]
    """Whether each entry of a row that has some is one where it is read; many at once."""
    count = counts[start]
    for t in range(start, stop):
        count = min(count, counts[t])
    gap = gaps[stop - _ONE]
    for t in range(start + _ONE, stop):  # the first may be of gene 0
        gap = min(gap, gaps[t])
    return count > 0 and (gap > 0 or stop - start == _ONE)


@njit(cache=True, nogil=True)
def _decode_row(gaps, counts, start, stop, most, to, genes, found):  # type: ignore[no-untyped-def]
    """A row with each gene once, or as often as ``most`` says; where it ends, and its last gene."""
    first, gene = to, np.int64(0)
    for t in range(start, stop):
        gap, count = np.int64(gaps[t]), np.int64(counts[t])
        if gap == 0 and to > first:
            whole = np.int64(found[to - _ONE]) + count
            if whole <= most:
                found[to - _ONE] = whole
                continue
        gene += gap
        if count > 0:
            genes[to], found[to] = gene, count
            to += _ONE
    return to, gene
