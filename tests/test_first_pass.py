"""Totals, moments, cell filters and gene selection against plain NumPy."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from atlases import planted
from scipy import sparse

import tigon
from tigon.scaling.cells import CellFilter, select_cells
from tigon.scaling.datasets import MERGED_NAME, datasets_of, resolve_small
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.first_pass import first_pass
from tigon.scaling.genes import excess_variance, inverse_rms, listed_genes, select_genes
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.scaling.statistics import Statistics
from tigon.storage.errors import InputError


def statistics_of(atlas: tigon.Atlas, cell_filter: CellFilter, n_threads: int = 2) -> Statistics:
    with ThreadEngine(n_threads) as engine:
        return first_pass(atlas, datasets_of(atlas, "batch"), cell_filter, engine)


@pytest.fixture(scope="module")
def adata():  # type: ignore[no-untyped-def]
    return planted(n=5000, m=60, d=3).adata


@pytest.fixture(scope="module")
def atlas(adata) -> tigon.Atlas:  # type: ignore[no-untyped-def]
    return tigon.open(adata)


def test_sums_agree_with_numpy(adata, atlas: tigon.Atlas) -> None:  # type: ignore[no-untyped-def]
    found = statistics_of(atlas, CellFilter())
    X = adata.X.toarray().astype(float)
    totals = X.sum(axis=1)
    np.testing.assert_array_equal(found.totals, totals)
    np.testing.assert_array_equal(found.n_detected, (X > 0).sum(axis=1))
    np.testing.assert_allclose(found.mitochondrial, X[:, -2:].sum(axis=1) / totals, rtol=1e-6)
    np.testing.assert_array_equal(found.ribosomal, 0)
    x = X / totals[:, None]
    for d, name in enumerate(datasets_of(atlas, "batch").names):
        mine = (adata.obs["batch"] == name).to_numpy()
        np.testing.assert_allclose(found.first[d], x[mine].sum(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.second[d], (x[mine] ** 2).sum(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.inverse_totals[d], (1 / totals[mine]).sum(), rtol=1e-12)
    np.testing.assert_array_equal(found.n_cells_detected, (X > 0).sum(axis=0))
    assert found.largest == X.max()
    assert found.integer


def test_any_number_of_threads_gives_the_same_bits(atlas: tigon.Atlas) -> None:
    one, two = (statistics_of(atlas, CellFilter(), n) for n in (1, 2))
    for name in Statistics.__slots__:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))


def test_filtered_cells_count_in_nothing(adata, atlas: tigon.Atlas) -> None:  # type: ignore[no-untyped-def]
    X = adata.X.toarray().astype(float)
    totals, detected = X.sum(axis=1), (X > 0).sum(axis=1)
    limits = CellFilter(min_genes=40, min_counts=1500, max_mito=0.02)
    found = statistics_of(atlas, limits)
    mito = X[:, -2:].sum(axis=1) / totals
    expected = (totals >= 1500) & (detected >= 40) & (mito <= 0.02)
    assert 0 < expected.sum() < len(expected)
    np.testing.assert_array_equal(found.kept, expected)
    np.testing.assert_array_equal(found.n_cells_detected, (X[expected] > 0).sum(axis=0))
    x = (X / totals[:, None])[expected]
    np.testing.assert_allclose(found.first.sum(axis=0), x.sum(axis=0), rtol=1e-12)


def test_variance_test_is_ligers(adata, atlas: tigon.Atlas) -> None:  # type: ignore[no-untyped-def]
    from scipy.stats import norm

    datasets, found = datasets_of(atlas, "batch"), statistics_of(atlas, CellFilter())
    excess = np.array(list(excess_variance(found, datasets)))
    X = adata.X.toarray().astype(float)
    for d, name in enumerate(datasets.names):
        mine = X[(adata.obs["batch"] == name).to_numpy()]
        totals = mine.sum(axis=1)
        x = mine / totals[:, None]
        mu, s2, c, n = x.mean(axis=0), x.var(axis=0, ddof=1), (1 / totals).mean(), len(x)
        upper = mu + norm.ppf(1 - 0.99 / X.shape[1] / 2) * np.sqrt(mu * c / n)
        passes = (s2 / c > upper) & (np.log10(s2) > np.log10(mu * c) + 0.1)
        assert passes.any()
        assert not passes.all()
        np.testing.assert_array_equal(excess[d] > 0, passes)
        margin = np.log10(s2) - np.log10(mu * c)
        np.testing.assert_allclose(excess[d][passes], margin[passes], rtol=1e-9)


def test_genes_are_the_union_of_the_best(atlas: tigon.Atlas) -> None:
    datasets, found = datasets_of(atlas, "batch"), statistics_of(atlas, CellFilter())
    genes = select_genes(found, datasets, 20)
    assert len(genes) == 20
    assert (np.diff(genes) > 0).all()
    excess = np.array(list(excess_variance(found, datasets)))
    for row in excess:
        assert np.argmax(row) in genes
    np.testing.assert_array_equal(select_genes(found, datasets, None), np.arange(60))
    np.testing.assert_array_equal(select_genes(found, datasets, 9999), np.arange(60))
    np.testing.assert_array_equal(listed_genes(list(atlas.var.index), ["gene3", "gene1"]), [1, 3])
    with pytest.raises(InputError, match=r"1 of 2 listed genes are not in the atlas \(nope\)"):
        listed_genes(list(atlas.var.index), ["gene3", "nope"])


def test_scale_is_the_root_mean_square(adata, atlas: tigon.Atlas) -> None:  # type: ignore[no-untyped-def]
    datasets, found = datasets_of(atlas, "batch"), statistics_of(atlas, CellFilter())
    scale = inverse_rms(found, datasets, np.arange(60))
    X = adata.X.toarray().astype(float)
    mine = X[(adata.obs["batch"] == datasets.names[1]).to_numpy()]
    x = mine / mine.sum(axis=1, keepdims=True)
    scaled = x * scale[1]
    np.testing.assert_allclose((scaled**2).sum(axis=0) / (len(x) - 1), 1.0, rtol=1e-9)


def test_expressions_choose_cells() -> None:
    obs = pd.DataFrame({"n": [1, 2, 3], "label": ["a", "b", "b"]})
    np.testing.assert_array_equal(select_cells(obs, "n > 1 and label == 'b'"), [False, True, True])
    for bad, said in (
        ("nope > 1", "cannot be evaluated"),
        ("n >", "cannot be evaluated"),
        ("n + 1", "not true or false"),
        ("n > 5", "selects none of 3"),
    ):
        with pytest.raises(InputError, match=said):
            select_cells(obs, bad)


def test_combined_keys_name_combinations(adata) -> None:  # type: ignore[no-untyped-def]
    atlas = tigon.open(adata)
    datasets = datasets_of(atlas, "batch,kind")
    assert len(datasets.names) == 15
    assert "b0|t1" in datasets.names
    cell = datasets.names.index("b0|t1")
    mine = (adata.obs["batch"] == "b0") & (adata.obs["kind"] == "t1")
    np.testing.assert_array_equal(datasets.codes == cell, mine.to_numpy())


def test_cells_left_out_need_no_dataset(adata) -> None:  # type: ignore[no-untyped-def]
    adata = adata.copy()
    adata.obs["batch"] = adata.obs["batch"].astype(object)
    adata.obs.iloc[7, 0] = None
    atlas = tigon.open(adata)
    with pytest.raises(InputError, match=r"1 missing values of 5000 \(first at cell 'cell7'\)"):
        datasets_of(atlas, "batch")
    datasets = datasets_of(atlas, "batch", select_cells(atlas.obs, "batch == batch"))
    assert datasets.codes[7] == -1
    assert datasets.sizes.sum() == 4999


def test_small_datasets_are_named_merged_or_dropped(adata) -> None:  # type: ignore[no-untyped-def]
    adata = adata[:300].copy()
    adata.obs["batch"] = ["big"] * 290 + ["s1"] * 4 + ["s2"] * 6
    datasets = datasets_of(tigon.open(adata), "batch")
    with pytest.raises(InputError, match=r"2 datasets have fewer cells .*'s1' \(4\), 's2' \(6\)"):
        resolve_small(datasets, 10, "error")
    merged = resolve_small(datasets, 10, "merge")
    assert merged.names == ("big", MERGED_NAME)
    np.testing.assert_array_equal(merged.sizes, [290, 10])
    dropped = resolve_small(datasets, 10, "drop")
    assert dropped.names == ("big",)
    assert (dropped.codes[290:] == -1).all()
    with pytest.raises(InputError, match="10 cells together"):
        resolve_small(datasets, 11, "merge")
    with pytest.raises(InputError, match="no dataset has as many cells"):
        resolve_small(datasets, 301, "drop")


def test_dropped_cells_count_for_no_gene(adata) -> None:  # type: ignore[no-untyped-def]
    adata = adata[:300].copy()
    adata.obs["batch"] = ["big"] * 297 + ["small"] * 3
    X = adata.X.toarray()
    X[:297, 0] = 0
    X[297:, 0] = 5
    adata.X = sparse.csr_matrix(X)
    options = PrepareConfig(batch_key="batch", n_genes="all", small_datasets="drop")
    with ThreadEngine(2) as engine:
        found = prepare(tigon.open(adata), options, 10, engine)
    assert 0 not in found.genes
    np.testing.assert_array_equal(
        found.statistics.n_cells_detected[found.genes], (X[:297, found.genes] > 0).sum(axis=0)
    )


def test_genes_that_no_dataset_measures_are_left_out(adata) -> None:  # type: ignore[no-untyped-def]
    parts = [adata[:2000, :50].copy(), adata[2000:, 10:].copy()]
    atlas = tigon.open(parts, join="outer")
    options = PrepareConfig(batch_key="batch", n_genes="all")
    with ThreadEngine(2) as engine:
        found = prepare(atlas, options, 5, engine)
        assert set(atlas.var.index[found.genes]) == set(adata.var_names[10:50])
        listed = PrepareConfig(batch_key="batch", n_genes=[str(adata.var_names[3])])
        with pytest.raises(InputError, match="1 of 1 listed genes are measured by no dataset"):
            prepare(atlas, listed, 1, engine)


def test_names_that_a_run_cannot_store_are_refused_before_reading(adata) -> None:  # type: ignore[no-untyped-def]
    adata = adata[:40].copy()
    for names, said in (
        (["a/b", "a%2Fb"], "would have one name in a run"),
        (["x" * 300, "y"], "has 300 bytes"),
    ):
        adata.obs["batch"] = names * 20
        with pytest.raises(InputError, match=said):
            datasets_of(tigon.open(adata), "batch")
    adata.obs["u"], adata.obs["v"] = ["x|y", "x"] * 20, ["z", "y|z"] * 20
    assert len(set(datasets_of(tigon.open(adata), "u,v").names)) == 2
