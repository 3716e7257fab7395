"""An atlas on disk: the same counts, AnnData's encoding, checksums, whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from builders import dense, make_adata, make_counts, write_h5ad, write_tenx_mtx
from hypothesis import given, settings
from hypothesis import strategies as st
from range_server import serve
from scipy import sparse
from zarr.codecs import ShardingCodec

from tigon.storage import Atlas, open_atlas, write_atlas
from tigon.storage.block import Block
from tigon.storage.errors import InputError, OutputExistsError, TigonError


def read_all(atlas: Atlas) -> np.ndarray:
    return atlas.read(0, atlas.n_cells).to_scipy().toarray()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def zarr_array(path: Path, name: str) -> zarr.Array[Any]:
    array = zarr.open_group(str(path), mode="r")[name]
    assert isinstance(array, zarr.Array)
    return array


class Failing(Atlas):
    """An atlas that fails after some cells."""

    def __init__(self, atlas: Atlas, error: BaseException) -> None:
        self.__dict__.update(atlas.__dict__)
        self._error = error

    def estimate_block_bytes(self, n_cells: int) -> int:
        return n_cells * (16 << 20)  # so that blocks are small

    def read(self, start: int, stop: int) -> Block:
        if start >= 20:
            raise self._error
        return super().read(start, stop)


def test_counts_and_tables_come_back(tmp_path: Path) -> None:
    adata = make_adata()
    atlas = write_atlas(open_atlas(adata), tmp_path / "a.zarr")
    np.testing.assert_array_equal(read_all(atlas), dense(adata.X))
    assert atlas.path == str(tmp_path / "a.zarr")
    assert atlas.n_nonzeros == adata.X.nnz
    assert atlas.values_dtype == np.uint16
    assert names(tmp_path) == ["a.zarr"]
    pd.testing.assert_frame_equal(
        atlas.obs.drop(columns="tigon_dataset"), adata.obs, check_index_type=False
    )
    assert list(atlas.var["gene_ids"]) == list(adata.var["gene_ids"])


def test_anndata_reads_the_store(tmp_path: Path) -> None:
    adata = make_adata()
    write_atlas(open_atlas(adata), tmp_path / "a.zarr", chunk_nonzeros=50, shard_chunks=3)
    read = anndata.read_zarr(tmp_path / "a.zarr")
    assert isinstance(read.X, sparse.csr_matrix)
    assert read.X.has_canonical_format
    np.testing.assert_array_equal(dense(read.X), dense(adata.X))
    assert list(read.obs["batch"]) == list(adata.obs["batch"])
    assert list(read.obs["tigon_dataset"]) == ["adata0"] * 60
    assert list(read.uns["tigon"]["source_names"]) == ["adata0"]
    assert read.uns["tigon"]["measured"].shape == (1, 25)


def test_the_layout_is_sharded_and_checksummed(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr", chunk_nonzeros=50, shard_chunks=3)
    for name in ("data", "indices"):
        array = zarr_array(tmp_path / "a.zarr", f"X/{name}")
        assert array.chunks == (50,)
        assert array.shards == (150,)
        assert array.dtype == np.uint16
        (sharding,) = array.metadata.to_dict()["codecs"]  # type: ignore[misc]
        codec = ShardingCodec.from_dict(sharding)
        inner = [each.to_dict()["name"] for each in codec.codecs]
        assert inner == ["bytes", "blosc", "crc32c"]
        blosc = codec.codecs[1].to_dict()["configuration"]
        assert (blosc["cname"], blosc["shuffle"]) == ("lz4", "shuffle")
        assert [each.to_dict()["name"] for each in codec.index_codecs] == ["bytes", "crc32c"]
    assert zarr_array(tmp_path / "a.zarr", "X/indptr").dtype == np.int64


@settings(max_examples=15, deadline=None)
@given(chunk=st.integers(20, 1200), shard=st.integers(1, 9), start=st.integers(0, 59))
def test_chunks_change_nothing(
    tmp_path_factory: pytest.TempPathFactory, chunk: int, shard: int, start: int
) -> None:
    adata = make_adata()
    out = tmp_path_factory.mktemp("chunks") / "a.zarr"
    with write_atlas(open_atlas(adata), out, chunk_nonzeros=chunk, shard_chunks=shard) as atlas:
        np.testing.assert_array_equal(read_all(atlas), dense(adata.X))
        rows = atlas.read(start, 60).to_scipy().toarray()
    np.testing.assert_array_equal(rows, dense(adata.X)[start:])


def test_a_large_count_late_widens_the_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tigon.storage.ingest_plan.block_cells", lambda *_: 7)
    X = make_counts().tolil()
    X[50, 3] = 108_206
    atlas = open_atlas(make_adata(X.tocsr()))
    written = write_atlas(atlas, tmp_path / "a.zarr", chunk_nonzeros=20, shard_chunks=3)
    np.testing.assert_array_equal(read_all(written), dense(X))
    assert written.values_dtype == np.uint32
    assert sorted(names(tmp_path / "a.zarr" / "X")) == [
        "data",
        "indices",
        "indptr",
        "tigon_genes",
        "tigon_mitochondrial",
        "tigon_offsets",
        "tigon_ribosomal",
        "tigon_totals",
        "zarr.json",
    ]


def test_many_genes_need_wide_positions(tmp_path: Path) -> None:
    for n_genes, dtype in ((65536, np.uint16), (65537, np.uint32)):
        X = sparse.csr_matrix(([1, 2], ([0, 1], [0, n_genes - 1])), shape=(2, n_genes))
        written = write_atlas(open_atlas(make_adata(X)), tmp_path / f"{n_genes}.zarr")
        block = written.read(0, 2)
        assert block.indices.dtype == dtype
        assert block.indices.tolist() == [0, n_genes - 1]


def test_fractions_where_allowed(tmp_path: Path) -> None:
    X = sparse.csr_matrix(np.array([[0.5, 0, 3], [0, 1.25, 0]]))
    atlas = open_atlas(make_adata(X), allow_non_integer=True)
    written = write_atlas(atlas, tmp_path / "a.zarr")
    assert written.values_dtype == np.float32
    # Allowed once, when it was written.
    np.testing.assert_array_equal(read_all(written), X.toarray())


def test_the_mask_of_an_outer_join_is_kept(tmp_path: Path) -> None:
    parts = [make_adata(make_counts(5, 3)), make_adata(make_counts(5, 2), genes=["gene2", "q"])]
    joined = open_atlas(parts, join="outer")
    written = write_atlas(joined, tmp_path / "a.zarr")
    np.testing.assert_array_equal(written.measured, joined.measured)
    np.testing.assert_array_equal(written.source_codes, joined.source_codes)
    assert written.source_names == ["adata0", "adata1"]
    assert list(written.obs.index) == list(joined.obs.index)
    assert anndata.read_zarr(tmp_path / "a.zarr").uns["tigon"]["measured"].sum() == 5


def test_a_copy_changed_with_anndata_is_read_afresh(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr")
    whole = anndata.read_zarr(tmp_path / "a.zarr")
    obs, var = whole.obs.iloc[5:20], whole.var.iloc[4:]
    changed = anndata.AnnData(whole.X[5:20, 4:], obs=obs, var=var, uns=whole.uns)
    write_h5ad(changed, tmp_path / "b.h5ad")
    with open_atlas(tmp_path / "b.h5ad") as atlas:
        assert atlas.measured.shape == (1, 21)
        np.testing.assert_array_equal(read_all(atlas), dense(make_adata().X)[5:20, 4:])


def test_an_atlas_opens_without_its_tables_and_over_the_web(tmp_path: Path) -> None:
    adata = make_adata()
    write_atlas(open_atlas(adata), tmp_path / "a.zarr", chunk_nonzeros=50, shard_chunks=3)
    with serve(tmp_path) as url, open_atlas(f"{url}/a.zarr") as atlas:
        np.testing.assert_array_equal(read_all(atlas), dense(adata.X))
        assert list(atlas.obs["batch"]) == list(adata.obs["batch"])


def test_reading_an_atlas_needs_no_anndata(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr")
    code = (
        "import sys; from tigon.storage import open_atlas;"
        f"open_atlas({str(tmp_path / 'a.zarr')!r}).read(0, 60);"
        "print([m for m in ('anndata', 'sklearn', 'umap') if m in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert printed.stdout.decode().strip() == "[]"


def test_progress_counts_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tigon.storage.ingest_plan.block_cells", lambda *_: 25)
    seen: list[tuple[str, int, int]] = []
    write_atlas(
        open_atlas(make_adata()),
        tmp_path / "a.zarr",
        progress=lambda stage, done, total, **_: seen.append((stage, done, total)),
    )
    assert seen == [("writing cells", done, 60) for done in (25, 50, 60)]


# Damage is found


def test_a_flipped_bit_is_found(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr", chunk_nonzeros=50, shard_chunks=3)
    for name in ("data", "indices"):
        shard = tmp_path / "a.zarr" / "X" / name / "c" / "1"
        content = bytearray(shard.read_bytes())
        content[30] ^= 1
        shard.write_bytes(bytes(content))
        with (
            open_atlas(tmp_path / "a.zarr") as atlas,
            pytest.raises(InputError, match=f"chunk 3 of X/{name}, in X/{name}/c/1, is corrupt"),
        ):
            read_all(atlas)
        content[30] ^= 1
        shard.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["data", "indices", "indptr"])
def test_a_lost_shard_is_found(tmp_path: Path, name: str) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr", chunk_nonzeros=50, shard_chunks=3)
    (tmp_path / "a.zarr" / "X" / name / "c" / "0").unlink()
    with open_atlas(tmp_path / "a.zarr") as atlas, pytest.raises(InputError):
        atlas.read(0, 5)


def test_an_atlas_of_a_newer_tigon_is_refused(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr")
    path = tmp_path / "a.zarr" / "zarr.json"
    path.write_text(path.read_text().replace('"largest_row"', '"format_version": 9, "largest_row"'))
    with pytest.raises(InputError, match="format 9: this Tigon reads up to 2; update Tigon"):
        open_atlas(tmp_path / "a.zarr")


# Whole or not at all


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (KeyboardInterrupt(), KeyboardInterrupt),
        (InputError("a.h5ad: a negative value"), InputError),
        (OSError(errno.ENOSPC, "No space left on device"), TigonError),
    ],
)
def test_a_failure_leaves_nothing(
    tmp_path: Path, error: BaseException, shown: type[BaseException]
) -> None:
    failing = Failing(open_atlas(make_adata()), error)
    with pytest.raises(shown):
        write_atlas(failing, tmp_path / "a.zarr", chunk_nonzeros=8, shard_chunks=2)
    assert names(tmp_path) == []


def test_a_failure_keeps_the_old_atlas(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr")
    failing = Failing(open_atlas(make_adata(seed=1)), KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        write_atlas(failing, tmp_path / "a.zarr", overwrite=True)
    np.testing.assert_array_equal(read_all(open_atlas(tmp_path / "a.zarr")), dense(make_adata().X))
    assert names(tmp_path) == ["a.zarr"]


def test_a_killed_process_leaves_what_the_next_removes(tmp_path: Path) -> None:
    write_h5ad(make_adata(), tmp_path / "in.h5ad")
    code = (
        "import os, signal; from tigon.storage import open_atlas, write_atlas\n"
        f"write_atlas(open_atlas({str(tmp_path / 'in.h5ad')!r}), {str(tmp_path / 'a.zarr')!r},"
        " progress=lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL))"
    )
    process = subprocess.run([sys.executable, "-c", code], check=False)
    assert process.returncode == -9
    left = [name for name in names(tmp_path) if "partial" in name]
    assert len(left) == 1
    assert left[0].startswith(".a.zarr.tigon-partial-")
    assert not (tmp_path / "a.zarr").exists()
    with pytest.raises(InputError):
        open_atlas(tmp_path / left[0])
    write_atlas(open_atlas(tmp_path / "in.h5ad"), tmp_path / "a.zarr")
    assert names(tmp_path) == ["a.zarr", "in.h5ad"]


def test_outputs_that_cannot_be(tmp_path: Path) -> None:
    atlas = open_atlas(make_adata())
    write_atlas(atlas, tmp_path / "a.zarr")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_atlas(atlas, tmp_path / "a.zarr")
    (tmp_path / "b.zarr").write_text("a file")
    with pytest.raises(InputError, match="is a file and an atlas is a folder"):
        write_atlas(atlas, tmp_path / "b.zarr", overwrite=True)
    with pytest.raises(InputError, match="is a URL that cannot be written to"):
        write_atlas(atlas, "https://example.org/a.zarr")
    with pytest.raises(InputError, match="at least 1"):
        write_atlas(atlas, tmp_path / "c.zarr", chunk_nonzeros=0)
    assert names(tmp_path) == ["a.zarr", "b.zarr"]


def test_an_atlas_may_replace_its_own_source(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr")
    write_atlas(open_atlas(tmp_path / "a.zarr"), tmp_path / "a.zarr", overwrite=True)
    np.testing.assert_array_equal(read_all(open_atlas(tmp_path / "a.zarr")), dense(make_adata().X))


@pytest.mark.skipif(os.name != "posix", reason="limits on files are of POSIX")
def test_a_full_disk_stops_plainly(tmp_path: Path) -> None:
    make_adata(make_counts(2000, 200)).write_h5ad(tmp_path / "in.h5ad")
    code = (
        "import resource; from tigon.storage import open_atlas, write_atlas\n"
        f"atlas = open_atlas({str(tmp_path / 'in.h5ad')!r})\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"write_atlas(atlas, {str(tmp_path / 'a.zarr')!r})"
    )
    process = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    last = process.stderr.decode().strip().splitlines()[-1]
    assert f"no space left to write {tmp_path}/a.zarr" in last
    assert names(tmp_path) == ["in.h5ad"]


# Memory


def peak_of_writing(n_cells: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Bytes that NumPy and Python allocate at most while an atlas is written."""
    X = sparse.random(n_cells, 100, 0.5, format="csr", random_state=0, dtype=np.float32)
    X.data[:] = np.arange(X.nnz) % 40 + 1
    path = write_h5ad(anndata.AnnData(X), tmp_path / f"{n_cells}.h5ad")
    monkeypatch.setattr("tigon.storage.ingest_plan._BLOCK_BYTES", 1 << 19)
    with open_atlas(path) as atlas:
        tracemalloc.start()
        try:
            write_atlas(atlas, tmp_path / f"{n_cells}.zarr", chunk_nonzeros=1 << 12, shard_chunks=8)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()


def test_memory_does_not_grow_with_the_cells(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak_of_writing(2_000, tmp_path, monkeypatch)  # imports what is imported late
    small, large = (peak_of_writing(n, tmp_path, monkeypatch) for n in (5_000, 20_000))
    # The tables grow: names and codes of 15,000 more cells. The counts, of which
    # there are 4.5 MB more as stored, must not.
    assert large - small < 15_000 * 250
    assert large < 12 << 20


# Real data


@pytest.mark.data
@pytest.mark.parametrize("name", ["kang_ctrl_8donors", "baron_mouse_pancreas"])
def test_real_files_come_back(shared_data: Path, tmp_path: Path, name: str) -> None:
    path = shared_data / f"{name}.h5ad"
    with open_atlas(path) as atlas:
        write_atlas(atlas, tmp_path / "a.zarr")
    source, written = anndata.read_h5ad(path), anndata.read_zarr(tmp_path / "a.zarr")
    assert (written.X.astype(np.float32) != source.X).nnz == 0
    assert list(written.obs_names) == list(source.obs_names)
    assert list(written.var_names) == list(source.var_names)
    for column in source.obs.columns:
        assert list(written.obs[column].astype(str)) == list(source.obs[column].astype(str))


@pytest.mark.data
def test_real_counts_above_16_bits(shared_data: Path, tmp_path: Path) -> None:
    with open_atlas(shared_data / "adtnorm_13studies_422k.h5ad") as atlas:
        written = write_atlas(atlas, tmp_path / "a.zarr")
    assert written.values_dtype == np.uint32
    largest = max(
        written.read(start, min(start + 65536, written.n_cells)).values.max()
        for start in range(0, written.n_cells, 65536)
    )
    assert largest == 108_206


def test_a_10x_directory_to_an_atlas(tmp_path: Path) -> None:
    folder = write_tenx_mtx(make_adata(), tmp_path / "sample1")
    scratch = tmp_path / "scratch"
    with open_atlas(folder, scratch=scratch) as atlas:
        written = write_atlas(atlas, tmp_path / "a.zarr")
    assert names(scratch) == []
    assert written.source_names == ["sample1"]
    np.testing.assert_array_equal(read_all(written), dense(make_adata().X))
