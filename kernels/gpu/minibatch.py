"""One mini-batch on a GPU: products, loadings, statistics and loss.

A step is a fixed sequence of launches into memory that it is given, with no
word from the host in between, so that it can be captured in a CUDA graph.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tigon.kernels.gpu.factors import gram_into, slices_buffer
from tigon.kernels.gpu.least_squares import Descent
from tigon.kernels.gpu.modules import Kernel, contiguous
from tigon.kernels.gpu.products import (
    GeneTile,
    by_gene,
    gene_products_into,
    products_into,
    squared_norms,
)
from tigon.kernels.tile import CellTile, Metagenes, TileStatistics

if TYPE_CHECKING:
    import cupy

_PARTS = 64
_THREADS = 256
_LAST_THREADS = 1024
_SUM_BYTES = 8 * _THREADS


@dataclass(frozen=True, slots=True)
class DeviceTile:
    """A tile on the device, as a step reads it.

    Attributes
    ----------
    cells, genes
        Its counts by cell and by gene.
    squared
        |x|^2 of each cell, float64, shape (n,).
    """

    cells: CellTile
    genes: GeneTile
    squared: cupy.ndarray

    @classmethod
    def of(cls, cells: CellTile, scale: cupy.ndarray, nnz: int | None = None) -> DeviceTile:
        """Sort a tile's counts by gene and square them."""
        return cls(cells, by_gene(cells, len(scale), nnz), squared_norms(cells, scale))


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What steps of at most n cells write; one serves all steps of a stream.

    Attributes
    ----------
    R
        Products, float32, shape (n, k).
    sweeps, residual
        Of each cell, int32 and float32, shape (n,).
    slices
        Partial sums, float64, shape (128, k, k).
    parts
        Partial sums of the loss, float64, shape (2, 64).
    A, B
        H^T H and X^T H of the tile, float64, shapes (k, k) and (m, k).
    """

    R: cupy.ndarray
    sweeps: cupy.ndarray
    residual: cupy.ndarray
    slices: cupy.ndarray
    parts: cupy.ndarray
    A: cupy.ndarray
    B: cupy.ndarray

    @classmethod
    def for_shape(cls, n: int, k: int, m: int) -> StepMemory:
        """Memory for tiles of at most n cells: about 4 n k + 8 k (128 k + m) bytes."""
        import cupy

        return cls(
            cupy.empty((n, k), np.float32),
            cupy.empty(n, np.int32),
            cupy.empty(n, np.float32),
            slices_buffer(k),
            cupy.empty((2, _PARTS), np.float64),
            cupy.empty((k, k), np.float64),
            cupy.empty((m, k), np.float64),
        )


def run_step(
    tile: DeviceTile,
    metagenes: Metagenes,
    H: cupy.ndarray,
    memory: StepMemory,
    figures: cupy.ndarray,
    *,
    tol: float,
    warm: bool,
) -> None:
    """Solve a tile's loadings and sum its statistics, without the host.

    Parameters
    ----------
    tile
        The cells.
    metagenes
        What they are solved against; ``gram`` is float64 here.
    H
        Loadings, float32, shape (n, k), written; their start where ``warm``.
    memory
        Overwritten: A and B of this tile are found there.
    figures
        float64, shape (3,): |X|^2, the tile's share of F and its unfinished
        cells are added.
    tol, warm
        As in :class:`tigon.kernels.gpu.least_squares.Descent`.
    """
    n, k = H.shape
    R, sweeps, residual = memory.R[:n], memory.sweeps[:n], memory.residual[:n]
    descent = Descent(k)
    products_into(tile.cells, metagenes.scaled, R)
    descent(metagenes.gram, R, H, sweeps, residual, warm=warm, tol=tol)
    gram_into(H, memory.A, memory.slices, over_rows=True)
    gene_products_into(tile.genes, H, metagenes.scale, memory.B)
    part = Kernel("dense.cu", "fit_parts", _SUM_BYTES, FACTORS=k)
    part(_PARTS, _THREADS, R, H, residual, memory.parts, np.int32(n), np.float64(tol))
    total = Kernel("dense.cu", "add_figures", 8 * _LAST_THREADS, FACTORS=k)
    total(
        1, _LAST_THREADS, tile.squared, memory.parts, metagenes.gram, memory.A, figures, np.int32(n)
    )


def minibatch_step(
    tile: CellTile, metagenes: Metagenes, tol: float, start: cupy.ndarray | None = None
) -> tuple[cupy.ndarray, TileStatistics]:
    """Loadings of a tile and what they add to A, B and F.

    Parameters
    ----------
    tile, metagenes
        As on the CPU, with CuPy arrays.
    tol
        KKT residual to reach.
    start
        Where to start, non-negative, shape (n, k); zero where None.

    Returns
    -------
    H
        Loadings, float32, shape (n, k).
    statistics
        A and B as CuPy arrays; the same bits every time on one type of GPU.
    """
    import cupy

    n, (m, k) = len(tile.rows), metagenes.scaled.shape
    on_device = Metagenes(
        contiguous(metagenes.scaled, np.float32),
        contiguous(metagenes.gram, np.float64),
        contiguous(metagenes.scale, np.float64),
    )
    warm = start is not None
    H = cupy.array(start, np.float32, order="C") if warm else cupy.empty((n, k), np.float32)
    figures = cupy.zeros(3, np.float64)
    memory = StepMemory.for_shape(n, k, m)
    ready = DeviceTile.of(tile, on_device.scale)
    run_step(ready, on_device, H, memory, figures, tol=tol, warm=warm)
    squared, loss, unfinished = (float(figure) for figure in cupy.asnumpy(figures))
    return H, TileStatistics(memory.A, memory.B, squared, loss, n, int(unfinished))
