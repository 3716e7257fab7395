"""Entries of some genes and cells are those that SciPy's slices hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from tigon.kernels.cpu.picking import pick_entries


def counts(n: int = 40, m: int = 60) -> sparse.csr_array:
    rng = np.random.default_rng(0)
    X = rng.poisson(0.4, (n, m))
    X[[0, 7, n - 1]] = 0  # cells without entries, also at both ends
    return sparse.csr_array(X)


@pytest.mark.parametrize("wide", [np.uint16, np.uint32])
@pytest.mark.parametrize("values", [np.uint16, np.uint32, np.float32, np.float64])
@pytest.mark.parametrize(("cells", "genes"), [(0.6, 0.3), (1.0, 0.3), (0.6, 1.0), (0.0, 0.5)])
def test_entries_are_those_of_slices(wide: type, values: type, cells: float, genes: float) -> None:
    rng = np.random.default_rng(1)
    X = counts()
    kept, selected = rng.random(X.shape[0]) < cells, rng.random(X.shape[1]) < genes
    places = np.zeros(X.shape[1], np.uint16)
    places[selected] = rng.permutation(int(selected.sum()))
    entries = X.indptr.astype(np.int64), X.indices.astype(wide), X.data.astype(values)
    entries[2].flags.writeable = False
    indptr, found, taken = pick_entries(*entries, kept, selected, places)
    assert (indptr.dtype, found.dtype, taken.dtype) == (np.int64, np.uint16, values)
    expected = X[kept][:, selected]
    np.testing.assert_array_equal(indptr, expected.indptr)
    np.testing.assert_array_equal(found, places[selected][expected.indices])
    np.testing.assert_array_equal(taken, expected.data)


def test_no_gene_is_no_entry() -> None:
    X = counts()
    entries = X.indptr.astype(np.int64), X.indices.astype(np.uint16), X.data.astype(np.uint16)
    everyone, none = np.ones(X.shape[0], bool), np.zeros(X.shape[1], bool)
    indptr, found, taken = pick_entries(*entries, everyone, none, np.zeros(X.shape[1], np.uint16))
    assert (len(found), len(taken), indptr.max()) == (0, 0, 0)


def test_what_does_not_fit_is_refused() -> None:
    entries = np.array([0, 2]), np.array([0, 5], np.uint16), np.ones(2, np.uint16)
    everyone, five = np.ones(1, bool), np.ones(5, bool)
    places = np.arange(5, dtype=np.uint16)
    with pytest.raises(ValueError, match="gene 5 is out of range"):
        pick_entries(*entries, everyone, five, places)
    with pytest.raises(ValueError, match="are chosen from"):
        pick_entries(*entries, np.ones(2, bool), five, places)
