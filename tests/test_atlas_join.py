"""Several sources become one atlas: genes, cells, names and the mask of what was measured."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from builders import dense, make_adata, make_counts, write_h5ad, write_tenx_h5
from hypothesis import given, settings
from hypothesis import strategies as st

from tigon.storage import Atlas, open_atlas, write_atlas
from tigon.storage.errors import InputError
from tigon.storage.join import unique_names
from tigon.storage.tables import stack, storable


def source(genes: list[str], *, prefix: str = "", seed: int = 0) -> anndata.AnnData:
    X = make_counts(12, len(genes), seed)
    return make_adata(X, prefix=prefix, genes=genes)


def read_all(atlas: Atlas) -> np.ndarray:
    return atlas.read(0, atlas.n_cells).to_scipy().toarray()


def expected(sources: list[anndata.AnnData], genes: list[str]) -> np.ndarray:
    frames = [pd.DataFrame(dense(each.X), columns=each.var_names) for each in sources]
    return np.concatenate([frame.reindex(columns=genes, fill_value=0) for frame in frames])


A, B = ["w", "x", "y", "z"], ["z", "q", "x"]


def test_inner_join_keeps_shared_genes_in_the_first_order() -> None:
    sources = [source(A, prefix="a"), source(B, prefix="b", seed=1)]
    atlas = open_atlas(sources)
    assert list(atlas.var.index) == ["x", "z"]
    assert atlas.measured.all()
    np.testing.assert_array_equal(read_all(atlas), expected(sources, ["x", "z"]))


def test_outer_join_remembers_what_was_measured() -> None:
    sources = [source(A, prefix="a"), source(B, prefix="b", seed=1)]
    atlas = open_atlas(sources, join="outer")
    assert list(atlas.var.index) == ["w", "x", "y", "z", "q"]
    assert atlas.measured.tolist() == [
        [True, True, True, True, False],
        [False, True, False, True, True],
    ]
    np.testing.assert_array_equal(read_all(atlas), expected(sources, [*A, "q"]))


@settings(max_examples=40, deadline=None)
@given(
    genes=st.lists(
        st.lists(st.sampled_from("abcdefgh"), min_size=1, unique=True), min_size=2, max_size=4
    ),
    cut=st.integers(0, 24),
)
def test_outer_join_of_any_genes(genes: list[list[str]], cut: int) -> None:
    sources = [source(each, prefix=str(i), seed=i) for i, each in enumerate(genes)]
    atlas = open_atlas(sources, join="outer")
    names = list(atlas.var.index)
    assert names == list(dict.fromkeys(gene for each in genes for gene in each))
    for each, measured in zip(genes, atlas.measured, strict=True):
        assert {name for name, m in zip(names, measured, strict=True) if m} == set(each)
    halves = [atlas.read(0, cut), atlas.read(cut, atlas.n_cells)]
    joined = np.concatenate([half.to_scipy().toarray() for half in halves])
    np.testing.assert_array_equal(joined, expected(sources, names))
    for half in halves:
        assert half.to_scipy().has_canonical_format


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=6), n=st.integers(1, 40))
def test_no_run_of_cells_has_more_entries_than_was_said(sizes: list[int], n: int) -> None:
    sources = [make_adata(make_counts(size, 9, i), prefix=f"{i}") for i, size in enumerate(sizes)]
    atlas = open_atlas(sources)
    lengths = np.diff(atlas.read(0, atlas.n_cells).indptr)
    fullest = max(lengths[i : i + n].sum() for i in range(len(lengths)))
    # Those of two parts at most are counted though the run has none of their fullest.
    assert fullest <= atlas.most_entries(n) <= 9 * min(sum(sizes), n + max(sizes))


def test_many_sources_take_no_more_memory_than_one() -> None:
    one = open_atlas([make_adata(make_counts(60, 9, 0))])
    many = open_atlas([make_adata(make_counts(60, 9, i), prefix=f"{i}-") for i in range(20)])
    assert many.most_entries(30) <= 2 * one.most_entries(30) + 60


def test_cells_know_their_source(tmp_path: Path) -> None:
    paths = [
        write_h5ad(source(A, prefix=name), tmp_path / f"{name}.h5ad") for name in ("ctrl", "stim")
    ]
    with open_atlas([str(path) for path in paths]) as atlas:
        assert atlas.source_names == ["ctrl", "stim"]
        assert atlas.source_codes.dtype == np.int32
        assert atlas.source_codes.tolist() == [0] * 12 + [1] * 12
        assert list(atlas.obs["tigon_dataset"]) == ["ctrl"] * 12 + ["stim"] * 12
        assert atlas.obs["tigon_dataset"].dtype == "category"
        assert atlas.path is None
        assert atlas.n_nonzeros is None


def test_files_of_the_same_name_are_told_apart_by_folder(tmp_path: Path) -> None:
    paths = []
    for name in ("s1", "s2"):
        (tmp_path / name).mkdir()
        paths.append(write_tenx_h5(source(A, prefix=name), tmp_path / name / "counts.h5"))
    with open_atlas(paths) as atlas:
        assert atlas.source_names == ["s1-counts", "s2-counts"]


def test_genes_are_matched_by_identifier() -> None:
    first, second = source(A, prefix="a"), source(["W", "Z", "Y"], prefix="b", seed=1)
    second.var["gene_ids"] = ["ENSw", "ENSz", "ENSy"]
    atlas = open_atlas([first, second], gene_id_column="gene_ids")
    assert list(atlas.var.index) == ["w", "y", "z"]
    assert list(atlas.var["gene_ids"]) == ["ENSw", "ENSy", "ENSz"]
    second.var_names = ["w", "z", "y"]
    np.testing.assert_array_equal(read_all(atlas), expected([first, second], ["w", "y", "z"]))


def test_repeated_names_are_numbered_where_identifiers_differ(
    caplog: pytest.LogCaptureFixture,
) -> None:
    adata = source(A)
    adata.var = pd.DataFrame({"gene_ids": list("1234")}, index=["w", "x", "x", "x-1"])
    with caplog.at_level(logging.WARNING, "tigon"):
        atlas = open_atlas(adata, gene_id_column="gene_ids")
    assert list(atlas.var.index) == ["w", "x", "x-2", "x-1"]
    assert "share a name" in caplog.text


def test_repeated_cell_names_are_made_unique_by_source(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tigon"):
        atlas = open_atlas([source(A), source(A, seed=1)])
    assert atlas.obs.index[0] == "cell0-adata0"
    assert atlas.obs.index[12] == "cell0-adata1"
    assert atlas.obs.index.is_unique
    assert "12 cell names appear more than once" in caplog.text


def test_cell_names_repeated_in_one_source_are_numbered() -> None:
    adata = source(A)
    adata.obs = pd.DataFrame(index=["c", "c", "d", *(f"e{i}" for i in range(9))])
    assert list(open_atlas(adata).obs.index[:3]) == ["c", "c-1", "d"]


def test_columns_of_all_sources_are_kept() -> None:
    first, second = source(A, prefix="a"), source(A, prefix="b")
    first.obs["donor"] = pd.Categorical(["d1", "d2"] * 6)
    first.obs["passed"] = [True, False] * 6
    second.obs["age"] = np.arange(12)
    second.obs["batch"] = pd.Categorical(["b9"] * 12)
    obs = open_atlas([first, second]).obs
    assert list(obs["batch"]) == [*first.obs["batch"], *second.obs["batch"]]
    assert obs["batch"].dtype == "category"
    assert list(obs["n"]) == [*range(12), *range(12)]
    assert obs["n"].dtype == np.int64
    assert list(obs["donor"][:12]) == ["d1", "d2"] * 6
    assert obs["donor"][12:].isna().all()
    assert obs["passed"][12:].isna().all()
    assert list(obs["passed"][:12]) == [True, False] * 6
    assert obs["age"][:12].isna().all()
    assert list(obs["age"][12:]) == list(range(12))


def test_an_earlier_dataset_column_is_replaced_with_a_notice(
    caplog: pytest.LogCaptureFixture,
) -> None:
    adata = source(A)
    adata.obs["tigon_dataset"] = "mine"
    with caplog.at_level(logging.WARNING, "tigon"):
        atlas = open_atlas(adata)
    assert set(atlas.obs["tigon_dataset"]) == {"adata0"}
    assert "rename it to keep it" in caplog.text


def test_atlases_are_joined_with_their_masks(tmp_path: Path) -> None:
    parts = [source(A, prefix="a"), source(B, prefix="b", seed=1)]
    written = write_atlas(open_atlas(parts, join="outer"), tmp_path / "ab.zarr")
    third = source(["w", "q", "n"], prefix="c", seed=2)
    with open_atlas([written.path, third], join="outer") as atlas:
        assert atlas.source_names == ["adata0", "adata1", "adata1-1"]
        assert atlas.measured.astype(int).tolist() == [
            [1, 1, 1, 1, 0, 0],
            [0, 1, 0, 1, 1, 0],
            [1, 0, 0, 0, 1, 1],
        ]
        genes = list(atlas.var.index)
        np.testing.assert_array_equal(read_all(atlas), expected([*parts, third], genes))
        names = ["adata0"] * 12 + ["adata1"] * 12 + ["adata1-1"] * 12
        assert list(atlas.obs["tigon_dataset"]) == names


def test_a_lost_file_of_a_joined_atlas_is_refused(tmp_path: Path) -> None:
    for name, genes in (("a", A), ("b", B)):
        atlas = open_atlas(source(genes, prefix=name))
        write_atlas(atlas, tmp_path / f"{name}.zarr", chunk_nonzeros=4, shard_chunks=2).close()
    with open_atlas([tmp_path / "a.zarr", tmp_path / "b.zarr"]) as atlas:
        atlas.read(0, atlas.n_cells)
    (tmp_path / "b.zarr/X/data/c/1").unlink()
    with (
        open_atlas([tmp_path / "a.zarr", tmp_path / "b.zarr"]) as atlas,
        pytest.raises(InputError, match=r"b\.zarr: counts of cells .* are lost"),
    ):
        atlas.read(0, atlas.n_cells)


@pytest.mark.parametrize(
    "lost", ["uns/tigon/measured", "uns/tigon/source_names", "obs/tigon_dataset/codes"]
)
def test_lost_labels_are_refused(tmp_path: Path, lost: str) -> None:
    path = tmp_path / "a.zarr"
    write_atlas(open_atlas([source(A, prefix="a"), source(B, prefix="b")]), path).close()
    shutil.rmtree(path / lost / "c")
    with pytest.raises(InputError, match=rf"a\.zarr: {lost} is lost"):
        open_atlas(path)


def test_labels_of_other_genes_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.zarr"
    write_atlas(open_atlas([source(A, prefix="a"), source(B, prefix="b")]), path).close()
    place = path / "X/zarr.json"
    described = json.loads(place.read_text())
    described["attributes"]["shape"][1] += 1
    place.write_text(json.dumps(described))
    # The description of all groups, which is read first, is of the store as it was.
    whole = json.loads((path / "zarr.json").read_text())
    whole["consolidated_metadata"]["metadata"]["X"] = described
    (path / "zarr.json").write_text(json.dumps(whole))
    with pytest.raises(InputError, match="measured has shape"):
        open_atlas(path)


def refusal(sources: list[anndata.AnnData], gene_id_column: str | None = None) -> str:
    with pytest.raises(InputError) as caught:
        open_atlas(sources, gene_id_column=gene_id_column)
    return str(caught.value)


def test_duplicate_gene_names_are_counted_and_named() -> None:
    adata = source(A)
    adata.var = pd.DataFrame({"gene_ids": list("1234")}, index=["x", "y", "x", "y"])
    message = refusal([adata])
    assert "adata0: 2 gene names appear more than once (x, y)" in message
    assert "--gene-id-column (gene_ids)" in message


def test_duplicate_identifiers_are_refused_too() -> None:
    adata = source(A)
    adata.var["gene_ids"] = ["1", "1", "2", "3"]
    assert "1 gene values of gene_ids appear more than once (1)" in refusal([adata], "gene_ids")


def test_no_shared_genes_shows_an_example_of_each() -> None:
    message = refusal([source(["CD3E", "CD4"]), source(["ENSG1", "ENSG2"])])
    assert "adata0 has CD3E, ...; adata1 has ENSG1, ..." in message


def test_an_identifier_column_that_is_absent_or_has_gaps() -> None:
    adata = source(A)
    assert "no gene column 'ids': its columns are gene_ids" in refusal([adata], "ids")
    adata.var["gene_ids"] = ["1", None, "2", "3"]
    assert "1 genes have no gene_ids" in refusal([adata], "gene_ids")


def test_an_unknown_join() -> None:
    with pytest.raises(InputError, match="'inner' or 'outer'"):
        open_atlas([source(A)], join="left")  # type: ignore[arg-type]


@given(st.lists(st.sampled_from(["a", "b", "a-1", "a-2", "a-1-1"]), max_size=8))
def test_unique_names_are_unique_and_keep_the_first(names: list[str]) -> None:
    unique = unique_names(names)
    assert len(set(unique)) == len(names)
    for number, name in enumerate(names):
        assert unique[number].startswith(name)
        if name not in names[:number]:
            assert unique[number] == name


def test_stacking_finds_the_narrowest_common_type() -> None:
    first = pd.DataFrame({"i": [1, 2], "f": [1, 2], "t": [1, 2], "b": [True, False]})
    second = pd.DataFrame({"i": [3], "f": [0.5], "t": ["x"], "b": [True]})
    stacked = stack([first, second])
    assert [str(dtype) for dtype in stacked.dtypes] == ["int64", "float64", "category", "bool"]
    assert list(stacked["t"]) == ["1", "2", "x"]


def test_storable_columns() -> None:
    table = pd.DataFrame(
        {
            "mixed": [1, "a", None],
            "text": ["u", "v", "w"],
            "day": pd.to_datetime(["2024-01-01", "2024-01-02", None]),
            "gaps": pd.array([1.5, None, 2], dtype="Float64"),
            "narrow": pd.array([1.5, None, 2], dtype="Float32"),
            7: [1, 2, 3],
        }
    )
    stored = storable(table)
    assert list(stored.columns) == ["mixed", "text", "day", "gaps", "narrow", "7"]
    assert list(stored["mixed"].cat.categories) == ["1", "a"]
    assert list(stored["text"]) == ["u", "v", "w"]
    assert stored["day"].isna().tolist() == [False, False, True]
    for name in ("gaps", "narrow"):
        assert stored[name].dtype == np.float64
        np.testing.assert_array_equal(stored[name], [1.5, np.nan, 2])
    assert list(stored.index) == ["0", "1", "2"]
