"""Cells of an atlas as the kernels of principal components read them."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import anndata
import numpy as np
import pytest
from builders import write_h5ad
from counts import draw_counts
from scipy import sparse

import tigon
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.packing import build_pack
from tigon.scaling.pca.rows import AtlasRows, Cells, cells_of
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.scaling.selecting import GeneSelection
from tigon.storage.views.reopening import reference


def as_matrix(cells: Cells, n_genes: int) -> np.ndarray:
    rows, indptr, genes, counts, _ = cells.tile.arrays
    return sparse.csr_array((counts, genes, indptr), (len(indptr) - 1, n_genes)).toarray()[rows]


@pytest.mark.parametrize("genes", [np.arange(40), np.array([3, 7, 8, 39]), np.array([5])])
def test_selected_genes_of_kept_cells(tmp_path: Path, genes: np.ndarray) -> None:
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


def test_components_of_a_pack_are_those_of_its_genes(tmp_path: Path) -> None:
    """Cells lie in another order there, and are scaled by totals over all genes."""
    X = draw_counts(0, 300, 40)
    with tigon.open(anndata.AnnData(X)) as atlas, ThreadEngine(1) as engine:
        prepared = prepare(atlas, PrepareConfig(n_genes=15), 1, engine)
        parts = prepared.datasets, prepared.statistics, prepared.genes
        seed = np.random.SeedSequence(0)
        with closing(build_pack(atlas, *parts, tmp_path / "pack", engine, seed)) as pack:
            model = tigon.PCA(4, target_sum=100.0, log1p=True)
            scores = model.fit_transform(pack)
            positions = pack.read(0, pack.n_cells).positions
    counts = X.toarray().astype(float)[positions]
    totals = np.maximum(counts.sum(axis=1, keepdims=True), 1)
    Y = np.log1p(100 * counts / totals)[:, prepared.genes]
    A = Y - Y.mean(axis=0)
    # Totals of a pack are float32.
    sigma = np.linalg.svd(A, compute_uv=False)
    np.testing.assert_allclose(model.singular_values_, sigma[:4], rtol=1e-6)
    np.testing.assert_allclose(scores, A @ model.components_.T, atol=1e-5)
