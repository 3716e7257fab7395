"""Kernels over genes and small factors on a GPU: Gram matrices, products, HALS.

All sums are float64 in an order fixed by the shapes.

References
----------
Cichocki and Phan (2009), doi:10.1587/transfun.E92.A.708.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tigon.kernels.gpu.least_squares import descent_kernel
from tigon.kernels.gpu.modules import Kernel, contiguous

if TYPE_CHECKING:
    import cupy

_MAX_SLICES = 128
_SLICE_SAMPLES = 16
_SIDE = 16
_STAGE = 8
_GENES = 32
_LANES = 8
_THREADS = 128
_SUM_THREADS = 256


def slices_of(n: int) -> tuple[int, int]:
    """Into how many slices n samples are cut, and their samples; decided by n alone."""
    samples = max(_SLICE_SAMPLES, -(-n // _MAX_SLICES))
    return -(-n // samples), samples


def slices_buffer(k: int) -> cupy.ndarray:
    """Memory that :func:`gram_into` needs, float64, shape (128, k, k)."""
    import cupy

    return cupy.empty((_MAX_SLICES, k, k), np.float64)


def gram_into(
    Y: cupy.ndarray,
    out: cupy.ndarray,
    slices: cupy.ndarray,
    *,
    over_rows: bool,
    weight: float = 1.0,
    keep: float = 0.0,
) -> None:
    """``out = keep * out + weight * sum of y y^T`` over the samples y of Y.

    Parameters
    ----------
    Y
        float32, row-major: shape (n, k) with samples as rows where
        ``over_rows``, else (k, n).
    out
        float64, shape (k, k), written.
    slices
        From :func:`slices_buffer`, overwritten.
    over_rows, weight, keep
        As above.
    """
    k = len(out)
    n = len(Y) if over_rows else Y.shape[1]
    n_slices, samples = slices_of(n)
    strides = (k, 1) if over_rows else (1, n)
    padded = -(-k // _SIDE) * _SIDE
    part = Kernel("dense.cu", "gram_slices", 8 * _STAGE * padded, FACTORS=k)
    part(
        n_slices, _SIDE * _SIDE, Y, slices, np.int32(n), np.int32(samples),
        np.int32(strides[0]), np.int32(strides[1]),
    )  # fmt: skip
    total = Kernel("dense.cu", "sum_slices", 8 * _SUM_THREADS, FACTORS=k)
    blocks = -(-k * k // 32)
    total(
        blocks, _SUM_THREADS, slices, out, np.int32(n_slices), np.float64(weight), np.float64(keep)
    )  # fmt: skip


def gram(L: cupy.ndarray, V: cupy.ndarray, lam: float) -> cupy.ndarray:
    """Gram matrix G = L L^T + lambda V V^T of metagenes float32 (k, m): float64, (k, k)."""
    import cupy

    k = len(L)
    G, slices = cupy.empty((k, k), np.float64), slices_buffer(k)
    gram_into(contiguous(L, np.float32), G, slices, over_rows=False)
    gram_into(contiguous(V, np.float32), G, slices, over_rows=False, weight=lam, keep=1.0)
    return G


def add_product_into(
    out: cupy.ndarray,
    base: cupy.ndarray,
    A: cupy.ndarray,
    factor: cupy.ndarray,
    sign: float,
    minus: cupy.ndarray | None = None,
) -> None:
    """``out = base + sign * A @ (factor - minus)``; ``base`` may be ``out``.

    Parameters
    ----------
    out, base
        float64, shape (k, m).
    A
        float64, shape (k, k).
    factor, minus
        float32, shape (k, m).
    sign
        Usually 1 or -1.
    """
    k, m = out.shape
    kernel = Kernel("dense.cu", "add_product", 8 * _GENES * k, FACTORS=k)
    kernel(
        -(-m // _GENES), 256, out, base, A, factor, factor if minus is None else minus,
        np.int32(minus is not None), np.float64(sign), np.int32(m),
    )  # fmt: skip


def add_product(out: cupy.ndarray, A: cupy.ndarray, factor: cupy.ndarray, sign: float) -> None:
    """Add ``sign * A @ factor`` to ``out`` in place; see :func:`add_product_into`."""
    add_product_into(out, out, A, factor, sign)


def hals_genes(
    factor: cupy.ndarray,
    target: cupy.ndarray,
    gram: cupy.ndarray,
    genes: cupy.ndarray,
    n_sweeps: int,
    share: float = 1.0,
) -> None:
    """:func:`hals` on the genes listed, int32, towards ``share * target``."""
    k, m = factor.shape
    kernel = descent_kernel("hals", k, "tight", file="hals.cu")
    blocks = -(-len(genes) * _LANES // _THREADS)
    kernel(
        blocks, _THREADS, gram, target, factor, genes,
        np.int32(len(genes)), np.int32(m), np.float64(share), np.int32(n_sweeps),
    )  # fmt: skip


def hals(factor: cupy.ndarray, target: cupy.ndarray, gram: cupy.ndarray, n_sweeps: int) -> None:
    """Hierarchical alternating least squares, in place.

    ``F_j <- max(0, F_j + (T_j - S_j F) / S_jj)``, row after row. Between sweeps
    F stays in float64, so it may differ from the CPU's by float32 rounding.

    Parameters
    ----------
    factor
        F, float32, shape (k, m), non-negative, k <= 128; written.
    target
        T, float64, shape (k, m).
    gram
        S, float64, shape (k, k). A row with ``S[j, j] == 0`` stays as it is.
    n_sweeps
        Passes over the rows.
    """
    import cupy

    genes = cupy.arange(factor.shape[1], dtype=np.int32)
    hals_genes(factor, target, gram, genes, n_sweeps)
