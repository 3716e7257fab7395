"""Components of a matrix that lies on a GPU, against those of the same matrix here."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

import tigon

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


@pytest.mark.parametrize("solver", ["gram", "krylov"])
def test_components_and_scores(solver: str) -> None:
    from cupyx.scipy.sparse import csr_matrix

    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, 2.0, (3000, 6)) @ rng.gamma(0.3, 1.0, (6, 200)) + 0.05
    X = sparse.csr_matrix(rng.poisson(rates).astype(np.float32))
    options = {"solver": solver, "target_sum": 1e3, "log1p": True, "tol": 1e-4}
    here = tigon.PCA(5, **options)
    expected = here.fit_transform(X)
    there = tigon.PCA(5, **options)
    found = there.fit_transform(csr_matrix(X))
    np.testing.assert_allclose(there.singular_values_, here.singular_values_, rtol=1e-4)
    cosines = np.abs((there.components_ * here.components_).sum(axis=1))
    assert (cosines > 1 - 1e-4).all()
    np.testing.assert_allclose(found, expected, atol=1e-2 * np.abs(expected).max())
