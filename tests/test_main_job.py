"""The main job as a call: what it takes, what it refuses, what a run says of how it was made."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from atlases import planted
from builders import write_h5ad

import tigon
from tigon.main_job import report_path
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.datasets import tell_of_one_source
from tigon.scaling.recording import processor, versions

QUICK: dict[str, Any] = dict(n_components=3, n_epochs=2, n_threads=1, umap=False, report=False)


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("counts")
    adata = planted(n=240, m=40, k=3).adata
    adata.layers["raw"] = adata.X.copy()
    return write_h5ad(adata, folder / "a.h5ad")


def test_a_run_tells_what_was_opened_and_how(counts: Path, tmp_path: Path) -> None:
    again = shutil.copy(counts, tmp_path)
    run = tigon.integrate(
        [counts, again],
        out=tmp_path / "run.zarr",
        layer="raw",
        join="outer",
        allow_non_integer=True,
        align="quantile",
        n_quantiles=20,
        n_neighbors=7,
        min_dist=0.3,
        **QUICK,
    )
    assert run.config["opening"] == {
        "sources": [str(counts), str(again)],
        "join": "outer",
        "layer": "raw",
        "raw": False,
        "gene_id_column": None,
        "allow_non_integer": True,
    }
    assert run.config["align"]["n_quantiles"] == 20
    assert run.config["embed"]["n_neighbors"] == 7
    assert run.config["embed"]["min_dist"] == 0.3
    assert run.config.keys() == IntegrateConfig().as_dict().keys()
    assert run.versions["processor"]


def test_of_an_open_atlas_the_place_is_told(counts: Path, tmp_path: Path) -> None:
    with tigon.open(counts) as atlas:
        run = tigon.integrate(atlas, out=tmp_path / "run.zarr", **QUICK)
        with pytest.raises(
            tigon.InputError, match="layer='raw' was given for an atlas that is open"
        ):
            tigon.plan(atlas, layer="raw")
    assert run.config["opening"]["sources"] == [str(counts)]
    assert run.config["opening"]["join"] is None
    assert run.notices[0].startswith("all cells are fitted as one dataset, as they come from one")


@pytest.mark.parametrize("name", ["n_factors", "cell_filter", "sources"])
def test_what_is_not_an_option_is_named(name: str, counts: Path) -> None:
    with pytest.raises(tigon.InputError, match=f"'{name}' is not an option of integrate") as told:
        tigon.plan(counts, **{name: 1})
    for known in ("n_components", "n_landmarks", "n_quantiles", "scratch", "memory_limit"):
        assert known in str(told.value)


def test_every_option_is_documented() -> None:
    config = IntegrateConfig()
    parts = (config.prepare, config.inmf, config.align, config.embed)
    names = {name for part in parts for name in part.__dataclass_fields__}
    documented = tigon.integrate.__doc__ or ""
    assert [name for name in names - {"cell_filter"} if f"``{name}``" not in documented] == []


def test_reports_lie_beside_their_runs() -> None:
    assert report_path(Path("a/run.zarr")) == Path("a/run.html")
    assert report_path(Path("a/run.v2")) == Path("a/run.v2.html")


def test_the_processor_is_known() -> None:
    assert versions()["processor"] == processor() != ""


@pytest.mark.parametrize("ending", ["h5ad", "h5", "html", "loom", "csv", "H5AD"])
@pytest.mark.parametrize("call", [tigon.integrate, tigon.plan])
def test_a_run_is_not_another_type_of_file(
    call: Any, ending: str, counts: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        tigon.InputError, match=r"a run is a \.zarr folder; write .*run\.zarr, then"
    ):
        call(counts, out=tmp_path / f"run.{ending}", **QUICK)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("call", [tigon.integrate, tigon.plan])
def test_outputs_that_exist_are_refused_by_plans_too(
    call: Any, counts: Path, tmp_path: Path
) -> None:
    out, page = tmp_path / "run.zarr", tmp_path / "run.html"
    page.write_text("mine")
    options = {**QUICK, "report": True}
    with pytest.raises(tigon.OutputExistsError, match=r"the report .*run\.html of --out .*run"):
        call(counts, out=out, **options)
    out.mkdir()
    with pytest.raises(tigon.OutputExistsError, match=r"run\.zarr exists"):
        call(counts, out=out, **options)
    assert page.read_text() == "mine"


def test_a_plan_of_what_may_be_replaced(counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    out.mkdir()
    assert tigon.plan(counts, out=out, overwrite=True, **QUICK).peak_bytes > 0
    assert tigon.plan(counts, **QUICK).peak_bytes > 0


def test_columns_that_may_tell_datasets_apart_are_named(
    counts: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with tigon.open(counts) as atlas, tigon.write_atlas(atlas, tmp_path / "a.zarr") as stored:
        for each in (atlas, stored):
            caplog.clear()
            tell_of_one_source(each, "batch", None)
            assert not caplog.messages
            tell_of_one_source(each, None, "kind")
            assert caplog.messages[0].endswith("; columns with few values are batch (2 values)")
    with tigon.open([counts, shutil.copy(counts, tmp_path)]) as both:
        caplog.clear()
        tell_of_one_source(both, None, None)
        assert not caplog.messages


def test_progress_in_python_is_that_of_the_command_line(
    counts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, progress in enumerate([True, False, None]):
        tigon.integrate(counts, out=tmp_path / f"{number}.zarr", progress=progress, **QUICK)
        told = capsys.readouterr()
        assert told.out == ""
        assert ("reading cells: 240 cells" in told.err) == (progress is True)


def test_progress_may_be_a_callable(counts: Path, tmp_path: Path) -> None:
    told: list[str] = []

    def tell(stage: str, done: int, total: int, **_: float) -> None:
        told.append(stage)

    tigon.integrate(counts, out=tmp_path / "run.zarr", progress=tell, **QUICK)
    assert "reading cells" in told
