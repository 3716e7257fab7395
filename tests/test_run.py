"""A run as its three readers see it: Tigon, anndata and xarray."""

from __future__ import annotations

import errno
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
import zarr
from run_builder import build_contents

from tigon.storage.errors import InputError, OutputExistsError, TigonError
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run

AWKWARD = ['a/b <i>"&', "..", "$x$", "é 东"]


class FailingRows:
    """Loadings that cannot be read back."""

    shape = (3000, 8)
    dtype = np.dtype(np.float32)

    def __init__(self, error: OSError) -> None:
        self.error = error

    def read(self, start: int, stop: int) -> np.ndarray:
        raise self.error


LOST = OSError("the loadings are lost")


@pytest.fixture(scope="module")
def contents() -> RunContents:
    return build_contents()


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory, contents: RunContents) -> Path:
    return write_run(tmp_path_factory.mktemp("run") / "run.zarr", contents)


def test_anndata_reads_what_was_written(path: Path, contents: RunContents) -> None:
    adata = anndata.read_zarr(path)
    pd.testing.assert_frame_equal(
        adata.obs, contents.obs, check_index_type=False, check_categorical=False
    )
    assert list(adata.var_names) == list(contents.var.index)
    for name, matrix in contents.obsm.items():
        np.testing.assert_array_equal(adata.obsm[name], matrix)
    np.testing.assert_array_equal(adata.varm["W"], contents.model.W.T)
    for name, V in contents.model.V.items():
        np.testing.assert_array_equal(adata.varm[f"V_{name}"], V.T)
    tigon = adata.uns["tigon"]
    assert isinstance(tigon["objective"], float)
    assert tigon["objective"] == contents.model.objective
    np.testing.assert_array_equal(tigon["statistics"]["A"], contents.model.A)
    np.testing.assert_array_equal(tigon["statistics"]["B"], contents.model.B)
    np.testing.assert_array_equal(tigon["history"]["loss"], contents.history["loss"])
    assert set(tigon) >= {"config", "versions", "history", "timings_s", "peak_memory_bytes"}


def test_xarray_reads_the_statistics(path: Path, contents: RunContents) -> None:
    xarray = pytest.importorskip("xarray")
    with xarray.open_zarr(path, group="uns/tigon/statistics") as statistics:
        assert statistics["A"].dims == ("dataset", "factor", "factor_b")
        assert statistics["B"].dims == ("dataset", "gene", "factor")
        assert statistics["n_cells"].dims == ("dataset",)
        assert {statistics[name].dtype.str for name in ("A", "B", "n_cells")} == {"<f8"}
        assert [str(name) for name in statistics["dataset"].values] == list(contents.model.V)
        second = statistics["B"].sel(dataset="donor2", gene="GENE7").values
        np.testing.assert_array_equal(second, contents.model.B[1, 6])


def test_run_gives_back_what_was_written(path: Path, contents: RunContents) -> None:
    run = Run.open(path)
    assert run.datasets == tuple(contents.model.V)
    np.testing.assert_array_equal(run.W, contents.model.W)
    assert list(run.V) == list(contents.model.V)
    for name, V in contents.model.V.items():
        np.testing.assert_array_equal(run.V[name], V)
    np.testing.assert_array_equal(run.A, contents.model.A)
    np.testing.assert_array_equal(run.B, contents.model.B)
    np.testing.assert_array_equal(run.n_cells, contents.n_cells)
    np.testing.assert_array_equal(run.per_gene("measured"), contents.model.per_gene["measured"])
    H = np.asarray(contents.obsm["X_inmf"])
    np.testing.assert_array_equal(np.asarray(run.loadings), H)
    np.testing.assert_array_equal(run.loadings.read(100, 117), H[100:117])
    assert run.config == contents.config
    assert run.versions == contents.versions
    assert run.timings_s == contents.timings_s
    assert run.scores == contents.scores
    assert run.notices == list(contents.notices)
    assert run.command == contents.command
    assert run.peak_memory_bytes == contents.peak_memory_bytes
    assert run.memory_limit_bytes == contents.memory_limit_bytes


def test_repr_states_the_sizes(path: Path) -> None:
    text = repr(Run.open(path))
    assert "3,000 cells, 60 genes, 3 datasets, 8 factors" in text
    assert "objective 123457" in text


def test_one_of_a_kind_is_told_so(tmp_path: Path) -> None:
    contents = build_contents(1, 1, n_genes=1, n_components=1, n_clusters=1)
    text = repr(Run.open(write_run(tmp_path / "run.zarr", contents)))
    assert "    1 cell, 1 gene, 1 dataset, 1 factor" in text.splitlines()


def test_scores_that_are_not_there_name_what_makes_them(path: Path) -> None:
    with pytest.raises(InputError, match=r"no matrix 'X_pca': it has .*; `tigon pca` makes a run"):
        Run.open(path).obsm("X_pca")
    with pytest.raises(InputError, match=r"no matrix 'X_other': it has [^;]*$"):
        Run.open(path).obsm("X_other")


def test_awkward_dataset_names_come_back(tmp_path: Path) -> None:
    contents = build_contents(n_cells=50, dataset_names=AWKWARD)
    path = write_run(tmp_path / "run.zarr", contents)
    assert list(Run.open(path).V) == AWKWARD
    adata = anndata.read_zarr(path)
    assert 'V_a%2Fb <i>"&' in adata.varm
    assert set(adata.obs["tigon_dataset"].unique()) == set(AWKWARD)


@pytest.mark.parametrize("change", [{"notices": ()}, {"memory_limit_bytes": None}, {"history": {}}])
def test_empty_parts_are_allowed(tmp_path: Path, change: dict[str, object]) -> None:
    contents = replace(build_contents(n_cells=50, labels=False), **change)
    run = Run.open(write_run(tmp_path / "run.zarr", contents))
    name, value = next(iter(change.items()))
    assert getattr(run, name) == (list(value) if name == "notices" else value)


def test_rows_are_sharded_and_streamed(tmp_path: Path) -> None:
    n, largest = 40_000, 0
    contents = build_contents(n_cells=n, n_components=2)
    values = np.arange(n * 300, dtype=np.float32).reshape(n, 300)

    class Rows:
        shape = values.shape
        dtype = values.dtype

        def read(self, start: int, stop: int) -> np.ndarray:
            nonlocal largest
            largest = max(largest, stop - start)
            return values[start:stop]

    contents = replace(contents, obsm={**contents.obsm, "X_wide": Rows()})
    run = Run.open(write_run(tmp_path / "run.zarr", contents))
    np.testing.assert_array_equal(np.asarray(run.obsm("X_wide")), values)
    assert largest == 16384
    assert run.loadings.array.chunks == (16384, 2)
    assert run.loadings.array.shards == (3 * 16384, 2)


@pytest.mark.parametrize(
    ("error", "shown", "message"),
    [
        (LOST, OSError, "the loadings are lost"),
        (OSError(errno.ENOSPC, "No space left on device"), TigonError, "no space left to write"),
    ],
)
def test_failure_leaves_nothing(
    tmp_path: Path, error: OSError, shown: type[Exception], message: str
) -> None:
    contents = build_contents(n_cells=3000)
    failing = replace(contents, obsm={**contents.obsm, "X_inmf": FailingRows(error)})
    with pytest.raises(shown, match=message):
        write_run(tmp_path / "run.zarr", failing)
    assert list(tmp_path.iterdir()) == []


def test_failure_keeps_the_old_run(tmp_path: Path) -> None:
    contents = build_contents(n_cells=3000)
    path = write_run(tmp_path / "run.zarr", contents)
    with pytest.raises(OutputExistsError):
        write_run(path, contents)
    failing = replace(contents, obsm={"X_inmf": FailingRows(LOST)})
    with pytest.raises(OSError, match="the loadings are lost"):
        write_run(path, failing, overwrite=True)
    assert Run.open(path).objective == contents.model.objective
    write_run(path, replace(contents, model=replace(contents.model, objective=7.0)), overwrite=True)
    assert Run.open(path).objective == 7.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["run.zarr"]


def test_awkward_columns_come_back(tmp_path: Path) -> None:
    contents = build_contents(n_cells=4, n_datasets=1, n_clusters=1)
    columns = {
        "a/b": [1, 2, 3, 4],
        "text with gaps": ["x", None, "y", "x"],
        "mixed": ["x", 1, True, None],
        "day": pd.to_datetime(["2024-01-02"] * 4),
        "flag": [True, False, True, True],
        "nullable": pd.array([1, None, 3, 4], dtype="Int64"),
        "nullable number": pd.array([0.5, None, 3, 4], dtype="Float64"),
        "nullable flag": pd.array([True, None, False, True], dtype="boolean"),
        "number": [0.5, np.nan, 3, 4],
        "kind": pd.Categorical(["b", None, "a", "b"], categories=["b", "a"]),
        3: [1, 2, 3, 4],
    }
    obs = pd.DataFrame(columns, index=contents.obs.index).rename_axis("barcode")
    read = Run.open(write_run(tmp_path / "run.zarr", replace(contents, obs=obs))).obs
    assert list(read.index) == list(obs.index)
    assert list(read["a%2Fb"]) == [1, 2, 3, 4]
    assert read["text with gaps"].astype(object).where(lambda x: x.notna(), None).tolist() == [
        *("x", None, "y", "x")
    ]
    assert read["mixed"].dropna().tolist() == ["x", "1", "True"]
    assert read["day"].tolist() == ["2024-01-02 00:00:00"] * 4
    assert read["flag"].tolist() == columns["flag"]
    assert read["nullable"].isna().tolist() == [False, True, False, False]
    assert read["nullable"].dropna().tolist() == [1, 3, 4]
    for name in ("nullable number", "number"):
        np.testing.assert_array_equal(read[name], [0.5, np.nan, 3, 4])
    assert read["nullable flag"].isna().tolist() == [False, True, False, False]
    assert read["nullable flag"].dropna().tolist() == [True, False, True]
    assert read["kind"].cat.codes.tolist() == [0, -1, 1, 0]
    assert list(read["kind"].cat.categories) == ["b", "a"]
    assert read["3"].tolist() == [1, 2, 3, 4]


def test_reserved_column_is_refused(tmp_path: Path) -> None:
    contents = build_contents(n_cells=50)
    with pytest.raises(InputError, match='a column is named "_index"'):
        write_run(tmp_path / "run.zarr", replace(contents, obs=contents.obs.assign(_index=1)))
    assert list(tmp_path.iterdir()) == []


def test_unfinished_run_does_not_open(tmp_path: Path) -> None:
    """The marks of a run are written last: without them neither reader opens it."""
    path = write_run(tmp_path / "run.zarr", build_contents(n_cells=50))
    (path / "zarr.json").write_text('{"zarr_format": 3, "node_type": "group", "attributes": {}}')
    with pytest.raises(InputError, match="not a finished run"):
        Run.open(path)


@pytest.mark.parametrize("kind", ["absent", "file", "empty folder", "other zarr"])
def test_what_is_not_a_run_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "thing.zarr"
    if kind == "file":
        path.write_text("text")
    elif kind == "empty folder":
        path.mkdir()
    elif kind == "other zarr":
        zarr.create_group(store=str(path))
    with pytest.raises(InputError, match=r"there is no run|not a finished run"):
        Run.open(path)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", build_contents(n_cells=50))
    zarr.open_array(str(path / "uns/tigon/format_version"), mode="r+")[...] = 99
    with pytest.raises(InputError, match=r"format 99: this Tigon reads up to 1"):
        Run.open(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_cells": np.zeros(4)}, r"n_cells has the wrong shape"),
        ({"obsm": {"X_inmf": np.zeros((10, 8))}}, r"rows of X_inmf"),
        ({"history": {"step": np.zeros(3), "loss": np.zeros(4)}}, r"differ in length"),
        ({"var": pd.DataFrame(index=["g"] * 60)}, r"gene name is there twice \('g'\)"),
    ],
)
def test_contents_that_do_not_fit_are_refused(
    contents: RunContents, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        replace(contents, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"A": np.zeros((3, 8, 7))}, r"A has the wrong shape"),
        ({"objective": float("nan")}, r"objective is not finite"),
        ({"V": {}}, r"those of the run are needed, in their order \(donor1, donor2, donor3\)"),
    ],
)
def test_factors_that_do_not_fit_are_refused(
    contents: RunContents, change: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        replace(contents, model=replace(contents.model, **change))
