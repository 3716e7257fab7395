"""Cells of an atlas as the kernels of principal components read them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from builders import write_h5ad
from counts import draw_counts
from scipy import sparse

import tigon
from tigon.scaling.pca.rows import AtlasRows, Cells, cells_of
from tigon.scaling.selecting import GeneSelection
from tigon.storage.views.reopening import reference


def as_matrix(cells: Cells, n_genes: int) -> np.ndarray:
    rows, indptr, genes, counts, _ = cells.tile.arrays
    return sparse.csr_array((counts, genes, indptr), (len(indptr) - 1, n_genes)).toarray()[rows]


@pytest.mark.parametrize("genes", [np.arange(40), np.array([3, 7, 8, 39]), np.array([5])])
def test_selected_genes_of_kept_cells(tmp_path: Path, genes: np.ndarray) -> None:
    import anndata

    X = draw_counts(0, 90, 40)
    path = write_h5ad(anndata.AnnData(sparse.csr_matrix(X)), tmp_path / "a.h5ad")
    kept = np.random.default_rng(0).random(90) < 0.7
    with tigon.open(path) as atlas:
        selection = GeneSelection.of(genes, 40)
        assert selection.is_everything == (len(genes) == 40)
        shape = (int(kept.sum()), len(genes))
        rows = AtlasRows(reference(atlas), selection, shape, X.nnz, kept)
        cells = rows.read(10, 80)
    expected = X.toarray()[10:80][kept[10:80]]
    np.testing.assert_array_equal(as_matrix(cells, len(genes)), expected[:, genes])
    np.testing.assert_array_equal(cells.totals, expected.sum(axis=1))


def test_entries_of_one_gene_add_up_whatever_their_type() -> None:
    """Not in their own type, in which 200 + 100 are 44, and totals not in float32."""
    few = np.array([200, 100, 3, 7], np.uint8)
    X = sparse.csr_array((few, np.array([1, 1, 0, 2]), np.array([0, 2, 4])), (2, 3))
    cells = cells_of(X, 0)
    np.testing.assert_array_equal(as_matrix(cells, 3), [[0, 300, 0], [3, 0, 7]])
    np.testing.assert_array_equal(cells.totals, [300, 10])
    large = cells_of(np.array([[2.0**24, 1.0, 1.0, 1.0]], np.float32), 0)
    np.testing.assert_array_equal(large.totals, [2.0**24 + 3])


def test_genes_in_another_order_are_not_everything() -> None:
    assert GeneSelection.of(np.arange(5), 5).is_everything
    assert not GeneSelection.of(np.arange(5)[::-1].copy(), 5).is_everything
