"""Factors left out of alignment and of what follows from it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from builders import write_h5ad
from command_line import refused, works
from run_builder import build_contents
from technical import handled_cells

import tigon
from tigon.command.values import wanted_factors
from tigon.scaling.alignment.aligning import align
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.embedding.space import to_space
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.transferring import factor_scale
from tigon.storage.errors import InputError
from tigon.storage.rows import ArrayRows
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run

OPTIONS: dict[str, Any] = dict(
    batch_key="batch",
    label_key="kind",
    n_components=5,
    n_genes="all",
    n_epochs=3,
    n_threads=2,
    umap=False,
)


class Stopped(Exception):
    """What ends a job before its time."""


def stop_in(stage: str) -> Callable[..., None]:
    def progress(told: str, *counts: int, **figures: float) -> None:
        if told == stage:
            raise Stopped

    return progress


@pytest.fixture(scope="module")
def data() -> anndata.AnnData:
    return handled_cells(600)


@pytest.fixture(scope="module")
def run(data: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return tigon.integrate(
        data, out=tmp_path_factory.mktemp("run") / "run.zarr", report=False, **OPTIONS
    )


@pytest.fixture(scope="module")
def dropped(run: Run) -> list[int]:
    """The two technical factors."""
    found = np.flatnonzero(tigon.factors(run)["technical"] != "").tolist()
    assert len(found) == 2
    return found


@pytest.fixture(scope="module")
def kept(dropped: list[int]) -> list[int]:
    return [f for f in range(5) if f not in dropped]


@pytest.fixture(scope="module")
def without(run: Run, dropped: list[int], tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run without its technical factors, with its report."""
    out = tmp_path_factory.mktemp("without") / "without.zarr"
    return tigon.drop_factors(run, dropped[::-1], out, n_threads=2)


def arrays(run: Run) -> dict[str, np.ndarray]:
    found = {name: np.asarray(run.obsm(name)) for name in run.obsm_names}
    found |= {"W": run.W, "A": run.A, "B": run.B, "clusters": run.obs["tigon_cluster"].to_numpy()}
    return found | {f"V {name}": V for name, V in run.V.items()}


def check_same(one: Run, other: Run) -> None:
    a, b = arrays(one), arrays(other)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)
    assert one.obs.equals(other.obs)
    assert one.scores == other.scores


def test_a_dropped_factor_has_no_part_in_the_points(
    run: Run, without: Run, kept: list[int]
) -> None:
    H = np.asarray(run.loadings)[:, kept].copy()
    codes = run.obs["tigon_dataset"].cat.codes.to_numpy().astype(np.int32)
    points = np.zeros_like(H)

    def write(start: int, rows: np.ndarray) -> None:
        points[start : start + len(rows)] = rows

    with ThreadEngine(1) as engine:
        align(ArrayRows(H), codes, 2, AlignConfig(), 0, engine, write)
    np.testing.assert_array_equal(np.asarray(without.obsm("X_inmf_aligned")), points)


def test_all_else_is_carried_over(run: Run, without: Run, dropped: list[int]) -> None:
    for name in ("W", "A", "B", "n_cells", "objective", "datasets", "genes"):
        np.testing.assert_array_equal(getattr(without, name), getattr(run, name))
    np.testing.assert_array_equal(np.asarray(without.loadings), np.asarray(run.loadings))
    for name in run.per_gene_names:
        np.testing.assert_array_equal(without.per_gene(name), run.per_gene(name))
    for name, column in run.history.items():
        np.testing.assert_array_equal(without.history[name], column)
    assert list(without.obs) == list(run.obs)
    assert without.var.equals(run.var)
    assert without.config["drop_factors"] == dropped
    assert without.config["rearranged"]["run"] == str(run.path)
    assert {k: v for k, v in without.config.items() if k not in ("drop_factors", "rearranged")} == {
        k: v for k, v in run.config.items() if k != "drop_factors"
    }
    assert anndata.read_zarr(without.path).obsm["X_inmf_aligned"].shape == (600, 3)


def test_it_is_the_run_of_an_integration_that_drops_them(
    without: Run, dropped: list[int], data: anndata.AnnData, tmp_path: Path
) -> None:
    """Also of one that was interrupted."""
    source, out = write_h5ad(data, tmp_path / "a.h5ad"), tmp_path / "told.zarr"
    options = OPTIONS | {"drop_factors": dropped, "report": False, "resume": True, "n_threads": 1}
    with pytest.raises(Stopped):
        tigon.integrate(source, out=out, progress=stop_in("finding offsets, round 2"), **options)
    told = tigon.integrate(source, out=out, **options)
    check_same(told, without)
    assert told.config["drop_factors"] == dropped


def test_threads_do_not_matter_and_what_was_dropped_can_be_taken_back(
    run: Run, without: Run, dropped: list[int], tmp_path: Path
) -> None:
    again: dict[str, Any] = dict(out=tmp_path / "one.zarr", n_threads=1, report=False)
    with pytest.raises(Stopped):
        tigon.drop_factors(run, dropped, **again, progress=stop_in("aligning"))
    assert list(tmp_path.iterdir()) == []
    one = tigon.drop_factors(run, dropped, **again)
    check_same(one, without)
    back = tigon.drop_factors(without, (), tmp_path / "back.zarr", n_threads=2, report=False)
    check_same(back, run)


def test_new_cells_are_compared_in_the_space_of_the_kept_factors(
    without: Run, kept: list[int], data: anndata.AnnData, tmp_path: Path
) -> None:
    some = data[:120].copy()
    query = tigon.project(without, some, tmp_path / "q.zarr", label_key="kind", n_threads=2)
    scale = factor_scale(without.A, without.n_cells)[kept]
    H = np.asarray(query.loadings)
    assert H.shape == (120, 5)
    points = np.asarray(query.obsm("X_inmf_aligned"))
    np.testing.assert_array_equal(points, to_space(H[:, kept] / scale))
    assert (query.obs["tigon_label"].astype(str) == some.obs["kind"].astype(str)).mean() >= 0.95
    with pytest.raises(InputError, match="is a projection"):
        tigon.drop_factors(query, [0], tmp_path / "no.zarr")


def test_an_update_goes_on_leaving_them_out(
    without: Run, dropped: list[int], tmp_path: Path
) -> None:
    left = tigon.update(without, None, tmp_path / "u.zarr", drop=["b0"], report=False)
    assert left.obsm("X_inmf_aligned").shape[1] == 3
    assert left.loadings.shape[1] == 5
    assert np.flatnonzero(tigon.factors(left)["dropped"]).tolist() == dropped


def test_the_report_and_the_listing_mark_them(without: Run, dropped: list[int]) -> None:
    page, found = without.path.with_suffix(".html").read_text(), tigon.factors(without)
    for f in range(5):
        card = page.split(f"<h3>Factor {f}")[1].split("</h3>")[0]
        assert ("dropped" in card) == (f in dropped)
        assert ("technical?" in card) == bool(found.loc[f, "technical"])
    numbers = ", ".join(map(str, dropped))
    assert f"leave out: {numbers}." in works("factors", without.path).stdout
    assert f"5 ({numbers} dropped)" in works("info", without.path).stdout


def test_labels_of_xarray_say_which_are_kept(without: Run, kept: list[int]) -> None:
    pytest.importorskip("xarray")
    dataset = without.to_xarray()
    assert dataset["H_aligned"].dims == ("cell", "kept_factor")
    assert dataset["kept_factor"].values.tolist() == kept
    assert dataset["H"].sizes["factor"] == 5


def test_cells_that_load_on_nothing_else_are_unassigned(tmp_path: Path) -> None:
    contents = build_contents(n_cells=300, n_components=3, n_clusters=3)
    H = np.asarray(contents.obsm["X_inmf"]).copy()
    H[:40, 1:] = 0
    obsm = {**contents.obsm, "X_inmf": H}
    config = {"inmf": {"n_components": 3}, "align": {}, "embed": {"umap": False}, "label_key": None}
    old = ["alignment may have merged a group that", "clusters and layout are of a sample of 2"]
    noted = replace(contents, obsm=obsm, config=config, notices=["a note", *old])
    write_run(tmp_path / "run.zarr", noted)
    made = tigon.drop_factors(tmp_path / "run.zarr", [0], tmp_path / "out.zarr", report=False)
    lost = (made.obs["tigon_cluster"] == "unassigned").to_numpy()
    assert lost[:40].all()
    assert not np.asarray(made.obsm("X_inmf_aligned"))[:40].any()
    assert lost.sum() == (~H[:, 1:].any(axis=1)).sum()
    # What was said of the alignment before does not hold of this one.
    assert made.notices == ["a note"]


def test_the_command_drops(run: Run, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    arguments = ("factors", run.path, "--drop-factors", "4,1", "--out", out, "--no-report")
    facts = json.loads(works(*arguments, "--json").stdout)
    assert facts["dropped_factors"] == [1, 4]
    assert [path.name for path in tmp_path.iterdir()] == ["out.zarr"]
    assert Run.open(out).command.startswith("tigon factors ")


def test_no_factor_is_dropped_where_none_is_named() -> None:
    assert wanted_factors(None) == wanted_factors(" none ") == ()
    assert wanted_factors("3, 7") == (3, 7)


def test_the_command_refuses(run: Run, data: anndata.AnnData, tmp_path: Path) -> None:
    source = tmp_path / "a.h5ad"
    data.write_h5ad(source)
    out = tmp_path / "out.zarr"
    for text, said in (
        ("5", "factor 5 cannot be dropped: there are 5, numbered from 0 to 4"),
        ("-1", "factor -1 cannot be dropped"),
        ("1,1", "factor 1 is to be dropped twice"),
        ("0,1,2,3,4", "all 5 factors are to be dropped"),
        ("mito", "--drop-factors is 'mito'"),
        ("1;2", "--drop-factors is '1;2'"),
        ("", "--drop-factors is ''"),
    ):
        assert said in refused(
            tmp_path, "factors", run.path, f"--drop-factors={text}", "--out", out
        )
        integrate = ("integrate", source, "-k", "5", f"--drop-factors={text}", "--out", out)
        assert said in refused(tmp_path, *integrate)
    assert "give --out" in refused(tmp_path, "factors", run.path, "--drop-factors", "1")
    assert "give --drop-factors" in refused(tmp_path, "factors", run.path, "--out", out)
    over = ("factors", run.path, "--drop-factors", "1", "--overwrite", "--out", run.path)
    assert "one of the sources" in refused(tmp_path, *over)
    small = ("factors", run.path, "--drop-factors", "1", "--out", out, "--memory-limit", "64MiB")
    assert "the memory limit of 64.0 MiB is too small" in refused(tmp_path, *small)


@pytest.mark.parametrize("wrong", ["3", 3, [1.5], ["1"], [True], None])
def test_numbers_of_factors_are_a_list_of_whole_numbers(
    run: Run, wrong: Any, tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        tigon.drop_factors(run, wrong, tmp_path / "out.zarr")
