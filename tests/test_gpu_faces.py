"""The public kernels on CuPy arrays, against the same calls on NumPy arrays."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np
import pytest
from cuda_emulation.drawing import draw_problem
from scipy import sparse

from tigon.kernels import CellTile, Metagenes, gram, hals, minibatch_step, sketch, sparse_gram, spmm

cupy = pytest.importorskip("cupy", reason="no CuPy", exc_type=ImportError)


def _has_device() -> bool:
    try:
        return bool(cupy.cuda.runtime.getDeviceCount())
    except cupy.cuda.runtime.CUDARuntimeError:
        return False


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not _has_device(), reason="no CUDA device"),
]

EPS32 = np.finfo(np.float32).eps


def to_device(value: Any) -> Any:
    """Arrays, CSR matrices and what consists of arrays, copied to the device."""
    if isinstance(value, np.ndarray):
        return cupy.asarray(value)
    if sparse.issparse(value):
        from cupyx.scipy.sparse import csr_matrix

        return csr_matrix(sparse.csr_matrix(value.astype(np.float64)))
    arrays = {f.name: cupy.asarray(getattr(value, f.name)) for f in fields(value)}
    return type(value)(**arrays)


@pytest.fixture
def problem() -> tuple[CellTile, Metagenes, sparse.csr_array]:
    p = draw_problem(1, n=500, m=90, k=20)
    arrays = p.tile.counts, p.tile.genes.astype(np.int32), p.tile.indptr
    return p.tile, p.metagenes, sparse.csr_array(arrays, (500, 90))


def test_products(problem: tuple[CellTile, Metagenes, sparse.csr_array]) -> None:
    tile, _, X = problem
    rng = np.random.default_rng(0)
    D, E = rng.random((90, 33)), rng.random((500, 33))
    for cells in (X, tile):
        found = spmm(to_device(cells), cupy.asarray(D)).get()
        np.testing.assert_allclose(found, spmm(cells, D), rtol=90 * EPS32)
        found = spmm(to_device(cells), cupy.asarray(E), transpose=True, n_genes=90).get()
        expected = spmm(cells, E, transpose=True, n_genes=90)
        np.testing.assert_allclose(found, expected, rtol=20 * EPS32)


@pytest.mark.parametrize("log1p", [False, True])
def test_sketches(problem: tuple[CellTile, Metagenes, sparse.csr_array], *, log1p: bool) -> None:
    tile, _, X = problem
    rng = np.random.default_rng(1)
    Q, scale = rng.random((90, 12)), rng.uniform(0.5, 2, 90)
    on_device = to_device(scale)
    for cells in (X, tile):
        found = sketch(to_device(cells), to_device(Q), 1e3, on_device, log1p=log1p)
        expected = sketch(cells, Q, 1e3, scale, log1p=log1p)
        pairs = sparse_gram(to_device(cells), 1e3, on_device, log1p=log1p)
        others = sparse_gram(cells, 1e3, scale, log1p=log1p)
        for one, other in ((found, expected), (pairs, others)):
            for name in ("product", "sums", "squares"):
                value = getattr(one, name).get()
                np.testing.assert_allclose(value, getattr(other, name), rtol=60 * EPS32)


def test_factors() -> None:
    rng = np.random.default_rng(2)
    L, V = 1.0 + 1e-9 * rng.random((7, 300)), rng.random((7, 300), np.float32)
    found = gram(cupy.asarray(L), cupy.asarray(V), 5.0).get()
    np.testing.assert_allclose(found, gram(L, V, 5.0), rtol=1e-13)
    H = rng.random((40, 7))
    T, S = H.T @ rng.random((40, 300)), H.T @ H
    found = hals(*map(cupy.asarray, (V, T, S)), n_sweeps=2).get()
    expected = hals(V, T, S, 2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=60 * EPS32 * expected.max())


def test_a_step(problem: tuple[CellTile, Metagenes, sparse.csr_array]) -> None:
    tile, metagenes, _ = problem
    H, found = minibatch_step(to_device(tile), to_device(metagenes), 1e-4)
    expected_H, expected = minibatch_step(tile, metagenes, 1e-4)
    # Both within 1e-4 of the optimum in their slopes: losses differ by its square and rounding.
    assert abs(found.loss - expected.loss) <= 1e-5 * expected.squared_norm
    exact = H.get().astype(float)
    np.testing.assert_allclose(found.A.get(), exact.T @ exact, rtol=1e-12)
    assert H.shape == expected_H.shape
    assert found.n_unfinished == expected.n_unfinished == 0


def test_arrays_of_two_libraries_are_refused(
    problem: tuple[CellTile, Metagenes, sparse.csr_array],
) -> None:
    tile, metagenes, X = problem
    with pytest.raises(TypeError, match="X lies in numpy and D in cupy"):
        spmm(X, cupy.ones((90, 2)))
    with pytest.raises(TypeError, match="X lies in cupy and Q in numpy"):
        sketch(to_device(tile), np.ones((90, 2)))
    with pytest.raises(TypeError, match="arrays of two libraries"):
        minibatch_step(to_device(tile), metagenes)
