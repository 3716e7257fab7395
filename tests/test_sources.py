"""Every format reads as the same cells, however they are split into runs."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
from builders import (
    dense,
    make_adata,
    make_counts,
    write_h5ad,
    write_tenx_h5,
    write_tenx_mtx,
    write_zarr,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from range_server import serve
from scipy import sparse

from tigon.storage import Atlas, open_atlas
from tigon.storage.block import Block
from tigon.storage.sources.matrices import transpose


def as_csc(adata: anndata.AnnData) -> anndata.AnnData:
    return with_X(adata, sparse.csc_matrix(adata.X))


def as_dense(adata: anndata.AnnData) -> anndata.AnnData:
    return with_X(adata, dense(adata.X).astype(np.float32))


def with_X(adata: anndata.AnnData, X: Any) -> anndata.AnnData:
    return anndata.AnnData(X, obs=adata.obs, var=adata.var)


Writer = Callable[[anndata.AnnData, Path], Any]
FORMATS: dict[str, Writer] = {
    "memory-csr": lambda adata, _: adata,
    "memory-csc": lambda adata, _: as_csc(adata),
    "memory-dense": lambda adata, _: as_dense(adata),
    "h5ad-csr": lambda adata, t: write_h5ad(adata, t / "a.h5ad"),
    "h5ad-csc": lambda adata, t: write_h5ad(as_csc(adata), t / "a.h5ad"),
    "h5ad-dense": lambda adata, t: write_h5ad(as_dense(adata), t / "a.h5ad"),
    "zarr3-csr": lambda adata, t: write_zarr(adata, t / "a.zarr"),
    "zarr3-csc": lambda adata, t: write_zarr(as_csc(adata), t / "a.zarr"),
    "zarr3-dense": lambda adata, t: write_zarr(as_dense(adata), t / "a.zarr"),
    "zarr2-csr": lambda adata, t: write_zarr(adata, t / "a.zarr", 2),
    "zarr2-csc": lambda adata, t: write_zarr(as_csc(adata), t / "a.zarr", 2),
    "zarr2-dense": lambda adata, t: write_zarr(as_dense(adata), t / "a.zarr", 2),
    "10x-h5-v3": lambda adata, t: write_tenx_h5(adata, t / "a.h5"),
    "10x-h5-v2": lambda adata, t: write_tenx_h5(adata, t / "a.h5", version=2),
    "10x-mtx": lambda adata, t: write_tenx_mtx(adata, t / "a"),
    "10x-mtx-plain-old": lambda adata, t: write_tenx_mtx(adata, t / "a", zipped=False, old=True),
    "10x-mtx-real": lambda adata, t: write_tenx_mtx(adata, t / "a", kind="real"),
}


def read_all(atlas: Atlas) -> np.ndarray:
    return atlas.read(0, atlas.n_cells).to_scipy().toarray()


def n_bytes(block: Block) -> int:
    return block.indptr.nbytes + block.indices.nbytes + block.values.nbytes


@pytest.fixture(params=FORMATS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return FORMATS[request.param](make_adata(), tmp_path)


def test_every_format_reads_the_same(target: Any) -> None:
    adata = make_adata()
    with open_atlas(target) as atlas:
        assert atlas.shape == adata.shape
        np.testing.assert_array_equal(read_all(atlas), dense(adata.X))
        assert list(atlas.obs.index) == list(adata.obs_names)
        assert list(atlas.var.index) == list(adata.var_names)
        assert list(atlas.var["gene_ids"]) == list(adata.var["gene_ids"])
        assert atlas.measured.all()


def test_blocks_keep_their_promises(target: Any) -> None:
    with open_atlas(target) as atlas:
        block = atlas.read(3, 40)
        assert n_bytes(block) <= atlas.estimate_block_bytes(37)
    assert block.start == 3
    assert block.n_cells == 37
    assert block.indptr.dtype == np.int64
    assert block.indptr[0] == 0
    assert block.indices.dtype == np.uint16
    assert block.values.dtype == atlas.values_dtype == np.uint32
    assert (block.values > 0).all()
    for first, last in pairwise(block.indptr):
        assert (np.diff(block.indices[first:last].astype(int)) > 0).all()


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=8), kind=st.sampled_from(["csr", "dense"]))
def test_any_split_reads_the_same(cuts: list[int], kind: str) -> None:
    adata = make_adata() if kind == "csr" else as_dense(make_adata())
    with open_atlas(adata) as atlas:
        edges = sorted({0, 60, *cuts})
        blocks = [atlas.read(start, stop) for start, stop in pairwise(edges)]
    joined = sparse.vstack([block.to_scipy() for block in blocks]).toarray()
    np.testing.assert_array_equal(joined, dense(adata.X))


@pytest.mark.parametrize("kind", ["memory-csr", "memory-dense", "h5ad-dense", "zarr3-dense"])
def test_an_empty_run_is_an_empty_block(kind: str, tmp_path: Path) -> None:
    with open_atlas(FORMATS[kind](make_adata(), tmp_path)) as atlas:
        blocks = [atlas.read(cell, cell) for cell in (0, 7, 60)]
    assert [block.n_cells for block in blocks] == [0, 0, 0]
    assert [len(block.values) for block in blocks] == [0, 0, 0]


def test_reading_outside_is_refused() -> None:
    with pytest.raises(ValueError, match="there are 60"):
        open_atlas(make_adata()).read(50, 61)


def test_threads_read_at_once(target: Any) -> None:
    expected = dense(make_adata().X)
    with open_atlas(target) as atlas, ThreadPoolExecutor(8) as pool:
        blocks = list(pool.map(lambda start: atlas.read(start, start + 10), [0, 10, 20, 30] * 5))
    for block in blocks:
        rows = expected[block.start : block.start + 10]
        np.testing.assert_array_equal(block.to_scipy().toarray(), rows)


def test_estimates_bound_every_run() -> None:
    X = make_counts(3000, 20)
    atlas = open_atlas(make_adata(X))
    for n_cells in (1, 64, 1024, 2500):
        bound = atlas.estimate_block_bytes(n_cells)
        starts = range(0, 3000 - n_cells + 1, 97)
        assert max(n_bytes(atlas.read(s, s + n_cells)) for s in starts) <= bound
    # A bound by the whole matrix would always hold, and help nobody.
    assert atlas.estimate_block_bytes(64) < atlas.estimate_block_bytes(3000) / 8


def test_a_layer_and_raw(tmp_path: Path) -> None:
    whole = make_adata()
    adata = anndata.AnnData(whole.X[:, 3:] * 0.5, obs=whole.obs, var=whole.var.iloc[3:])
    adata.layers["counts"] = whole.X[:, 3:]
    adata.raw = whole
    for target in (
        adata,
        write_h5ad(adata, tmp_path / "a.h5ad"),
        write_zarr(adata, tmp_path / "z"),
    ):
        with open_atlas(target, layer="counts") as atlas:
            np.testing.assert_array_equal(read_all(atlas), dense(make_adata().X)[:, 3:])
        with open_atlas(target, raw=True) as atlas:
            np.testing.assert_array_equal(read_all(atlas), dense(make_adata().X))
            assert list(atlas.var.index) == list(make_adata().var_names)


def test_unsorted_repeated_and_zero_entries_are_put_in_order(tmp_path: Path) -> None:
    path = write_h5ad(make_adata(make_counts(3, 6)), tmp_path / "a.h5ad")
    indptr, indices = [0, 4, 4, 7], [5, 1, 1, 0, 2, 3, 0]
    values = [7, 2, 3, 0, 1, 1, 9]
    with h5py.File(path, "r+") as file:
        for name, array in (("indptr", indptr), ("indices", indices), ("data", values)):
            kind = file["X"][name].dtype
            del file["X"][name]
            file["X"][name] = np.array(array, dtype=kind)
    with open_atlas(path) as atlas:
        block = atlas.read(0, 3)
    assert block.indptr.tolist() == [0, 2, 2, 5]
    assert block.indices.tolist() == [1, 5, 0, 2, 3]
    assert block.values.tolist() == [5, 7, 9, 1, 1]


def test_a_float_matrix_of_large_counts_is_exact(tmp_path: Path) -> None:
    X = np.array([[0, 2**24, 108_206], [2**32 - 256, 1, 0]], dtype=np.float32)
    with open_atlas(write_h5ad(make_adata(X), tmp_path / "a.h5ad")) as atlas:
        assert atlas.read(0, 2).values.tolist() == [2**24, 108_206, 2**32 - 256, 1]


def test_non_integers_where_allowed() -> None:
    X = sparse.csr_matrix(np.array([[0.5, 0], [2, 1.25]], dtype=np.float64))
    with open_atlas(make_adata(X), allow_non_integer=True) as atlas:
        block = atlas.read(0, 2)
    assert atlas.values_dtype == block.values.dtype == np.float32
    assert block.values.tolist() == [0.5, 2, 1.25]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_])
def test_narrow_counts_stay_narrow(dtype: type) -> None:
    atlas = open_atlas(make_adata(sparse.csr_matrix(np.eye(4, dtype=dtype))))
    assert atlas.values_dtype == atlas.read(0, 4).values.dtype == np.uint16


def test_other_feature_types_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    types = ["Gene Expression", "Antibody Capture"] * 12 + ["Gene Expression"]
    path = write_tenx_h5(make_adata(), tmp_path / "a.h5", types=types)
    with caplog.at_level(logging.WARNING, "tigon"), open_atlas(path) as atlas:
        assert atlas.n_genes == 13
        np.testing.assert_array_equal(read_all(atlas), dense(make_adata().X)[:, ::2])
    assert "13 of 25 features are genes; those of type Antibody Capture" in caplog.text


def test_a_prefixed_10x_directory_and_its_matrix_file(tmp_path: Path) -> None:
    folder = write_tenx_mtx(make_adata(), tmp_path / "GSM1")
    for path in list(folder.iterdir()):
        path.rename(path.with_name(f"GSM1_{path.name}"))
    for target in (folder, folder / "GSM1_matrix.mtx.gz"):
        with open_atlas(target) as atlas:
            np.testing.assert_array_equal(read_all(atlas), dense(make_adata().X))


@pytest.mark.parametrize("name", ["h5ad-csc", "zarr3-csc", "10x-mtx"])
def test_conversion_in_many_buckets_and_pieces(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transpose, "_BUCKET_ENTRIES", 37)
    for module in ("matrices.transpose", "matrices.csc", "tenx_mtx"):
        monkeypatch.setattr(f"tigon.storage.sources.{module}.PIECE_ENTRIES", 23)
    scratch = tmp_path / "scratch"
    with open_atlas(FORMATS[name](make_adata(), tmp_path), scratch=scratch) as atlas:
        assert [path.name[:14] for path in scratch.iterdir()] == ["tigon-scratch-"]
        np.testing.assert_array_equal(read_all(atlas), dense(make_adata().X))
    assert list(scratch.iterdir()) == []


def test_tall_chunks_of_a_dense_matrix(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    as_dense(make_adata()).write_h5ad(path)
    with h5py.File(path, "r+") as file:
        X, attributes = file["X"][:], dict(file["X"].attrs)
        del file["X"]
        file.create_dataset("X", data=X, chunks=(60, 1), compression="gzip").attrs.update(
            attributes
        )
    with open_atlas(path) as atlas:
        parts = [atlas.read(start, start + 20).to_scipy().toarray() for start in (0, 20, 40)]
    np.testing.assert_array_equal(np.concatenate(parts), X)


def test_files_are_left_as_they_were(tmp_path: Path) -> None:
    path = write_h5ad(as_csc(make_adata()), tmp_path / "a.h5ad")
    before = path.read_bytes()
    with open_atlas(path) as atlas:
        read_all(atlas)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_url_reads_the_same(tmp_path: Path) -> None:
    write_zarr(make_adata(), tmp_path / "a.zarr")
    with serve(tmp_path) as url, open_atlas(f"{url}/a.zarr") as atlas:
        assert atlas.path == f"{url}/a.zarr"
        assert atlas.source_names == ["a"]
        assert list(atlas.obs["batch"]) == list(make_adata().obs["batch"])
        np.testing.assert_array_equal(read_all(atlas), dense(make_adata().X))


@pytest.mark.data
@pytest.mark.parametrize("name", ["kang_pbmc_stim", "adtnorm_13studies_422k"])
def test_real_files_read_as_anndata_reads_them(shared_data: Path, name: str) -> None:
    path = shared_data / f"{name}.h5ad"
    X = anndata.read_h5ad(path).X
    with open_atlas(path) as atlas:
        start = atlas.n_cells // 2
        block = atlas.read(start, start + 1000).to_scipy()
    np.testing.assert_array_equal(block.toarray(), dense(X[start : start + 1000]))
