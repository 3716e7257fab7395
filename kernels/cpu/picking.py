"""Entries of some genes and cells, taken out of compressed rows (Numba)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.kernels.cpu.lanes import at, put

Entries = tuple[NDArray[np.int64], NDArray[np.unsignedinteger], NDArray[Any]]


def pick_entries(
    indptr: NDArray[np.int64],
    genes: NDArray[np.integer[Any]],
    counts: NDArray[Any],
    kept: NDArray[np.bool_],
    selected: NDArray[np.bool_],
    places: NDArray[np.unsignedinteger],
) -> Entries:
    """Rows of the kept cells with the selected genes alone, in their order.

    Parameters
    ----------
    indptr, genes, counts
        Where the entries of each cell begin and end, int64, shape (n + 1,), their genes,
        which are in range, and their counts, shape (nnz,).
    kept
        Which cells, shape (n,).
    selected
        Which genes, shape (m,).
    places
        What each of these becomes, shape (m,).

    Returns
    -------
    indptr, genes, counts
        Genes of the type of ``places``, counts as they were.

    Raises
    ------
    ValueError
        Lengths that do not fit, or a gene out of range.

    Notes
    -----
    Two passes over the genes of kept cells, and one over the counts that stay.
    """
    if len(kept) != len(indptr) - 1 or len(selected) != len(places):
        raise ValueError(
            f"{len(kept)} cells and {len(selected)} genes are chosen from: there are "
            f"{len(indptr) - 1} and {len(places)}"
        )
    if len(genes) and genes.max() >= len(selected):  # the kernels do not look
        raise ValueError(f"gene {genes.max()} is out of range: there are {len(selected)}")
    indptr, genes, counts = map(np.ascontiguousarray, (indptr, genes, counts))
    flags = selected.view(np.uint8)  # numbers, to add them up
    starts = _starts(indptr, genes, kept, flags)
    found = np.empty(starts[-1], places.dtype)
    taken = np.empty(starts[-1], counts.dtype)
    # Bits are moved, whatever they mean: one kernel for all types of a size.
    bits = np.dtype(f"u{counts.itemsize}")
    _pick(indptr, genes, counts.view(bits), kept, flags, places, starts, found, taken.view(bits))
    return starts, found, taken


@njit(cache=True, nogil=True)
def _starts(indptr, genes, kept, selected):  # type: ignore[no-untyped-def]
    starts = np.zeros(np.sum(kept) + 1, np.int64)
    total, n = np.int64(0), 0
    for c in range(len(kept)):
        if kept[c]:
            for t in range(indptr[c], indptr[c + 1]):
                total += np.int64(at(selected, np.int64(at(genes, t))))
            n += 1
            starts[n] = total
    return starts


@njit(cache=True, nogil=True)
def _pick(indptr, genes, bits, kept, selected, places, starts, found, taken):  # type: ignore[no-untyped-def]
    longest = 0
    for c in range(len(kept)):
        longest = max(longest, indptr[c + 1] - indptr[c])
    # Which entries of a cell stay: each is noted, and the next over it unless it does.
    staying, n = np.empty(longest + 1, np.uint32), 0
    for c in range(len(kept)):
        if kept[c]:
            first, i = indptr[c], np.int64(0)
            for t in range(first, indptr[c + 1]):
                put(staying, i, np.uint32(t - first))
                i += np.int64(at(selected, np.int64(at(genes, t))))
            place = starts[n]
            for j in range(i):
                t = first + np.int64(at(staying, j))
                put(found, place + j, at(places, np.int64(at(genes, t))))
                put(taken, place + j, at(bits, t))
            n += 1
