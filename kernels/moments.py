"""Sums over cells and genes of a block of raw counts (Numba).

Gene moments are plain sums of x and x^2 with x the depth-normalised count, in
float64: they merge exactly by addition. For sparse non-negative data the mean
squared is at most comparable to the variance, so that nothing cancels; a gene
that is constant over cells is recognised by the caller's relative threshold.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit
from numpy.typing import NDArray

from tigon.kernels.cpu.lanes import at, put


@dataclass(frozen=True, slots=True)
class CellSums:
    """Per-cell figures of a block, of shape (n_cells,) unless they say otherwise.

    Attributes
    ----------
    totals
        Sum of counts, float64.
    n_genes
        Genes with a count above zero, int64.
    of_kinds
        Sums of counts over the genes of each kind (mitochondrial, ribosomal), float64,
        shape (n_cells, n_kinds).
    """

    totals: NDArray[np.float64]
    n_genes: NDArray[np.int64]
    of_kinds: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GeneSums:
    """Sums over cells of depth-normalised counts x, per dataset and gene.

    Attributes
    ----------
    first, second
        Sums of x and of x^2, float64, shape (n_datasets, n_genes); views of one array.
    n_nonzeros
        Cells with a count above zero, int32, shape (n_datasets, n_genes).
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    n_nonzeros: NDArray[np.int32]


@njit(cache=True, nogil=True)
def _cell_sums(indptr, indices, values, kinds, totals, n_genes, of_kinds):  # type: ignore[no-untyped-def]
    n_kinds = of_kinds.shape[1]
    for c in range(len(totals)):
        # Whole numbers are added as such, which is as exact and faster.
        total, n = values.dtype.type(0) * 0, 0
        for t in range(indptr[c], indptr[c + 1]):
            total += at(values, t)
            n += at(values, t) > 0
        totals[c], n_genes[c] = total, n
        for t in range(indptr[c], indptr[c + 1]):
            kind = at(kinds, np.int64(at(indices, t)))
            if 0 < kind <= n_kinds:
                of_kinds[c, kind - 1] += values[t]


@njit(cache=True, nogil=True)
def _gene_sums(indptr, indices, values, weights, codes, sums, n_nonzeros, n_genes):  # type: ignore[no-untyped-def]
    for c in range(len(weights)):
        if codes[c] < 0:
            continue
        row, weight = codes[c] * n_genes, weights[c]
        for t in range(indptr[c], indptr[c + 1]):
            value, g = np.float64(at(values, t)), row + np.int64(at(indices, t))
            x = value * weight
            # Both are read before either is written: one addition of two lanes.
            first, second = at(sums, 2 * g) + x, at(sums, 2 * g + 1) + x * x
            put(sums, 2 * g, first)
            put(sums, 2 * g + 1, second)
            put(n_nonzeros, g, np.int32(at(n_nonzeros, g) + (value > 0.0)))


def cell_sums(
    indptr: NDArray[np.int64],
    indices: NDArray[np.unsignedinteger | np.signedinteger],
    values: NDArray[np.unsignedinteger | np.floating],
    kinds: NDArray[np.uint8],
    n_kinds: int,
) -> CellSums:
    """Totals, detected genes and counts in kinds of genes of every cell of a block.

    Parameters
    ----------
    indptr, indices, values
        The block's CSR arrays (n_cells + 1,), (nnz,), (nnz,).
    kinds, n_kinds
        Kind of each gene, uint8, shape (n_genes,). Kinds 1 to ``n_kinds`` are summed.

    Returns
    -------
    CellSums
    """
    n = len(indptr) - 1
    sums = CellSums(np.zeros(n), np.zeros(n, np.int64), np.zeros((n, n_kinds)))
    _cell_sums(indptr, indices, values, kinds, sums.totals, sums.n_genes, sums.of_kinds)
    return sums


def gene_sums(
    indptr: NDArray[np.int64],
    indices: NDArray[np.unsignedinteger | np.signedinteger],
    values: NDArray[np.unsignedinteger | np.floating],
    weights: NDArray[np.float64],
    codes: NDArray[np.int64],
    shape: tuple[int, int],
) -> GeneSums:
    """Moments of the depth-normalised counts of a block, per dataset and gene.

    Parameters
    ----------
    indptr, indices, values
        The block's CSR arrays (n_cells + 1,), (nnz,), (nnz,).
    weights
        One over each cell's total count, float64, shape (n_cells,).
    codes
        Row of the result that each cell belongs to, int64, shape (n_cells,);
        negative for a cell that is left out.
    shape
        (n_datasets, n_genes) of the result.

    Returns
    -------
    GeneSums
    """
    # A gene's two sums side by side: they share a line of the cache.
    sums, n_nonzeros = np.zeros((*shape, 2)), np.zeros(shape, np.int32)
    found = sums.ravel(), n_nonzeros.ravel()
    _gene_sums(indptr, indices, values, weights, codes, *found, shape[1])
    return GeneSums(sums[..., 0], sums[..., 1], n_nonzeros)
