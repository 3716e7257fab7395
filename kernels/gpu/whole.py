"""Whole matrices on a GPU: the twins of the functions that NumPy arrays are given to.

The kernels hold counts, metagenes and transformed entries in float32 and sum over cells
in float64, in an order that the shapes and counts decide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tigon.kernels.gpu import factors
from tigon.kernels.gpu.least_squares import MAX_FACTORS
from tigon.kernels.gpu.minibatch import DeviceTile
from tigon.kernels.gpu.minibatch import minibatch_step as step
from tigon.kernels.gpu.modules import contiguous
from tigon.kernels.gpu.products import GeneTile, by_gene, gene_products
from tigon.kernels.gpu.products import spmm as tile_products
from tigon.kernels.gpu.sketches import add_sparse_gram, sketch_product
from tigon.kernels.tile import CellTile, Metagenes, TileStatistics

if TYPE_CHECKING:
    import cupy

MAX_COLUMNS = 256
"""Most columns of a dense matrix beside sparse counts: what a warp holds in registers."""


def gram(
    L: cupy.ndarray, V: cupy.ndarray | None, lam: float, n_threads: int | None
) -> cupy.ndarray:
    """See :func:`tigon.kernels.factors.gram`; matrices beyond float32 go to cuBLAS."""
    import cupy

    terms = [(L, 1.0)] if V is None else [(L, 1.0), (V, float(lam))]
    if len(L) > MAX_FACTORS or any(rows.dtype != np.float32 for rows, _ in terms):
        G = cupy.zeros((len(L), len(L)))
        for rows, weight in terms:
            wide = contiguous(rows, np.float64)
            G += weight * (wide @ wide.T)
        return (G + G.T) / 2
    G, slices = cupy.empty((len(L), len(L)), np.float64), factors.slices_buffer(len(L))
    for i, (rows, weight) in enumerate(terms):
        narrow = contiguous(rows, np.float32)
        factors.gram_into(narrow, G, slices, over_rows=False, weight=weight, keep=float(i > 0))
    return G


def hals(
    factor: cupy.ndarray,
    target: cupy.ndarray,
    gram: cupy.ndarray,
    n_sweeps: int,
    n_threads: int | None,
) -> cupy.ndarray:
    """See :func:`tigon.kernels.factors.hals`."""
    import cupy

    _check_limit("factors", len(gram), MAX_FACTORS)
    F = cupy.array(factor, np.float32, order="C")
    wide = contiguous(target, np.float64), contiguous(gram, np.float64)
    factors.hals(F, *wide, n_sweeps)
    return F


def spmm(tile: CellTile, D: cupy.ndarray, n_threads: int | None) -> cupy.ndarray:
    """X D, shape (n, l); see :func:`tigon.kernels.products.spmm`."""
    _check_limit("columns", D.shape[1], MAX_COLUMNS)
    return tile_products(contiguous_tile(tile), contiguous(D, np.float32))


def spmm_transposed(
    tile: CellTile, D: cupy.ndarray, n_genes: int, n_threads: int | None
) -> cupy.ndarray:
    """X^T D, shape (m, l); see :func:`tigon.kernels.products.spmm`."""
    import cupy

    _check_limit("columns", D.shape[1], MAX_COLUMNS)
    genes = by_gene(contiguous_tile(tile), n_genes)
    return gene_products(genes, contiguous(D, np.float32), cupy.ones(n_genes))


def minibatch_step(
    tile: CellTile,
    metagenes: Metagenes,
    tol: float,
    H0: cupy.ndarray | None,
    n_threads: int | None,
) -> tuple[cupy.ndarray, TileStatistics]:
    """See :func:`tigon.kernels.minibatch.minibatch_step`."""
    _check_limit("factors", len(metagenes.gram), MAX_FACTORS)
    return step(contiguous_tile(tile), metagenes, tol, H0)


@dataclass(frozen=True, slots=True)
class Transform:
    """Y = f(row_scale * X) * column_scale; as :class:`tigon.kernels.cpu.sketches.Transform`."""

    row_scale: cupy.ndarray
    column_scale: cupy.ndarray
    log1p: bool


def sketch(
    tile: CellTile, Q: cupy.ndarray, transform: Transform, n_threads: int | None
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray]:
    """Y^T (Y Q), shape (m, l); see :func:`tigon.kernels.sketches.sketch`."""
    _check_limit("columns", Q.shape[1], MAX_COLUMNS)
    ready, scale = _transformed(tile, transform), transform.column_scale
    return sketch_product(ready, Q, scale), *_moments(ready, scale)


def sparse_gram(
    tile: CellTile, transform: Transform, n_threads: int | None
) -> tuple[cupy.ndarray, cupy.ndarray, cupy.ndarray]:
    """Y^T Y, shape (m, m); see :func:`tigon.kernels.sketches.sparse_gram`."""
    import cupy

    ready, scale = _transformed(tile, transform), transform.column_scale
    out = cupy.zeros((len(scale), len(scale)))
    add_sparse_gram(out, ready, scale)
    return out, *_moments(ready, scale)


def _transformed(tile: CellTile, transform: Transform) -> DeviceTile:
    """f(row_scale * X) of the tile's cells alone, weights 1."""
    import cupy

    merged = _merged(tile, len(transform.column_scale))
    values = merged.data * transform.row_scale[_cells_of(merged.indptr, merged.nnz)]
    values = (cupy.log1p(values) if transform.log1p else values).astype(np.float32)
    n = len(tile.rows)
    found = CellTile(
        cupy.arange(n),
        merged.indptr.astype(np.int64),
        merged.indices.astype(np.uint32),
        values,
        cupy.ones(n, np.float32),
    )
    return DeviceTile.of(found, transform.column_scale)


def _merged(tile: CellTile, n_genes: int) -> Any:
    """Counts of the tile's cells alone in float32, entries of one gene as one, in CSR form.

    Counts are whole numbers, so that the order in which they are added makes no difference.
    """
    import cupy
    from cupyx.scipy.sparse import csr_matrix

    starts = tile.indptr[tile.rows]
    indptr = cupy.zeros(len(starts) + 1, np.int64)
    indptr[1:] = cupy.cumsum(tile.indptr[tile.rows + 1] - starts)
    n_entries = int(indptr[-1])
    cells = _cells_of(indptr, n_entries)
    taken = cupy.arange(n_entries) + (starts - indptr[:-1])[cells]
    arrays = tile.counts[taken].astype(np.float32), tile.genes[taken].astype(np.int32)
    merged = csr_matrix((*arrays, indptr.astype(np.int32)), shape=(len(starts), n_genes))
    merged.sum_duplicates()
    return merged


def _cells_of(indptr: cupy.ndarray, n_entries: int) -> cupy.ndarray:
    """The cell of each entry."""
    import cupy

    return cupy.searchsorted(indptr[1:], cupy.arange(n_entries), side="right")


def _moments(tile: DeviceTile, scale: cupy.ndarray) -> tuple[cupy.ndarray, cupy.ndarray]:
    """Sums of Y and of Y^2, by gene."""
    import cupy

    ones = cupy.ones((len(tile.squared), 1), np.float32)
    genes = tile.genes
    squares = GeneTile(genes.starts, genes.cells, genes.values * genes.values)
    sums = gene_products(genes, ones, scale)[:, 0]
    return sums, gene_products(squares, ones, scale * scale)[:, 0]


def contiguous_tile(tile: CellTile) -> CellTile:
    """The same tile as the kernels read it: without gaps, counts in at most four bytes."""
    counts = tile.counts if tile.counts.dtype != np.float64 else tile.counts.astype(np.float32)
    arrays: tuple[Any, ...] = (tile.rows, tile.indptr, tile.genes, counts, tile.weights)
    return CellTile(*(contiguous(array, array.dtype) for array in arrays))


def _check_limit(what: str, n: int, most: int) -> None:
    if n > most:
        raise ValueError(
            f"too many {what} for the GPU ({n}): at most {most}; pass NumPy arrays, or use fewer"
        )
