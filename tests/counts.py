"""Sparse counts drawn from a seed, in the forms that the public kernels take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.kernels import CellTile


def draw_counts(
    seed: int, n: int, m: int, density: float | NDArray[np.float64] = 0.2
) -> sparse.csr_array:
    """Integer counts of one density, or one for each gene, every seventh cell empty."""
    rng = np.random.default_rng(seed)
    dense = rng.integers(1, 50, (n, m)) * (rng.random((n, m)) < density)
    dense[::7] = 0
    return sparse.csr_array(dense)


def split_entries(X: sparse.csr_array, *, shuffled: bool) -> sparse.csr_array:
    """The same counts, each in two entries; of one cell in any order where ``shuffled``."""
    rng = np.random.default_rng(0)
    indices, half = np.repeat(X.indices, 2), np.repeat(X.data // 2, 2)
    half[::2] += X.data % 2
    indptr = 2 * X.indptr
    if shuffled:
        cells = np.repeat(np.arange(X.shape[0]), np.diff(indptr))
        order = np.lexsort((rng.random(len(cells)), cells))
        indices, half = indices[order], half[order]
    return sparse.csr_array((half, indices, indptr), X.shape)


def as_tile(X: sparse.csr_array, weights: NDArray[np.float32] | None = None) -> CellTile:
    """The matrix as a tile of 16-bit counts, with weights 1 by default."""
    n = X.shape[0]
    return CellTile(
        np.arange(n),
        X.indptr.astype(np.int64),
        X.indices.astype(np.uint16),
        X.data.astype(np.uint16),
        np.ones(n, np.float32) if weights is None else weights,
    )


def assert_threads_agree(run: Callable[[int], tuple[Any, ...]]) -> None:
    """The arrays that ``run(n_threads)`` gives have the same bits for 1, 2 and 4 threads."""
    alone = run(1)
    for n_threads in (2, 4):
        for one, other in zip(alone, run(n_threads), strict=True):
            np.testing.assert_array_equal(one, other)
