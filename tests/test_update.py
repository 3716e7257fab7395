"""A run and new cells make the next run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from atlases import planted
from builders import write_h5ad
from command_line import refused, works

import tigon
from tigon.storage.runs.run import Run

QUICK: dict[str, Any] = dict(n_components=4, n_epochs=3, umap=False, report=False, n_threads=2)


@pytest.fixture(scope="module")
def data() -> anndata.AnnData:
    return planted(n=1500, m=100, k=4, d=3).adata


def of(adata: anndata.AnnData, *batches: str) -> anndata.AnnData:
    return adata[adata.obs["batch"].isin(batches)].copy()


@pytest.fixture(scope="module")
def run(data: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "run.zarr"
    return tigon.integrate(of(data, "b0", "b1"), out=out, batch_key="batch", **QUICK)


@pytest.fixture(scope="module")
def updated(run: Run, data: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("updated") / "run2.zarr"
    new = of(data, "b2")
    new.obs["clinic"] = "north"
    return tigon.update(run, new, out, report=False, n_threads=2)


def sums(H: np.ndarray) -> np.ndarray:
    H = H.astype(float)
    return H.T @ H


def test_old_cells_stay_and_new_ones_follow(run: Run, updated: Run, data: anndata.AnnData) -> None:
    n = len(run.obs)
    assert updated.datasets == ("b0", "b1", "b2")
    assert list(updated.obs.index[:n]) == list(run.obs.index)
    assert list(updated.obs.index[n:]) == list(of(data, "b2").obs_names)
    np.testing.assert_array_equal(updated.loadings.read(0, n), np.asarray(run.loadings))
    assert updated.obs["tigon_version"].tolist() == [0] * n + [1] * (len(data) - n)
    assert list(updated.obs["kind"]) == [
        *run.obs["kind"],
        *of(data, "b2").obs["kind"],
    ]
    assert updated.obs["clinic"].isna().sum() == n
    np.testing.assert_array_equal(updated.A[:2], run.A)
    np.testing.assert_array_equal(updated.B[:2], run.B)
    assert updated.n_cells.tolist() == data.obs["batch"].value_counts().sort_index().tolist()
    assert not np.array_equal(updated.W, run.W)


def test_statistics_are_sums_of_the_loadings_in_the_run(updated: Run) -> None:
    H = np.asarray(updated.loadings)
    for i, name in enumerate(updated.datasets):
        mine = H[(updated.obs["tigon_dataset"] == name).to_numpy()]
        np.testing.assert_allclose(updated.A[i], sums(mine), rtol=1e-10)


def test_an_updated_run_is_like_any_other(run: Run, updated: Run) -> None:
    adata = anndata.read_zarr(updated.path)
    assert set(adata.obsm) == {"X_inmf", "X_inmf_aligned"}
    np.testing.assert_allclose((adata.obsm["X_inmf_aligned"] ** 2).sum(axis=1), 1, rtol=1e-5)
    assert adata.obs["tigon_cluster"].notna().all()
    np.testing.assert_array_equal(
        updated.var["n_cells_by_counts"].to_numpy() >= run.var["n_cells_by_counts"].to_numpy(),
        True,
    )
    steps = updated.history["step"]
    np.testing.assert_array_equal(steps, np.arange(len(steps)))
    assert (np.diff(updated.history["n_seen"]) > 0).all()
    assert updated.config["updates"]["1"]["n_cells"] == len(updated.obs) - len(run.obs)
    facts = json.loads(works("info", updated.path, "--json").stdout)
    assert facts["n_cells"] == len(updated.obs)


def test_the_next_update_goes_on_from_it(
    updated: Run, data: anndata.AnnData, tmp_path: Path
) -> None:
    later = planted(n=1500, m=100, k=4, d=3, seed=0).adata
    later = later[:300].copy()
    later.obs_names = [f"later{i}" for i in range(300)]
    third = tigon.update(updated, later, tmp_path / "run3.zarr", report=False, n_threads=2)
    assert third.datasets == updated.datasets
    np.testing.assert_array_equal(third.per_gene("scale"), updated.per_gene("scale"))
    assert int(third.n_cells.sum()) == len(data) + 300
    assert set(third.obs["tigon_version"]) == {0, 1, 2}
    H, added = np.asarray(third.loadings), (third.obs["tigon_version"] == 2).to_numpy()
    assert added.sum() == 300
    for i, name in enumerate(third.datasets):
        mine = H[added & (third.obs["tigon_dataset"] == name).to_numpy()]
        np.testing.assert_allclose(third.A[i] - updated.A[i], sums(mine), rtol=1e-8)
    assert sorted(third.config["updates"]) == ["1", "2"]


def test_refreshing_solves_old_cells_with_the_metagenes_of_now(
    updated: Run, data: anndata.AnnData, tmp_path: Path
) -> None:
    old = of(data, "b0", "b1")
    fresh = tigon.update(updated, None, tmp_path / "f.zarr", refresh=old, report=False)
    assert set(fresh.obs["tigon_version"]) == {1, 2}
    np.testing.assert_array_equal(fresh.W, updated.W)
    H = np.asarray(fresh.loadings)
    for i, name in enumerate(fresh.datasets):
        mine = H[(fresh.obs["tigon_dataset"] == name).to_numpy()]
        np.testing.assert_allclose(fresh.A[i], sums(mine), rtol=1e-10)
    np.testing.assert_array_equal(fresh.A[2], updated.A[2])
    # Loadings are optimal for the metagenes now, so that F can only have fallen.
    assert fresh.objective < updated.objective


def test_refreshing_while_new_cells_of_the_same_datasets_come(
    run: Run, data: anndata.AnnData, tmp_path: Path
) -> None:
    later = of(data, "b0")[:150].copy()
    later.obs_names = [f"later{i}" for i in range(150)]
    made = tigon.update(run, later, tmp_path / "r.zarr", refresh=of(data, "b0", "b1"), report=False)
    assert set(made.obs["tigon_version"]) == {1}
    H = np.asarray(made.loadings)
    for i, name in enumerate(made.datasets):
        mine = H[(made.obs["tigon_dataset"] == name).to_numpy()]
        np.testing.assert_allclose(made.A[i], sums(mine), rtol=1e-9)


def test_datasets_can_be_removed(updated: Run, tmp_path: Path) -> None:
    left = tigon.update(updated, None, tmp_path / "d.zarr", drop=["b0"], report=False)
    assert left.datasets == ("b1", "b2")
    np.testing.assert_array_equal(left.A, updated.A[1:])
    np.testing.assert_array_equal(left.W, updated.W)
    kept = (updated.obs["tigon_dataset"] != "b0").to_numpy()
    assert list(left.obs.index) == list(updated.obs.index[kept])
    np.testing.assert_array_equal(np.asarray(left.loadings), np.asarray(updated.loadings)[kept])
    assert left.objective < updated.objective


def test_bytes_do_not_depend_on_threads(run: Run, data: anndata.AnnData, tmp_path: Path) -> None:
    found = [
        tigon.update(run, of(data, "b2"), tmp_path / f"{n}.zarr", n_threads=n, report=False)
        for n in (1, 2)
    ]
    one, two = found
    for name in ("W", "A", "B"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    for name in one.obsm_names:
        np.testing.assert_array_equal(np.asarray(one.obsm(name)), np.asarray(two.obsm(name)))
    assert one.obs["tigon_cluster"].tolist() == two.obs["tigon_cluster"].tolist()
    assert one.objective == two.objective


def test_the_command_updates(run: Run, data: anndata.AnnData, tmp_path: Path) -> None:
    new = write_h5ad(of(data, "b2"), tmp_path / "new.h5ad")
    out = tmp_path / "run2.zarr"
    told = works("update", run.path, new, "--out", out, "--no-report", "--n-epochs", "2", "--json")
    facts = json.loads(told.stdout)
    assert facts["datasets"] == data.obs["batch"].value_counts().to_dict()
    assert Run.open(out).command.startswith("tigon update ")
    assert Run.open(out).config["updates"]["1"]["n_epochs"] == 2


def test_the_command_refuses(run: Run, data: anndata.AnnData, tmp_path: Path) -> None:
    new = write_h5ad(of(data, "b2"), tmp_path / "new.h5ad")
    old = write_h5ad(of(data, "b0"), tmp_path / "old.h5ad")
    strange = of(data, "b2")
    strange.var_names = [f"x{i}" for i in range(strange.n_vars)]
    other = write_h5ad(strange, tmp_path / "strange.h5ad")
    out = tmp_path / "out.zarr"
    for arguments, said in (
        ([run.path], "nothing is to be updated"),
        ([run.path, old], "have the name of a cell of the run"),
        ([run.path, other], "none of the 100 genes of the model"),
        ([run.path, "--drop", "b7"], "'b7' is no dataset of the run"),
        ([run.path, "--drop", "b0", "--drop", "b1"], "at least one must stay"),
        ([run.path, "--refresh", new], "no dataset of the run is whole"),
        ([run.path, new, "--batch-key", "donor"], "'donor' is not a column"),
        ([run.path, new, "--n-epochs", "0"], "n_epochs is 0"),
        ([tmp_path / "none.zarr", new], "there is no run"),
        ([new, new], "not a finished run"),
    ):
        assert said in refused(tmp_path, "update", *arguments, "--out", out)
    assert "one of the sources" in refused(tmp_path, "update", run.path, new, "--out", run.path)


def test_scores_and_report_of_an_updated_run(data: anndata.AnnData, tmp_path: Path) -> None:
    few = data[::4]
    run = tigon.integrate(
        of(few, "b0", "b1"), out=tmp_path / "a.zarr", batch_key="batch", label_key="kind", **QUICK
    )
    made = tigon.update(run, of(few, "b2"), tmp_path / "b.zarr", n_threads=2)
    assert made.scores["n_scored"] == len(few)
    assert made.scores["knn_accuracy"] >= 0.9
    assert "b2" in (tmp_path / "b.html").read_text()
