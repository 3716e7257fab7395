"""A start from singular vectors: NNDSVD of the first cells of the pack.

These are a shuffled, proportional sample of all datasets. With sigma_j, u_j, v_j the leading
singular triples of its scaled counts (not centred), and u+ and u- the positive and the
negative part of a vector, row j of W is the part of v_j, v+ or v-, for which |u| |v| is
larger. Its zeros are filled with small random numbers, as HALS would leave a gene late that
no factor has; V starts as it always does.

References
----------
Boutsidis and Gallopoulos (2008), doi:10.1016/j.patcog.2007.09.010.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tigon.kernels.products import spmm
from tigon.kernels.sketches import sketch
from tigon.scaling.inmf.state import Problem, State, empty_state, init_state
from tigon.scaling.inmf.tiles import DatasetTile, cut_tiles
from tigon.scaling.pca.certificate import PROBES
from tigon.scaling.pca.krylov import basis_bytes, block_krylov, improved
from tigon.storage.packs.reader import CellReader

Float64 = NDArray[np.float64]

SAMPLE_CELLS = 10_000
"""Cells whose singular vectors are taken."""

PASSES = 6
"""Products at most; a start need not be exact."""

_TOL = 0.05
"""Relative residual at which there are no more."""

_FILL = 0.05
"""Largest of the numbers that zeros are filled with, relative to the mean of W."""


def nndsvd_state(
    pack: CellReader, problem: Problem, n_components: int, seed: np.random.SeedSequence
) -> State:
    """The state to begin with.

    Parameters
    ----------
    pack, problem
        The cells and what is factorised.
    n_components
        k.
    seed
        As for :func:`init_state`, whose V it takes.

    Notes
    -----
    Reads the first 10,000 cells once, and holds them and what :func:`start_bytes` says. Genes
    that a dataset does not measure count as much for the others as if all had been measured.
    """
    drawn = init_state(problem, n_components, seed)
    block = pack.stored(0, min(SAMPLE_CELLS, pack.n_cells))
    tiles = list(cut_tiles(block))
    scale = _scales(problem, np.bincount(block.datasets, minlength=problem.n_datasets))
    with threadpool_limits(1, "blas"):
        vectors = _singular_vectors(tiles, scale, n_components, seed)
    W = _positive_parts(tiles, scale, vectors)
    # Rows of mean 1, as those of a random start: loadings then begin as large as there.
    W /= np.maximum(W.mean(axis=1, keepdims=True), np.finfo(np.float64).tiny)
    W = np.maximum(W, drawn.W * (_FILL / 2))
    if problem.shared is not None:
        W *= problem.shared
    return empty_state(problem, W.astype(np.float32), drawn.V)


def start_bytes(n_components: int, n_genes: int) -> int:
    """Bytes that :func:`nndsvd_state` holds at most, the cells aside."""
    return basis_bytes(improved(improved(n_components)), n_components, PASSES, n_genes)


def _scales(problem: Problem, n_cells: NDArray[np.int64]) -> Float64:
    """Gene scales, (d, m), zero where a gene is not measured, made up for where it is."""
    measured = (n_cells[:, None] * problem.measured).sum(axis=0)
    made_up = np.sqrt(n_cells.sum() / np.maximum(measured, 1))
    scales: Float64 = problem.scale * problem.measured * made_up
    return scales


def _singular_vectors(
    tiles: Sequence[DatasetTile], scale: Float64, n_components: int, seed: np.random.SeedSequence
) -> Float64:
    """Leading right singular vectors of the scaled counts, shape (m, k)."""
    m = scale.shape[1]
    rng = np.random.default_rng([*seed.generate_state(4).tolist(), 1])

    def product(Q: Float64) -> Float64:
        total = np.zeros(Q.shape)
        for tile in tiles:
            scales = scale[tile.dataset]
            total += sketch(tile.cells(), Q, column_scale=scales, n_threads=1).product
        return total

    start = rng.standard_normal((m, min(improved(improved(n_components)), m)))
    probe = rng.standard_normal((m, PROBES))
    return block_krylov(product, start, probe, n_components, _TOL, PASSES).vectors


def _positive_parts(tiles: Sequence[DatasetTile], scale: Float64, vectors: Float64) -> Float64:
    """The heavier non-negative part of each vector, shape (k, m)."""
    plus, minus = np.zeros(vectors.shape[1]), np.zeros(vectors.shape[1])
    for tile in tiles:
        scores = spmm(tile.cells(), vectors * scale[tile.dataset][:, None], n_threads=1)
        plus += (np.maximum(scores, 0.0, dtype=np.float64) ** 2).sum(axis=0)
        minus += (np.minimum(scores, 0.0, dtype=np.float64) ** 2).sum(axis=0)
    up, down = np.maximum(vectors, 0.0), np.maximum(-vectors, 0.0)
    heavier = plus * (up**2).sum(axis=0) >= minus * (down**2).sum(axis=0)
    return np.where(heavier, up, down).T.copy()
