"""A run as an xarray dataset: complete, labelled and read late."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from run_builder import build_contents

from tigon.storage.errors import InputError
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run
from tigon.storage.views import labelled

xarray = pytest.importorskip("xarray")
NAMES = ["a/b", "..", "donor 3"]


@pytest.fixture(scope="module")
def contents() -> RunContents:
    contents = build_contents(dataset_names=NAMES)
    n = len(contents.obs)
    columns = {
        "flag": np.arange(n) % 2 == 0,
        "text": [f"note {i}" for i in range(n)],
        "with gaps": pd.Categorical(["x", None, "y"] * (n // 3)),
        "whole": pd.array([1, None, 3] * (n // 3), dtype="Int64"),
    }
    return replace(contents, obs=contents.obs.assign(**columns))


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, contents: RunContents) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run.zarr", contents)


@pytest.fixture(params=["dask", "no dask"])
def dataset(request: pytest.FixtureRequest, path: Path, monkeypatch: pytest.MonkeyPatch) -> object:
    if request.param == "no dask":
        monkeypatch.setattr(labelled, "has_dask", lambda: False)
    return Run.open(path).to_xarray()


def test_everything_is_there_under_its_names(dataset: object, contents: RunContents) -> None:
    assert isinstance(dataset, xarray.Dataset)
    for name, dims, expected in (
        ("W", ("factor", "gene"), contents.model.W),
        ("V", ("dataset", "factor", "gene"), np.stack(list(contents.model.V.values()))),
        ("H", ("cell", "factor"), contents.obsm["X_inmf"]),
        ("H_aligned", ("cell", "factor"), contents.obsm["X_inmf_aligned"]),
        ("X_umap", ("cell", "X_umap_axis"), contents.obsm["X_umap"]),
        ("A", ("dataset", "factor", "factor_b"), contents.model.A),
        ("B", ("dataset", "gene", "factor"), contents.model.B),
        ("n_cells", ("dataset",), contents.n_cells),
        ("scale", ("dataset", "gene"), contents.model.per_gene["scale"]),
        ("measured", ("dataset", "gene"), contents.model.per_gene["measured"]),
    ):
        assert dataset[name].dims == dims
        np.testing.assert_array_equal(dataset[name].to_numpy(), expected)
    assert float(dataset["objective"]) == contents.model.objective
    assert dataset.attrs["command"] == contents.command


def test_tables_are_coordinates(dataset: object, contents: RunContents) -> None:
    assert isinstance(dataset, xarray.Dataset)
    assert list(dataset["cell"].to_numpy()) == list(contents.obs.index)
    assert list(dataset["gene"].to_numpy()) == list(contents.var.index)
    assert list(dataset["dataset"].to_numpy()) == NAMES
    for table, frame in (("obs", contents.obs), ("var", contents.var)):
        for name in frame.columns:
            found = dataset.coords[f"{table}_{name}"].to_series()
            assert found.isna().tolist() == frame[name].isna().tolist()
            assert list(found.dropna()) == list(frame[name].dropna())
    gene = dataset.sel(gene="GENE7", dataset="..")
    np.testing.assert_array_equal(gene["W"], contents.model.W[:, 6])
    np.testing.assert_array_equal(gene["V"], contents.model.V[".."][:, 6])
    np.testing.assert_array_equal(gene["B"], contents.model.B[1, 6])


def test_factors_by_cluster(path: Path, contents: RunContents) -> None:
    dataset = Run.open(path).to_xarray()
    H = dataset["H"].load()
    means = H.groupby(dataset["obs_tigon_cluster"].astype(str).rename("cluster")).mean()
    frame = pd.DataFrame(np.asarray(contents.obsm["X_inmf"])).groupby(
        contents.obs["tigon_cluster"].astype(str).to_numpy()
    )
    np.testing.assert_allclose(means.to_numpy(), frame.mean().to_numpy(), rtol=1e-5)


def test_nothing_but_names_is_read_before_it_is_asked_for(path: Path) -> None:
    dask_array = pytest.importorskip("dask.array")
    dataset = Run.open(path).to_xarray()
    for name in ("W", "V", "H", "H_aligned", "X_umap", "A", "B", "obs_total_counts"):
        assert isinstance(dataset[name].data, dask_array.Array), name
    for name in ("obs_tigon_cluster", "obs_label"):
        assert not isinstance(dataset[name].variable._data, np.ndarray | pd.Categorical)


def test_without_xarray_it_says_so(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "xarray", None)
    with pytest.raises(InputError, match="xarray is not installed"):
        Run.open(path).to_xarray()
