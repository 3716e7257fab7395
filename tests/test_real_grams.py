"""Least squares on the metagenes of real data, from our own fits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pytest
from problems import by_scipy, objectives

import tigon
from tigon.kernels import nnls, reference
from tigon.kernels.least_squares import TOLERANCES

pytestmark = pytest.mark.data

Array = np.ndarray

LAM = 5.0


@dataclass(frozen=True)
class Real:
    """G and R of a dataset after an epoch and after the next one."""

    before: tuple[Array, Array]
    now: tuple[Array, Array]


def systems(adata: anndata.AnnData, n_epochs: int, k: int) -> tuple[Array, Array]:
    """G and R of the first dataset under metagenes of so many epochs, in float64."""
    model = tigon.OnlineINMF(k, n_genes=1000, n_epochs=n_epochs, random_state=0, n_threads=2)
    model.fit(adata, batch_key="batch")
    name = min(model.V_)
    mine = adata[(adata.obs["batch"].astype(str) == name).to_numpy()][:800]
    counts = np.asarray(mine.X.toarray(), float)
    x = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    x = x[:, adata.var_names.get_indexer(model.genes_)]
    rms = np.sqrt((x**2).sum(axis=0) / (len(x) - 1))
    x = np.divide(x, rms, out=np.zeros_like(x), where=rms > 0)
    W, V = model.W_.astype(float), model.V_[name].astype(float)
    return reference.gram(W + V, V, LAM), x @ (W + V).T


@pytest.fixture(scope="module", params=["kang_pbmc_stim", "baron_mouse_pancreas"])
def real(shared_data: Path, request: pytest.FixtureRequest) -> Real:
    adata = anndata.read_h5ad(shared_data / f"{request.param}.h5ad")
    return Real(systems(adata, 3, 20), systems(adata, 4, 20))


def test_every_mode_reaches_the_optimum(real: Real) -> None:
    G, R = real.now
    expected = by_scipy(G, R[:150])
    exact, _ = nnls(G, R, mode="exact")
    assert np.abs(exact[:150] - expected).max() <= 1e-10 * expected.max()
    best = objectives(G, R, exact)
    for mode in TOLERANCES:
        H, info = nnls(G, R, mode=mode)
        assert info.converged.all()
        assert reference.kkt_residual(G, R, H.astype(float)).max() <= TOLERANCES[mode]
        excess = objectives(G, R, H) - best
        # What a residual leaves grows with its square and the condition of G, here about 30.
        assert (excess <= 1e-5 * np.abs(best)).all()
        assert (excess >= -1e-12 * np.abs(best)).all()
        if mode == "tight":
            assert np.abs(H - exact).max() <= 1e-5 * exact.max()


@pytest.mark.parametrize("mode", ["fast", "tight"])
def test_loadings_of_the_epoch_before_save_sweeps(real: Real, mode: str) -> None:
    G, R = real.now
    before, _ = nnls(*real.before, mode=mode)
    # In units of the factors' sizes, as training keeps them.
    before *= np.sqrt(real.before[0].diagonal() / G.diagonal()).astype(before.dtype)
    _, cold = nnls(G, R, mode=mode)
    H, warm = nnls(G, R, before, mode=mode)
    assert reference.kkt_residual(G, R, H.astype(float)).max() <= TOLERANCES[mode]
    assert warm.sweeps.mean() <= 0.9 * cold.sweeps.mean()


def test_real_cells_have_the_same_bits_on_any_threads(real: Real) -> None:
    G, R = real.now
    for mode in TOLERANCES:
        H, info = nnls(G, R, mode=mode, n_threads=1)
        same, others = nnls(G, R, mode=mode, n_threads=2)
        np.testing.assert_array_equal(H, same)
        np.testing.assert_array_equal(info.kkt_residual, others.kkt_residual)
