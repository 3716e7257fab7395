"""Estimators of components on the workers of a cluster."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from scipy import sparse

import tigon
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.packs.pack import Pack

distributed = pytest.importorskip("distributed")
dask_array = pytest.importorskip("dask.array")

OPTIONS: dict[str, Any] = {"n_components": 5, "target_sum": 1e3, "log1p": True}
KEPT = ("components_", "singular_values_", "residuals_", "mean_")


@pytest.fixture(scope="module")
def X() -> sparse.csr_array:
    rng = np.random.default_rng(0)
    rates = rng.gamma(0.5, 1.0, (24_000, 8)) @ rng.gamma(0.3, 1.0, (8, 60))
    return sparse.csr_array(rng.poisson(rates).astype(np.float32))


@pytest.fixture(scope="module")
def atlas(X: sparse.csr_array, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("counts") / "atlas.zarr"
    with tigon.open(anndata.AnnData(X)) as opened:
        tigon.write_atlas(opened, path).close()
    return path


@pytest.fixture(scope="module")
def client() -> Iterator[Any]:
    with (
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", memory_limit=2**31
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as connected,
    ):
        yield connected


def chunked(X: sparse.csr_array, marks: Path) -> Any:
    """A Dask array whose chunks tell who computed them."""

    def told(chunk: np.ndarray) -> sparse.csr_matrix:
        (marks / str(os.getpid())).touch()
        return sparse.csr_matrix(chunk)

    return dask_array.from_array(X.toarray(), chunks=(2048, -1)).map_blocks(told)


@pytest.mark.parametrize("solver", ["gram", "krylov"])
def test_workers_give_the_bytes_of_threads(
    solver: str, X: sparse.csr_array, atlas: Path, client: Any, tmp_path: Path
) -> None:
    here = tigon.PCA(solver=solver, **OPTIONS)
    wanted = here.fit_transform(X)
    marks, scratch = tmp_path / "marks", tmp_path / "scratch"
    marks.mkdir()
    for source in (atlas, str(atlas), chunked(X, marks)):
        there = tigon.PCA(solver=solver, **OPTIONS)
        found = there.fit_transform(source, client=client, scratch=scratch)
        assert found.tobytes() == wanted.tobytes()
        assert there.n_passes_ == here.n_passes_
        for name in KEPT:
            assert getattr(there, name).tobytes() == getattr(here, name).tobytes()
    workers = {str(pid) for pid in client.run(os.getpid).values()}
    assert {mark.name for mark in marks.iterdir()} - {str(os.getpid())} == workers
    assert list(scratch.iterdir()) == []


def test_a_pack_and_a_scratch_folder_of_relative_paths(
    atlas: Path, client: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # workers stay where they were started
    with tigon.open(atlas) as opened, ThreadEngine(2) as engine:
        prepared = prepare(opened, PrepareConfig(n_genes="all"), 1, engine)
        parts = prepared.datasets, prepared.statistics, prepared.genes
        build_pack(opened, *parts, tmp_path / "pack", engine, np.random.SeedSequence(0))
    with closing(Pack(Path("pack"))) as pack:
        here = tigon.TruncatedSVD(4).fit_transform(pack)
        there = tigon.TruncatedSVD(4).fit_transform(pack, client=client, scratch="scratch")
    assert there.tobytes() == here.tobytes()


def test_what_workers_cannot_read_is_refused(
    X: sparse.csr_array, client: Any, tmp_path: Path
) -> None:
    few = X[:500]
    counts = anndata.AnnData(few)
    counts.write_h5ad(tmp_path / "few.h5ad")
    for source, said in [
        (few, "a matrix in the memory of this process is out of reach of workers: write an atlas"),
        (few.toarray(), "is out of reach of workers"),
        (counts, "is out of reach of workers"),
        (tmp_path / "few.h5ad", "only an atlas that Tigon wrote"),
    ]:
        with pytest.raises(InputError, match=said):
            tigon.PCA(**OPTIONS).fit(source, client=client, scratch=tmp_path / "scratch")
    persisted = client.persist(chunked(few, tmp_path))
    with pytest.raises(InputError, match=r"was persisted on a cluster.*before persist"):
        tigon.PCA(**OPTIONS).fit(persisted)


def test_workers_that_are_too_small_are_refused(tmp_path: Path) -> None:
    wide = dask_array.zeros((3000, 4000), chunks=(1000, -1)).map_blocks(sparse.csr_matrix)
    with (
        distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, dashboard_address=":0", memory_limit=2**29
        ) as cluster,
        distributed.Client(cluster, set_as_default=False) as small,
        pytest.raises(MemoryLimitError, match="may use 512 MiB for 1 threads: its tasks need"),
    ):
        tigon.PCA(**OPTIONS).fit(wide, client=small, scratch=tmp_path)
