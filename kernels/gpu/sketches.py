"""Gene-side products of scaled counts on a GPU, for principal components."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tigon.kernels.gpu.minibatch import DeviceTile
from tigon.kernels.gpu.modules import Kernel
from tigon.kernels.gpu.products import count_types, gene_products, spmm

if TYPE_CHECKING:
    import cupy

_THREADS = 128

MAX_PAIRED_GENES = 28_000
"""Most genes m of a Gram matrix: a row of float64 sums in shared memory."""


def sketch_product(tile: DeviceTile, Q: cupy.ndarray, scale: cupy.ndarray) -> cupy.ndarray:
    """Z = X^T (X Q) of a tile, float64, shape (m, l), X neither centred nor formed.

    Parameters
    ----------
    tile
        Counts by cell and by gene.
    Q
        float32, shape (m, l), l <= 256.
    scale
        Gene scales, float64, shape (m,).

    Notes
    -----
    X Q is rounded to float32; one launch for each product.
    """
    import cupy

    scaled = cupy.ascontiguousarray(Q * scale[:, None], np.float32)
    return gene_products(tile.genes, spmm(tile.cells, scaled), scale)


def add_sparse_gram(out: cupy.ndarray, tile: DeviceTile, scale: cupy.ndarray) -> None:
    """Add X^T X of a tile to ``out``, float64, shape (m, m), in place.

    Parameters
    ----------
    out
        Written.
    tile, scale
        As in :func:`sketch_product`.

    Raises
    ------
    ValueError
        With more genes than fit a block.

    Notes
    -----
    Both triangles are summed, in the same order: symmetric to the bit where no
    count is split over entries. Some nnz^2 / n multiplications.
    """
    m = len(scale)
    if m > MAX_PAIRED_GENES:
        raise ValueError(
            f"too many genes for a Gram matrix on the GPU ({m}): at most {MAX_PAIRED_GENES}; "
            "select variable genes, or sketch instead"
        )
    kernel = Kernel("pairs.cu", "gene_pairs", 8 * m, **count_types(tile.cells))
    genes = tile.genes
    kernel(
        m, _THREADS, genes.starts, genes.cells, genes.values, *tile.cells.arrays,
        scale, out, np.int32(m),
    )  # fmt: skip
