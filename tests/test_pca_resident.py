"""Components of matrices that are held on a device: the same functions, told apart by arrays.

Without a GPU the matrices are SciPy's, which take the same way through the same code.
"""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from tigon.scaling.engine import ThreadEngine
from tigon.scaling.pca.config import PCAConfig
from tigon.scaling.pca.decomposing import decompose
from tigon.scaling.pca.passes import Normalisation, Passes
from tigon.scaling.pca.resident import ResidentPasses
from tigon.scaling.pca.rows import MatrixRows
from tigon.storage.errors import InputError

LOG = Normalisation(100.0, True)


@pytest.fixture(scope="module")
def counts() -> sparse.csr_array:
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.3, 2.0, (700, 6)) @ rng.gamma(0.3, 1.0, (6, 90)) + 0.05
    found = rng.poisson(rates)
    found[5] = 0
    return sparse.csr_array(found.astype(np.float32))


@pytest.mark.parametrize("solver", ["gram", "krylov"])
def test_components_and_scores_are_those_of_streamed_cells(
    counts: sparse.csr_array, solver: str
) -> None:
    config = PCAConfig(n_components=5, solver=solver, scale=True, tol=1e-4)
    held = ResidentPasses(counts, LOG)
    found = decompose(held, config)
    with ThreadEngine(1) as engine:
        streamed = Passes(MatrixRows(counts), LOG, engine)
        expected = decompose(streamed, config)
        scores = np.concatenate(list(streamed.scores(*expected.onto())))
    np.testing.assert_allclose(found.singular_values, expected.singular_values, rtol=1e-6)
    np.testing.assert_allclose(
        np.abs((found.components * expected.components).sum(1)), 1, rtol=1e-6
    )
    ours = np.concatenate(list(held.scores(*found.onto())))
    np.testing.assert_allclose(ours, scores, rtol=1e-3, atol=1e-3)
    assert found.converged


def test_the_matrix_is_not_written(counts: sparse.csr_array) -> None:
    before = counts.data.copy()
    ResidentPasses(counts, LOG).gram()
    np.testing.assert_array_equal(counts.data, before)


def test_values_below_zero_are_refused_as_of_streamed_cells(counts: sparse.csr_array) -> None:
    with pytest.raises(InputError, match="of a cell add up to -"):
        ResidentPasses(-counts, Normalisation(100.0))
    with pytest.raises(InputError, match="log1p needs values of zero or above"):
        ResidentPasses(-counts, Normalisation(None, True))
