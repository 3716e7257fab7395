"""Profiles, what lies beside the counts, and the digest."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
import zarr
from builders import dense, make_adata, make_counts, write_h5ad, write_tenx_mtx, write_zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tigon.scaling.cells import CellFilter
from tigon.scaling.datasets import Datasets
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.first_pass import first_pass
from tigon.storage import Atlas, layout, open_atlas, sums, write_atlas
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.sharded import ShardedArray

SMALL: dict[str, Any] = {"chunk_nonzeros": 50, "shard_chunks": 3}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def quietly(read: Callable[[Path], Any], path: Path) -> Any:
    """Zarr tells whoever opens pcodec that it is no codec of its specification."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr")
        return read(path)


# Profiles


@pytest.mark.parametrize("profile", layout.PROFILES)
def test_a_profile_holds_the_counts(tmp_path: Path, profile: str) -> None:
    adata = make_adata()
    written = write_atlas(open_atlas(adata), tmp_path / "a.zarr", profile=profile, **SMALL)
    np.testing.assert_array_equal(written.read(0, 60).to_scipy().toarray(), dense(adata.X))
    read = quietly(anndata.read_zarr, tmp_path / "a.zarr")
    np.testing.assert_array_equal(dense(read.X), dense(adata.X))
    mark = json.loads((tmp_path / "a.zarr/X/zarr.json").read_text())["attributes"]["tigon"]
    assert (mark["format_version"], mark["profile"]) == (2, profile)


def test_chunks_of_the_network_profile(tmp_path: Path) -> None:
    write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr", profile="network", **SMALL)
    for name, delta in (("data", "none"), ("indices", "try_consecutive")):
        metadata = json.loads((tmp_path / f"a.zarr/X/{name}/zarr.json").read_text())
        sharding = metadata["codecs"][0]["configuration"]
        pcodec, crc = sharding["codecs"]
        assert (pcodec["name"], crc["name"]) == ("numcodecs.pcodec", "crc32c")
        assert pcodec["configuration"]["delta_spec"] == delta
        assert [each["name"] for each in sharding["index_codecs"]] == ["bytes", "crc32c"]
        assert sharding["index_location"] == "end"


def test_the_network_profile_is_smaller(tmp_path: Path) -> None:
    X = sparse.random(2000, 3000, 0.05, format="csr", random_state=0)
    X.data[:] = np.random.default_rng(0).geometric(0.6, X.nnz)
    sizes = {}
    for profile in layout.PROFILES:
        write_atlas(open_atlas(anndata.AnnData(X)), tmp_path / profile, profile=profile)
        arrays = [tmp_path / profile / "X" / name / "c" for name in ("data", "indices")]
        sizes[profile] = sum(len(file) for each in arrays for file in files_of(each).values())
    assert sizes["network"] < 0.65 * sizes["local"]


def test_an_unknown_profile_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'gpu' is not known: it is 'local' or 'network'"):
        write_atlas(open_atlas(make_adata()), tmp_path / "a.zarr", profile="gpu")
    assert not list(tmp_path.iterdir())


@settings(max_examples=25, deadline=None)
@given(
    length=st.integers(0, 700),
    chunk=st.integers(1, 60),
    shard_chunks=st.integers(1, 5),
    dtype=st.sampled_from(["uint16", "uint32", "int64", "float32"]),
    profile=st.sampled_from(sorted(layout.PROFILES)),
    cuts=st.lists(st.integers(0, 700), max_size=4),
)
def test_shards_are_those_of_zarr(
    tmp_path_factory: pytest.TempPathFactory,
    length: int,
    chunk: int,
    shard_chunks: int,
    dtype: str,
    profile: str,
    cuts: list[int],
) -> None:
    values = (np.arange(length) % 37 + 1).astype(dtype)  # Zarr drops chunks of zeros
    folder = tmp_path_factory.mktemp("shards")
    group = zarr.create_group(str(folder))
    codec = layout.PROFILES[profile].rising
    with ThreadPoolExecutor(2) as pool:
        ours = ShardedArray(group, "a", values.dtype, (chunk, shard_chunks), codec, pool)
        for piece in np.split(values, sorted(min(cut, length) for cut in cuts)):
            ours.append(piece)
        assert ours.finish() == length
    theirs = quietly(lambda _: zarr.open_array(str(folder / "a"), mode="r"), folder)
    np.testing.assert_array_equal(theirs[:], values)
    written = files_of(folder / "a" / "c") if length else {}
    shutil.rmtree(folder / "a" / "c", ignore_errors=True)
    again = quietly(lambda _: zarr.open_array(str(folder / "a"), mode="r+"), folder)
    again[:] = values
    assert (files_of(folder / "a" / "c") if length else {}) == written


@pytest.mark.parametrize("profile", layout.PROFILES)
def test_threads_and_blocks_change_no_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, profile: str
) -> None:
    monkeypatch.setattr(sums, "TILE_CELLS", 16)
    X = make_counts().tolil()
    X[50, 3] = 70_000  # widens late
    written = {}
    for n_threads, block_cells in ((1, 60), (2, 16), (3, 32), (4, 7), (2, 1)):
        monkeypatch.setattr(
            "tigon.storage.ingest_plan.block_cells", lambda *_, cells=block_cells: cells
        )
        out = tmp_path / f"{n_threads}-{block_cells}.zarr"
        options = {"profile": profile, "n_threads": n_threads, **SMALL}
        write_atlas(open_atlas(make_adata(X.tocsr())), out, **options)
        written[out] = files_of(out)
    first, *others = written.values()
    for other in others:
        assert other == first


# What lies beside the counts


def of_three_sources(tmp_path: Path) -> Atlas:
    parts = [make_counts(n_cells, 30, seed=n_cells) for n_cells in (37, 50, 80)]
    paths = [
        write_h5ad(make_adata(X, prefix=f"{number}-"), tmp_path / f"{number}.h5ad")
        for number, X in enumerate(parts)
    ]
    return open_atlas(paths)


def of_sources(atlas: Atlas) -> Datasets:
    return Datasets(names=atlas.source_names, codes=atlas.source_codes, measured=atlas.measured)


@pytest.mark.parametrize("block_cells", [7, 16, 64])
def test_sums_are_those_of_the_first_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block_cells: int
) -> None:
    monkeypatch.setattr(sums, "TILE_CELLS", 16)
    for module in ("statistics", "first_pass"):
        monkeypatch.setattr(f"tigon.scaling.{module}.BLOCK_CELLS", 16)
    monkeypatch.setattr(sums, "RUN_CELLS", 48)
    monkeypatch.setattr("tigon.scaling.first_pass.stored_statistics", lambda *_: None)
    monkeypatch.setattr("tigon.storage.ingest_plan.block_cells", lambda *_: block_cells)
    atlas = write_atlas(of_three_sources(tmp_path), tmp_path / "a.zarr")
    datasets = of_sources(atlas)
    with ThreadEngine(2) as engine:
        expected = first_pass(atlas, datasets, CellFilter(), engine)
    X = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["X"]
    genes = X[layout.GENE_SUMS]
    np.testing.assert_array_equal(X[layout.TOTALS][:], expected.totals)
    np.testing.assert_array_equal(genes["first"][:], expected.first)
    np.testing.assert_array_equal(genes["second"][:], expected.second)
    np.testing.assert_array_equal(genes["cells"][:], expected.n_nonzeros)
    counts = atlas.read(0, atlas.n_cells).to_scipy().toarray()
    runs = zip(genes["run_starts"][:], genes["run_sources"][:], genes["counts"][:], strict=True)
    n_runs = 0
    for start, source, total in runs:
        of_source = atlas.source_codes[start : start + 48] == source
        np.testing.assert_array_equal(total, counts[start : start + 48][of_source].sum(axis=0))
        n_runs += 1
    assert n_runs == 6  # 167 cells in runs of 48, two of which hold two sources


def test_tiles_are_those_of_the_first_pass() -> None:
    from tigon.scaling import statistics

    assert sums.TILE_CELLS == statistics.BLOCK_CELLS
    assert sums.RUN_CELLS % sums.TILE_CELLS == 0


def test_sums_of_fractions(tmp_path: Path) -> None:
    X = sparse.csr_matrix(make_counts() * 0.3)
    written = write_atlas(
        open_atlas(make_adata(X), allow_non_integer=True), tmp_path / "a.zarr", profile="network"
    )
    datasets = of_sources(written)
    with ThreadEngine(1) as engine:
        expected = first_pass(written, datasets, CellFilter(), engine)
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r", use_consolidated=False)
    np.testing.assert_array_equal(group["X/tigon_genes/first"][:], expected.first)


def test_an_atlas_of_the_first_format_opens(tmp_path: Path) -> None:
    adata = make_adata()
    write_atlas(open_atlas(adata), tmp_path / "a.zarr", **SMALL)
    root = zarr.open_group(str(tmp_path / "a.zarr"), mode="r+", use_consolidated=False)
    del root[f"X/{layout.TOTALS}"], root[f"X/{layout.GENE_SUMS}"]
    root["X"].attrs["tigon"] = {"format_version": 1, "largest_row": 25}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(tmp_path / "a.zarr"))
    with open_atlas(tmp_path / "a.zarr") as atlas:
        np.testing.assert_array_equal(atlas.read(0, 60).to_scipy().toarray(), dense(adata.X))
        assert atlas.n_nonzeros == adata.X.nnz
        # Nothing was noted, so that it goes by its files.
        before = atlas.digest
    assert before is not None
    (tmp_path / "a.zarr/X/data/c/0").touch()
    assert open_atlas(tmp_path / "a.zarr").digest != before


# Digest


def test_the_digest_is_of_the_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = make_adata()
    stored = {
        "h5ad": write_h5ad(adata, tmp_path / "a.h5ad"),
        "zarr": write_zarr(adata, tmp_path / "b.zarr"),
        "mtx": write_tenx_mtx(adata, tmp_path / "mtx"),
    }
    digests = set()
    ways = [("local", 50, 60), ("network", 131, 60), ("local", 1 << 17, 7)]
    for number, (path, (profile, chunk, cells)) in enumerate(
        zip([*stored.values()][:2] * 3, ways * 2, strict=True)
    ):
        monkeypatch.setattr("tigon.storage.ingest_plan.block_cells", lambda *_, n=cells: n)
        out = tmp_path / f"{number}.zarr"
        written = write_atlas(open_atlas(path), out, profile=profile, chunk_nonzeros=chunk)
        digests.add(written.digest)
    assert len(digests) == 1
    (digest,) = digests
    assert digest is not None
    assert len(digest) == 64
    assert int(digest, 16)


@settings(max_examples=8, deadline=None)
@given(change=st.sampled_from(["count", "gene", "cell", "place", "order"]), seed=st.integers(0, 9))
def test_the_digest_changes_with_anything(
    tmp_path_factory: pytest.TempPathFactory, change: str, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    X = make_counts().toarray()
    adata = make_adata(sparse.csr_matrix(X))
    cell, gene = (int(part[rng.integers(len(part))]) for part in np.nonzero(X))
    if change == "count":
        X[cell, gene] += 65536
    if change == "place":
        X[cell, gene], X[cell, gene - 1] = X[cell, gene - 1], X[cell, gene] + 1
    if change == "order":
        X = X[::-1]
    other = make_adata(sparse.csr_matrix(X))
    if change == "gene":
        other.var_names = [f"{name}{'x' * (i == gene)}" for i, name in enumerate(other.var_names)]
    if change == "cell":
        other.obs_names = [f"{name}{'x' * (i == cell)}" for i, name in enumerate(other.obs_names)]
    folder = tmp_path_factory.mktemp("digest")
    a = write_atlas(open_atlas(adata), folder / "a.zarr").digest
    b = write_atlas(open_atlas(other), folder / "b.zarr").digest
    assert a != b


def test_what_was_not_measured_shows_in_the_digest(tmp_path: Path) -> None:
    zeros = sparse.csr_matrix((5, 3))
    full = [make_adata(make_counts(5, 3)), make_adata(zeros, prefix="b")]
    part = [make_adata(make_counts(5, 3)), make_adata(zeros[:, :2], prefix="b")]
    digests = [
        write_atlas(open_atlas(parts, join="outer"), tmp_path / f"{n}.zarr").digest
        for n, parts in enumerate((full, part))
    ]
    assert digests[0] != digests[1]


def test_files_of_others_go_by_their_version(tmp_path: Path) -> None:
    adata = make_adata()
    adata.layers["other"] = adata.X * 2
    path = write_h5ad(adata, tmp_path / "a.h5ad")
    digest = open_atlas(path).digest
    assert digest is not None
    assert open_atlas(path).digest == digest
    assert open_atlas(path, layer="other").digest != digest
    assert open_atlas([path]).digest == digest
    other = shutil.copy(path, tmp_path / "b.h5ad")
    assert open_atlas([path, other]).digest != digest
    write_h5ad(make_adata(seed=1), path)
    assert open_atlas(path).digest != digest
    folder = write_tenx_mtx(adata, tmp_path / "mtx", zipped=False)
    digest = open_atlas(folder).digest
    names = folder / "barcodes.tsv"
    names.write_text(names.read_text().replace("cell1\n", "cellx\n"))
    assert open_atlas(folder).digest != digest


def test_cells_in_memory_have_no_digest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "adata0").touch()
    assert open_atlas(make_adata()).digest is None
    path = write_h5ad(make_adata(), tmp_path / "a.h5ad")
    assert open_atlas([path, make_adata(prefix="b")]).digest is None


# Memory


def test_a_memory_limit_makes_blocks_smaller(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tigon.storage import ingest_plan

    X = sparse.random(30_000, 400, 0.5, format="csr", random_state=0, dtype=np.float32)
    X.data[:] = np.arange(X.nnz) % 40 + 1
    with open_atlas(write_h5ad(anndata.AnnData(X), tmp_path / "a.h5ad")) as atlas:
        monkeypatch.setattr(ingest_plan, "_base_bytes", lambda _: 100 << 20)
        free = ingest_plan.plan_ingest(atlas, 2, None)
        tight = ingest_plan.plan_ingest(atlas, 2, 112 << 20)
        assert tight.block_cells < free.block_cells
        with pytest.raises(MemoryLimitError, match="takes at least 100 MiB"):
            ingest_plan.plan_ingest(atlas, 2, 50 << 20)
        with pytest.raises(InputError, match="n_threads is 0"):
            ingest_plan.plan_ingest(atlas, 0, None)
