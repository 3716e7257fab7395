"""Counts above 65,535 in 16 bits: several entries of one gene, one behind the other.

Whoever reads a pack adds adjacent entries of a gene up, so ``65535 + 65535 + 68930``
says 200,000, exactly; a few large counts need not widen all the others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 65_535
"""The largest count of one entry."""


def split_counts(
    indptr: NDArray[np.int64], genes: NDArray[Any], counts: NDArray[Any]
) -> tuple[NDArray[np.int64], NDArray[Any], NDArray[np.uint16]]:
    """Rows whose counts fit in uint16, each large one in as many entries as it takes.

    Parameters
    ----------
    indptr, genes, counts
        CSR: int64 (n + 1,), any unsigned type (nnz,), whole numbers below 2^53 (nnz,).

    Returns
    -------
    indptr, genes, counts
        The same rows, counts uint16; what was given where nothing is to be split.
    """
    if counts.max(initial=0) <= LARGEST:
        return indptr, genes, counts.astype(np.uint16, copy=False)
    whole = counts.astype(np.int64)
    n_entries = np.maximum(1, -(-whole // LARGEST))
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(n_entries)])
    split = np.full(before[-1], LARGEST, np.uint16)
    split[before[1:] - 1] = whole - (n_entries - 1) * LARGEST
    return before[indptr], np.repeat(genes, n_entries), split
