"""Products of scaled counts on a GPU: R = X L^T by cell, B = X^T H by gene.

``X[c, g] = weight[c] * count[c, g] * scale[g]`` (see ``tigon.kernels.tile``).
B is summed gene by gene over a copy of the tile sorted by gene, so that no two
threads add to one entry: the same bits every time. The sort is stable and
counts without atomics; data that stay on the device are sorted once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tigon.kernels.gpu.modules import Kernel
from tigon.kernels.tile import CellTile

if TYPE_CHECKING:
    import cupy

_C_TYPES = {"uint16": "unsigned short", "uint32": "unsigned int", "float32": "float"}

_WARPS = 4
_THREADS = 32 * _WARPS
_SCAN_THREADS = 1024
_SLICE_CELLS = 64
"""Cells that one warp sorts; at most 65,535, which its counters hold."""

MAX_SORTED_GENES = 100_000
"""Most genes m of a tile: a counter of two bytes for each in shared memory."""


@dataclass(frozen=True, slots=True)
class GeneTile:
    """The same counts as a tile, by gene.

    Attributes
    ----------
    starts
        Where each gene's entries begin, int32, shape (m + 1,).
    cells
        Positions of the cells in the tile, ascending within a gene, int32,
        shape (nnz,).
    values
        Count times the cell's weight, float32, shape (nnz,).
    """

    starts: cupy.ndarray
    cells: cupy.ndarray
    values: cupy.ndarray


def count_types(tile: CellTile) -> dict[str, int | str]:
    """Macros that tell the kernels how a tile's genes and counts are kept."""
    return {"Gene": _C_TYPES[tile.genes.dtype.name], "Count": _C_TYPES[tile.counts.dtype.name]}


def products_into(tile: CellTile, scaled: cupy.ndarray, R: cupy.ndarray) -> None:
    """R = X L^T; see :func:`spmm`."""
    n, k = R.shape
    kernel = Kernel("sparse.cu", "products", FACTORS=k, **count_types(tile))
    kernel(-(-n // _WARPS), _THREADS, *tile.arrays, scaled, R, np.int32(n))


def spmm(tile: CellTile, scaled: cupy.ndarray) -> cupy.ndarray:
    """Products R = X L^T of a tile, float32, shape (n, k).

    Parameters
    ----------
    tile
        Counts, with CuPy arrays.
    scaled
        L^T times the gene scale, float32, shape (m, k), row-major, k <= 256.

    Notes
    -----
    Reads 4 k bytes a non-zero, from the L2 cache as long as L fits it.
    """
    import cupy

    R = cupy.empty((len(tile.rows), scaled.shape[1]), np.float32)
    products_into(tile, scaled, R)
    return R


def squared_norms(tile: CellTile, scale: cupy.ndarray) -> cupy.ndarray:
    """|x|^2 of each cell, float64, shape (n,), with gene scales float64 (m,)."""
    import cupy

    n = len(tile.rows)
    squared = cupy.empty(n, np.float64)
    kernel = Kernel("sparse.cu", "squared_norms", FACTORS=1, **count_types(tile))
    kernel(-(-n // _WARPS), _THREADS, *tile.arrays, scale, squared, np.int32(n))
    return squared


def by_gene(tile: CellTile, n_genes: int, nnz: int | None = None) -> GeneTile:
    """Sort a tile's counts by gene.

    Parameters
    ----------
    tile
        Counts, with CuPy arrays.
    n_genes
        Genes m, at most 100,000.
    nnz
        Non-zeros of the tile; counted, which waits for the device, where None.

    Raises
    ------
    ValueError
        With more genes than a block can count.

    Notes
    -----
    Four launches; holds 8 bytes a non-zero, and while it runs 4 m bytes for
    every 64 cells.
    """
    import cupy

    if n_genes > MAX_SORTED_GENES:
        raise ValueError(
            f"too many genes for the GPU ({n_genes}): at most {MAX_SORTED_GENES}; "
            "select variable genes, or use the CPU kernels"
        )
    if nnz is None:
        nnz = int((tile.indptr[tile.rows + 1] - tile.indptr[tile.rows]).sum())
    n, m, types = len(tile.rows), n_genes, count_types(tile)
    n_slices = -(-n // _SLICE_CELLS)
    offsets = cupy.empty((n_slices, m), np.int32)
    totals, starts = cupy.empty(m, np.int32), cupy.empty(m + 1, np.int32)
    found = GeneTile(starts, cupy.empty(nnz, np.int32), cupy.empty(nnz, np.float32))
    rows, indptr, genes, counts, weights = tile.arrays
    sizes = np.int32(n), np.int32(m), np.int32(_SLICE_CELLS)
    count = Kernel("transpose.cu", "count_genes", 2 * m, **types)
    count(n_slices, 32, rows, indptr, genes, offsets, *sizes)
    offset = Kernel("transpose.cu", "offset_slices", **types)
    offset(-(-m // _THREADS), _THREADS, offsets, totals, np.int32(n_slices), np.int32(m))
    start = Kernel("transpose.cu", "start_genes", 4 * _SCAN_THREADS, **types)
    start(1, _SCAN_THREADS, totals, starts, np.int32(m))
    scatter = Kernel("transpose.cu", "scatter_genes", 2 * m, **types)
    scatter(
        n_slices, 32, rows, indptr, genes, counts, weights, offsets, starts,
        found.cells, found.values, *sizes,
    )  # fmt: skip
    return found


def gene_products_into(
    genes: GeneTile, H: cupy.ndarray, scale: cupy.ndarray, B: cupy.ndarray
) -> None:
    """B = X^T H; see :func:`gene_products`."""
    m, k = B.shape
    shared_bytes = 8 * _THREADS * -(-k // 32)
    kernel = Kernel(
        "sparse.cu", "gene_products", shared_bytes, FACTORS=k, Gene="unsigned int", Count="float"
    )
    kernel(m, _THREADS, genes.starts, genes.cells, genes.values, scale, H, B)


def gene_products(genes: GeneTile, H: cupy.ndarray, scale: cupy.ndarray) -> cupy.ndarray:
    """B = X^T H of a tile sorted by gene, float64, shape (m, k).

    Parameters
    ----------
    genes
        The tile by gene.
    H
        Loadings, float32, shape (n, k), row-major, k <= 256.
    scale
        Gene scales, float64, shape (m,).

    Notes
    -----
    Sums of eight products in float32 are added in float64, in an order that
    the tile alone decides.
    """
    import cupy

    B = cupy.empty((len(scale), H.shape[1]), np.float64)
    gene_products_into(genes, H, scale, B)
    return B
