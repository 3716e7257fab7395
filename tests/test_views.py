"""An atlas as AnnData and as columns, against what anndata reads of the same files."""

from __future__ import annotations

import shutil
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from builders import dense, make_adata, make_counts, write_h5ad, write_zarr
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import sparse

from tigon.storage import Atlas, open_atlas, write_atlas
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.views import gathering
from tigon.storage.views.growing import GrowingArray
from tigon.storage.views.lazy_array import view_of

N_CELLS, N_GENES = 3000, 40


def make_source() -> anndata.AnnData:
    counts = sparse.random(N_CELLS, N_GENES, 0.3, "csr", rng=np.random.default_rng(1))
    counts.data = np.ceil(counts.data * 30).astype(np.float32)
    adata = make_adata(counts)
    kinds = pd.Categorical([f"k{i % 7}" if i % 5 else None for i in range(N_CELLS)])
    adata.obs["kind"] = kinds
    adata.obs["a/b"] = np.arange(N_CELLS) % 2 == 0
    return adata


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("views") / "atlas.zarr"
    write_atlas(open_atlas(make_source()), path, chunk_nonzeros=512, shard_chunks=8).close()
    return path


@pytest.fixture(scope="module")
def atlas(path: Path) -> Iterator[Atlas]:
    with open_atlas(path) as atlas:
        yield atlas


@pytest.fixture(scope="module")
def whole(path: Path) -> anndata.AnnData:
    adata = anndata.read_zarr(path)
    adata.X = adata.X.astype(np.float32)  # SciPy cannot take every slice of uint16
    return adata


def check_same(found: anndata.AnnData, expected: anndata.AnnData) -> None:
    expected = expected.copy()  # as AnnData, without categories that are gone
    assert isinstance(found.X, sparse.csr_matrix)
    assert found.X.dtype == np.float32
    assert found.X.indices.dtype == np.int32
    assert found.X.has_canonical_format
    np.testing.assert_array_equal(dense(found.X), dense(expected.X))
    pd.testing.assert_frame_equal(found.obs, expected.obs)
    pd.testing.assert_frame_equal(found.var, expected.var)


def test_the_whole_atlas_is_what_anndata_reads(atlas: Atlas, whole: anndata.AnnData) -> None:
    found = atlas.to_anndata()
    check_same(found, whole)
    np.testing.assert_array_equal(found.uns["tigon"]["measured"], whole.uns["tigon"]["measured"])
    assert list(found.uns["tigon"]["source_names"]) == ["adata0"]


RNG = np.random.default_rng(3)
SHUFFLED = RNG.permutation(N_CELLS)[:400]
MASK = RNG.random(N_CELLS) < 0.1


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(SHUFFLED, id="positions in any order"),
        pytest.param(MASK, id="mask"),
        pytest.param(pd.Series(MASK, index=[f"cell{i}" for i in range(N_CELLS)]), id="series"),
        pytest.param([f"cell{i}" for i in SHUFFLED[:50]], id="names"),
        pytest.param(np.array(["cell7", "cell3"]), id="names of NumPy"),
        pytest.param(pd.Index(["cell7", "cell3"], dtype="string"), id="names of pandas"),
        pytest.param(slice(10, 900, 3), id="slice"),
        pytest.param(slice(None, None, -1), id="backwards"),
        pytest.param([N_CELLS - 1], id="one"),
    ],
)
@pytest.mark.parametrize(
    "genes", [None, ["gene5", "gene2"], np.arange(N_GENES) % 3 == 0, [39, 0, 17]]
)
def test_subsets_are_what_anndata_gives(
    atlas: Atlas, whole: anndata.AnnData, cells: Any, genes: Any
) -> None:
    columns = slice(None) if genes is None else genes
    rows = cells.to_numpy() if isinstance(cells, pd.Series) else cells
    check_same(atlas.to_anndata(cells, genes), whole[rows, columns])


def test_one_name_is_one_cell(atlas: Atlas, whole: anndata.AnnData) -> None:
    check_same(atlas.to_anndata("cell8", "gene1"), whole[["cell8"], ["gene1"]])


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_cells_and_genes(atlas: Atlas, whole: anndata.AnnData, data: st.DataObject) -> None:
    cells = data.draw(st.lists(st.integers(0, N_CELLS - 1), min_size=1, max_size=30, unique=True))
    genes = data.draw(st.lists(st.integers(0, N_GENES - 1), min_size=1, max_size=30, unique=True))
    found = atlas.to_anndata(cells, genes, dtype=None)
    assert found.X.dtype == atlas.values_dtype == np.uint16
    np.testing.assert_array_equal(dense(found.X), dense(whole.X)[np.ix_(cells, genes)])


def test_products_of_the_default_type_do_not_overflow(atlas: Atlas) -> None:
    X = atlas.to_anndata().X
    exact = dense(X).T @ dense(X)
    assert exact.max() > np.iinfo(np.uint16).max
    np.testing.assert_array_equal((X.T @ X).toarray(), exact)


def test_counts_that_float32_cannot_tell_apart_are_refused() -> None:
    X = np.zeros((2, 3))
    X[1, 2] = 2**24 + 1
    with open_atlas(make_adata(sparse.csr_matrix(X))) as atlas:
        with pytest.raises(InputError, match=r"16,777,217 cannot be given as float32"):
            atlas.to_anndata()
        for dtype in (None, "float64"):
            assert atlas.to_anndata(dtype=dtype).X[1, 2] == 2**24 + 1
        assert atlas.to_anndata(cells=[0]).X.nnz == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cells": [1, 2, 1]}, "cell 1 is asked for 2 times"),
        ({"cells": [N_CELLS]}, "cell 3000 is asked for: positions are 0 to 2,999"),
        ({"cells": [-1]}, "cell -1 is asked for"),
        ({"cells": ["cell1", "nobody"]}, "1 of 2 cells are not in the atlas .*'nobody'"),
        ({"genes": ["nothing"]}, "not in the atlas .*atlas.var.index"),
        ({"cells": []}, "no cell is asked for"),
        ({"cells": np.zeros(N_CELLS, bool)}, "no cell is asked for"),
        ({"genes": np.ones(3, bool)}, "the mask has 3 genes: there are 40"),
        ({"cells": [0.5]}, "of type float64"),
        ({"cells": [[1, 2]]}, r"shape \(1, 2\)"),
        ({"dtype": "uint8"}, "dtype is uint8: counts are given as float32"),
    ],
)
@pytest.mark.parametrize("backed", [False, True])
def test_what_is_not_there_is_refused(
    atlas: Atlas, options: dict[str, Any], message: str, backed: bool
) -> None:
    with pytest.raises(InputError, match=message):
        atlas.to_anndata(**options, backed=backed)


def test_what_does_not_fit_is_refused_before_it_is_read(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[Any] = []
    with open_atlas(path) as atlas:
        monkeypatch.setattr(Atlas, "read_runs", lambda self, runs: reads.append(runs))
        view = view_of(atlas, None, None, np.float32)
        exact = round(gathering.Cost.of(atlas, view).total(atlas.n_nonzeros or 0))
        with pytest.raises(MemoryLimitError, match=r"3,000 cells x 40 genes take \d+ MiB.*limit"):
            atlas.to_anndata(memory_limit=exact - 1)
        with pytest.raises(MemoryLimitError, match=r"2,000 cells x 40 genes take about"):
            atlas.to_anndata(range(2000), memory_limit=exact // 2)
        with pytest.raises(AttributeError):  # of what stands for reading
            atlas.to_anndata(memory_limit=exact)
    assert len(reads) == 1


def test_a_memory_limit_in_words_is_refused(atlas: Atlas) -> None:
    with pytest.raises(InputError, match=r"memory_limit='2GiB': here it is a number of bytes"):
        atlas.to_anndata(memory_limit="2GiB")  # type: ignore[arg-type]


def test_what_turns_out_not_to_fit_is_refused(path: Path) -> None:
    """How many counts genes have is not known before they are read."""
    genes = np.arange(20)
    with open_atlas(path) as atlas:
        cost = gathering.Cost.of(atlas, view_of(atlas, None, genes, np.float32))
        n = atlas.to_anndata(genes=genes).X.nnz
        assert atlas.to_anndata(genes=genes, memory_limit=round(cost.total(n))).X.nnz == n
        for memory_limit in (round(cost.total(n)) - 1, cost.fixed_bytes):
            with pytest.raises(MemoryLimitError, match="20 genes take about"):
                atlas.to_anndata(genes=genes, memory_limit=memory_limit)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="all"),
        pytest.param({"genes": range(0, 500, 9)}, id="few genes"),
        pytest.param({"genes": range(499, -1, -1)}, id="genes in another order"),
        pytest.param({"cells": RNG.permutation(12_000)[:3000]}, id="few cells"),
    ],
)
def test_memory_is_what_was_foreseen(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gathering, "_PIECE_BYTES", 4 << 20)
    counts = sparse.random(12_000, 500, 0.15, "csr", rng=np.random.default_rng(0))
    counts.data = np.ceil(counts.data * 5)
    with write_atlas(open_atlas(make_adata(counts)), tmp_path / "a.zarr") as atlas:
        atlas.to_anndata([0])  # what is loaded and kept from first use on
        tracemalloc.start()
        try:
            found = atlas.to_anndata(**options)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        view = view_of(atlas, options.get("cells"), options.get("genes"), np.float32)
        cost = gathering.Cost.of(atlas, view)
        assert cost.piece_cells < atlas.n_cells
        tables = 1 << 20
        assert found.X.nnz * 8 < peak < cost.total(found.X.nnz) + tables


def test_other_sources_have_the_same_view(tmp_path: Path) -> None:
    adata = make_source()
    del adata.obs["a/b"]
    for source in (
        adata,
        write_h5ad(adata, tmp_path / "a.h5ad"),
        write_zarr(adata, tmp_path / "a.zarr"),
    ):
        with open_atlas(source) as atlas:
            found = atlas.to_anndata(MASK, ["gene5", "gene2"])
            np.testing.assert_array_equal(dense(found.X), dense(adata[MASK, ["gene5", "gene2"]].X))
            assert list(found.obs["kind"].dropna()) == list(adata.obs["kind"][MASK].dropna())
            assert list(atlas.obs_columns["n"]) == list(range(N_CELLS))


def test_a_source_without_a_gene_is_told_from_zeros() -> None:
    first, second = (make_adata(make_counts(20, 4, i), prefix=f"{i}") for i in range(2))
    second.var_names = ["gene0", "x", "gene2", "y"]
    with open_atlas([first, second], join="outer") as atlas:
        found = atlas.to_anndata(genes=["x", "gene0"])
        assert found.uns["tigon"]["measured"].tolist() == [[False, True], [True, True]]


def test_progress_is_told(atlas: Atlas) -> None:
    told: list[tuple[str, int, int]] = []
    atlas.to_anndata(progress=lambda stage, done, total: told.append((stage, done, total)))
    assert told[-1] == ("reading cells", N_CELLS, N_CELLS)


def test_columns_are_those_of_the_table(atlas: Atlas) -> None:
    for columns, table in ((atlas.obs_columns, atlas.obs), (atlas.var_columns, atlas.var)):
        assert list(columns) == list(table.columns)
        assert len(columns) == table.shape[1]
        assert columns.index.equals(table.index)
        for name in columns:
            pd.testing.assert_series_equal(columns[name], table[name])
    assert list(atlas.obs_columns["a/b"]) == list(atlas.obs["a%2Fb"])


def test_a_column_is_read_without_the_others(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.zarr"
    shutil.copytree(path, copy)
    for name in ("depth", "batch/codes"):
        for chunk in (copy / "obs" / name / "c").iterdir():
            chunk.write_bytes(b"damaged")
    with open_atlas(copy) as atlas:
        assert list(atlas.obs_columns["n"]) == list(range(N_CELLS))
        with pytest.raises(InputError, match=r"obs: the column depth cannot be read"):
            atlas.obs_columns["depth"]


def test_a_column_that_is_not_there(atlas: Atlas) -> None:
    with pytest.raises(InputError, match=r"no column 'kin': the columns are batch, depth"):
        atlas.obs_columns["kin"]
    assert "kin" not in atlas.obs_columns
    assert "kind" in atlas.obs_columns


def test_growing_keeps_what_was_appended() -> None:
    pieces = [np.arange(n, dtype=np.int64) for n in (0, 3, 900_000, 1, 700_000, 2_000_000)]
    grown = GrowingArray(np.dtype(np.int32))
    for piece in pieces:
        grown.append(piece)
    found = grown.finish()
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, np.concatenate(pieces))


def test_columns_of_the_network_profile_come_without_a_warning(
    path: Path, whole: anndata.AnnData, tmp_path: Path
) -> None:
    with open_atlas(path) as source:
        write_atlas(source, tmp_path / "a.zarr", profile="network").close()
    with open_atlas(tmp_path / "a.zarr") as atlas:  # warnings are errors here
        column = next(iter(atlas.obs_columns))
        pd.testing.assert_series_equal(atlas.obs_columns[column], whole.obs[column])
