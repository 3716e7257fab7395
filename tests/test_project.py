"""New cells laid on a run: loadings, labels with a confidence, places."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from atlases import planted
from builders import write_h5ad
from command_line import refused, works
from scipy import sparse

import tigon
from tigon.scaling.inmf.known import Known, own_squares
from tigon.scaling.recalling import recall_fit
from tigon.scaling.transferring import Neighbors, directions, factor_scale, vote
from tigon.storage.runs.run import Run

QUICK: dict[str, Any] = dict(n_components=4, n_epochs=4, report=False, n_threads=2)


@pytest.fixture(scope="module")
def data() -> anndata.AnnData:
    return planted(n=1200, m=100, k=4, d=3).adata


def of(adata: anndata.AnnData, *batches: str) -> anndata.AnnData:
    return adata[adata.obs["batch"].isin(batches)].copy()


@pytest.fixture(scope="module")
def run(data: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("run") / "run.zarr"
    known = of(data, "b0", "b1")
    return tigon.integrate(known, out=out, batch_key="batch", n_layout_epochs=20, **QUICK)


@pytest.fixture(scope="module")
def query(run: Run, data: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    out = tmp_path_factory.mktemp("query") / "q.zarr"
    return tigon.project(run, of(data, "b2"), out, label_key="kind", n_threads=2)


def test_labels_are_those_of_the_nearest_cells(query: Run, data: anndata.AnnData) -> None:
    true = of(data, "b2").obs["kind"].astype(str).to_numpy()
    right = query.obs["tigon_label"].astype(str).to_numpy() == true
    confidence = query.obs["tigon_confidence"].to_numpy()
    assert right.mean() >= 0.97
    assert ((confidence > 0) & (confidence <= 1)).all()


def test_what_is_written_opens_like_a_run(run: Run, query: Run, data: anndata.AnnData) -> None:
    adata = anndata.read_zarr(query.path)
    assert list(adata.obs_names) == list(of(data, "b2").obs_names)
    assert set(adata.obsm) == {"X_inmf", "X_inmf_aligned", "X_umap"}
    np.testing.assert_allclose((adata.obsm["X_inmf_aligned"] ** 2).sum(axis=1), 1, rtol=1e-5)
    low, high = (f(np.asarray(run.obsm("X_umap")), axis=0) for f in (np.min, np.max))
    assert (adata.obsm["X_umap"] >= low - 1e-4).all()
    assert (adata.obsm["X_umap"] <= high + 1e-4).all()
    np.testing.assert_array_equal(query.W, run.W)
    assert query.datasets == ("b2",)
    assert not query.V["b2"].any()
    assert set(adata.obs["tigon_cluster"]) <= set(run.obs["tigon_cluster"])
    assert query.config["projected"]["run"] == str(run.path)
    assert json.loads(works("info", query.path, "--json").stdout)["n_cells"] == len(adata)


def test_statistics_and_objective_are_those_of_the_loadings(
    query: Run, data: anndata.AnnData
) -> None:
    H = np.asarray(query.loadings).astype(float)
    np.testing.assert_allclose(query.A[0], H.T @ H, rtol=1e-10)
    X = of(data, "b2")[:, list(query.genes)].X.toarray().astype(float)
    X /= of(data, "b2").X.sum(axis=1)
    x = np.asarray(X) * query.per_gene("scale")[0]
    np.testing.assert_allclose(query.B[0], x.T @ H, rtol=1e-5, atol=1e-4)
    F = ((x - H @ query.W) ** 2).sum()
    assert abs(query.objective - F) <= 1e-5 * F


def test_known_cells_get_the_loadings_of_the_run(
    run: Run, data: anndata.AnnData, tmp_path: Path
) -> None:
    q = tigon.project(run, of(data, "b0", "b1"), tmp_path / "q.zarr", n_threads=2)
    np.testing.assert_array_equal(np.asarray(q.loadings), np.asarray(run.loadings))
    np.testing.assert_allclose(q.A, run.A, rtol=1e-10)
    assert abs(q.objective - run.objective) <= 1e-9 * run.objective
    # Without labels in the run its clusters are taken over: each cell is nearest to itself.
    same = q.obs["tigon_label"].astype(str) == run.obs["tigon_cluster"].astype(str)
    assert same.mean() >= 0.97


def test_bytes_do_not_depend_on_threads(run: Run, data: anndata.AnnData, tmp_path: Path) -> None:
    new = of(data, "b2")
    empty = new[:3].copy()
    empty.X = sparse.csr_matrix(empty.shape, dtype=np.float32)
    empty.obs_names = ["e0", "e1", "e2"]
    cells = anndata.concat([new, empty])
    one, two = (
        tigon.project(run, cells, tmp_path / f"{n}.zarr", label_key="kind", n_threads=n)
        for n in (1, 2)
    )
    for name in one.obsm_names:
        np.testing.assert_array_equal(np.asarray(one.obsm(name)), np.asarray(two.obsm(name)))
    np.testing.assert_array_equal(one.A, two.A)
    assert one.obs.equals(two.obs)
    assert one.objective == two.objective
    # Cells without counts are told apart from those that have a label.
    assert one.obs["tigon_label"].tolist()[-3:] == ["unassigned"] * 3
    assert one.obs["tigon_confidence"].tolist()[-3:] == [0.0] * 3


def test_few_cells_are_scaled_as_the_run_is(
    run: Run, data: anndata.AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    few, many = of(data, "b2")[:60].copy(), of(data, "b2")[:100].copy()
    with caplog.at_level(logging.WARNING, "tigon"):
        small = tigon.project(run, few, tmp_path / "few.zarr")
    assert "1 new datasets have fewer than 100 cells (b2)" in " ".join(caplog.messages)
    scale = run.per_gene("scale")
    mean_square = (run.n_cells[:, None] / scale**2).sum(axis=0) / run.n_cells.sum()
    np.testing.assert_allclose(small.per_gene("scale")[0], mean_square**-0.5, rtol=1e-12)
    large = tigon.project(run, many, tmp_path / "many.zarr")
    assert not np.allclose(large.per_gene("scale"), small.per_gene("scale"))


def test_pooled_scale_leaves_out_datasets_that_lack_a_gene() -> None:
    measured = {"a": np.array([True, True, False]), "b": np.array([True, False, False])}
    scale = {"a": np.array([2.0, 0.5, 0.0]), "b": np.array([1.0, 0.0, 0.0])}
    n_cells = {"a": 30, "b": 10}
    none: dict[str, np.ndarray] = {}
    squares = {name: own_squares(scale[name], n_cells[name]) for name in scale}
    W = np.zeros((1, 3), np.float32)
    known = Known(["x", "y", "z"], W, none, none, none, measured, scale, squares, n_cells, 5.0, {})
    expected = [((30 / 4 + 10 / 1) / 40) ** -0.5, 0.5, 0.0]
    np.testing.assert_allclose(known.pooled_scale(), expected, rtol=1e-12)
    np.testing.assert_array_equal(squares["a"], [29, 29, 0])


def test_missing_and_new_genes_are_told(run: Run, data: anndata.AnnData, tmp_path: Path) -> None:
    q = tigon.project(run, of(data, "b2")[:, 20:].copy(), tmp_path / "q.zarr", label_key="kind")
    assert any("20 of the model's 100 genes are not in the data" in note for note in q.notices)
    assert (q.per_gene("scale")[0] == 0).sum() >= 20
    right = q.obs["tigon_label"].astype(str).to_numpy() == of(data, "b2").obs["kind"].to_numpy()
    assert right.mean() >= 0.85


def test_votes_are_weighted_by_distance() -> None:
    near = Neighbors(
        np.array([[0, 1, 2], [2, 1, 0]], np.int32),
        np.array([[0.0, 1.0, 1.0], [0.5, 0.5, 0.5]], np.float32),
    )
    winners, share = vote(near, np.array([0, 1, 1], np.int32))
    e = np.exp(-1.0)
    assert winners.tolist() == [0, 1]
    np.testing.assert_allclose(share, [1 / (1 + 2 * e), 2 / 3], rtol=1e-6)


def test_factors_are_compared_in_units_of_the_run(run: Run) -> None:
    H = np.asarray(run.loadings)
    scale = factor_scale(run.A, run.n_cells)
    np.testing.assert_allclose(scale, np.sqrt((H.astype(float) ** 2).mean(axis=0)), rtol=1e-6)
    points = directions(H, scale)
    np.testing.assert_allclose((points**2).sum(axis=1), 1, rtol=1e-5)
    assert not directions(np.zeros((2, 4), np.float32), scale).any()
    assert recall_fit(run).names == run.datasets


def test_the_command_projects(run: Run, data: anndata.AnnData, tmp_path: Path) -> None:
    new = write_h5ad(of(data, "b2"), tmp_path / "new.h5ad")
    out = tmp_path / "q.zarr"
    told = works("project", run.path, new, "--label-key", "kind", "--out", out, "--json")
    facts = json.loads(told.stdout)
    assert facts["datasets"] == {"b2": int((data.obs["batch"] == "b2").sum())}
    assert set(facts["labels"]) <= set(data.obs["kind"])
    assert 0.8 < facts["mean_confidence"] <= 1
    text = works("project", run.path, new, "--out", out, "--overwrite").stdout
    assert "confidence" in text
    assert Run.open(out).command.startswith("tigon project ")


def test_the_command_refuses(run: Run, data: anndata.AnnData, tmp_path: Path) -> None:
    new = write_h5ad(of(data, "b2"), tmp_path / "new.h5ad")
    strange = of(data, "b2")
    strange.var_names = [f"x{i}" for i in range(strange.n_vars)]
    other = write_h5ad(strange, tmp_path / "strange.h5ad")
    out = tmp_path / "out.zarr"
    for arguments, said in (
        ([run.path, new, "--label-key", "colour"], "'colour' is not a column of the run's obs"),
        ([run.path, other], "none of the 100 genes of the model"),
        ([run.path, new, "--batch-key", "donor"], "'donor' is not a column"),
        ([run.path, new, "--n-threads", "0"], "n_threads is 0"),
        ([run.path, new, "--cells", "kind == 'x'"], "selects none of"),
        ([new, new], "not a finished run"),
    ):
        assert said in refused(tmp_path, "project", *arguments, "--out", out)
    assert "one of the sources" in refused(tmp_path, "project", run.path, new, "--out", run.path)
