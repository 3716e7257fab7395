"""Principal components of real data beside complete decompositions."""

from __future__ import annotations

from pathlib import Path

import anndata
import numpy as np
import pytest
import scipy.linalg
from scipy import sparse

import tigon
from tigon.scaling.pca import sampling

pytestmark = pytest.mark.usefixtures("one_blas_thread")

LOG = {"target_sum": 1e4, "log1p": True}


def normalised(counts: sparse.csr_matrix) -> sparse.csr_array:
    """log1p of counts per ten thousand, float64."""
    X = sparse.csr_array(counts, dtype=np.float64)
    totals = X.sum(axis=1)
    X = sparse.diags_array(1e4 / np.maximum(totals, 1)) @ X
    X.data = np.log1p(X.data)
    return sparse.csr_array(X)


def exact(X: sparse.csr_array, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Singular values and right vectors of the centred matrix, from its smaller Gram matrix."""
    n, m = X.shape
    mean = np.asarray(X.mean(axis=0)).ravel()
    if m <= n:
        gram = (X.T @ X).toarray() - n * np.outer(mean, mean)
        values, vectors = scipy.linalg.eigh(gram, subset_by_index=(m - k, m - 1))
        return np.sqrt(values[::-1]), vectors[:, ::-1].T
    about = X @ mean
    gram = (X @ X.T).toarray() - about[:, None] - about[None, :] + mean @ mean
    values, vectors = scipy.linalg.eigh(gram, subset_by_index=(n - k, n - 1))
    U, s = vectors[:, ::-1], np.sqrt(values[::-1])
    V = (X.T @ U - np.outer(mean, U.sum(axis=0))) / s
    return s, V.T


def assert_close(model: tigon.PCA, s: np.ndarray, Vt: np.ndarray) -> None:
    """As the default tolerance promises, and as the certificate says."""
    k = len(model.singular_values_)
    found = model.singular_values_
    assert model.converged_
    assert 1 - (found**2).sum() / (s[:k] ** 2).sum() < 1e-3
    gaps = np.minimum(np.append(np.inf, s[:19] / s[1:20]) - 1, s[:20] / s[1:21] - 1)
    cosines = np.abs((model.components_[:20] * Vt[:20]).sum(axis=1))
    assert (cosines[gaps > 0.01] >= 0.999).all()
    nearest = np.abs(found[:, None] - s[None]).min(axis=1)
    assert (nearest <= model.residuals_ * found[0] * (1 + 1e-9)).all()
    assert s[k] <= found[-1] * model.completeness_


def test_gram_is_exact_on_eight_donors(shared_data: Path) -> None:
    """Of every third cell, so that the complete decomposition takes some seconds."""
    adata = anndata.read_h5ad(shared_data / "kang_ctrl_8donors.h5ad")[::3]
    s, Vt = exact(normalised(adata.X), 51)
    model = tigon.PCA(50, solver="gram", **LOG).fit(adata)
    np.testing.assert_allclose(model.singular_values_, s[:50], rtol=1e-6)
    angles = scipy.linalg.subspace_angles(model.components_.T, Vt[:50].T)
    assert np.sin(angles.max()) <= 1e-5


@pytest.mark.parametrize("name", ["pbmc3k", "snareseq_cortex_atac"])
def test_krylov_is_as_exact_as_it_says(
    shared_data: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of some cells and every third gene, so that both decompositions take some seconds."""
    monkeypatch.setattr(sampling, "SAMPLE_CELLS", 400)
    adata = anndata.read_h5ad(shared_data / f"{name}.h5ad")[:1000, ::3]
    s, Vt = exact(normalised(adata.X), 51)
    model = tigon.PCA(50, **LOG).fit(adata)
    assert model.solver_ == "krylov"
    assert model.n_passes_ >= 2
    assert_close(model, s, Vt)
