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
        Sums of x and of x^2, float64, shape (n_datasets, n_genes).
    n_nonzeros
        Cells with a count above zero, int32, shape (n_datasets, n_genes).
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    n_nonzeros: NDArray[np.int32]


@njit(cache=True, nogil=True)
def _cell_sums(indptr, indices, values, kinds, totals, n_genes, of_kinds):  # type: ignore[no-untyped-def]
    for c in range(len(totals)):
        for t in range(indptr[c], indptr[c + 1]):
            value = np.float64(values[t])
            totals[c] += value
            if value > 0.0:
                n_genes[c] += 1
            kind = kinds[indices[t]]
            if 0 < kind <= of_kinds.shape[1]:
                of_kinds[c, kind - 1] += value


@njit(cache=True, nogil=True)
def _gene_sums(indptr, indices, values, weights, codes, first, second, n_nonzeros):  # type: ignore[no-untyped-def]
    for c in range(len(weights)):
        if codes[c] < 0:
            continue
        for t in range(indptr[c], indptr[c + 1]):
            x = np.float64(values[t]) * weights[c]
            g = indices[t]
            first[codes[c], g] += x
            second[codes[c], g] += x * x
            if x > 0.0:
                n_nonzeros[codes[c], g] += 1


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
    sums = GeneSums(np.zeros(shape), np.zeros(shape), np.zeros(shape, np.int32))
    _gene_sums(indptr, indices, values, weights, codes, sums.first, sums.second, sums.n_nonzeros)
    return sums
