"""The main job through the command line."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import anndata
import numba
import numpy as np
import pytest
import typer
from atlases import planted
from builders import make_adata, write_h5ad
from command_line import TIGON, listing, tigon, works
from scipy import sparse

from tigon.command.app import app
from tigon.command.showing.progress import COMPILING
from tigon.main_job import plan
from tigon.scaling.cells import CellFilter
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.inmf import rescaling
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.preparing import PrepareConfig

QUICK = ("-k", "3", "--n-epochs", "3", "--no-umap")


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 cells of three programs in two batches."""
    return write_h5ad(planted(n=300, m=60, k=3).adata, tmp_path_factory.mktemp("counts") / "a.h5ad")


@pytest.fixture(scope="module")
def job(counts: Path) -> tuple[list[str], dict[str, Any]]:
    """A finished job: its arguments, and what it answered."""
    out = counts.with_name("run.zarr")
    arguments = ["integrate", str(counts), "--out", str(out), "--batch-key", "batch", *QUICK]
    arguments += ["--label-key", "kind", "--json"]
    return arguments, json.loads(works(*arguments).stdout)


def test_the_answer_sums_up_the_run(job: tuple[list[str], dict[str, Any]]) -> None:
    _, facts = job
    adata = anndata.read_zarr(facts["path"])
    assert (facts["n_cells"], facts["n_genes"]) == adata.shape == (300, 60)
    assert facts["datasets"] == adata.obs["batch"].value_counts().sort_index().to_dict()
    assert facts["objective"] == adata.uns["tigon"]["objective"]
    assert facts["clusters"] == adata.obs["tigon_cluster"].value_counts().to_dict()
    assert {"ari", "nmi", "knn_accuracy", "mixing"} <= facts["scores"].keys()
    assert facts["elapsed_s"] > facts["time_s"] > 0
    assert 0 < facts["peak_memory_bytes"] < facts["memory_limit_bytes"] == 2 << 30
    assert "X_umap" not in adata.obsm


def test_the_report_lies_beside_the_run(job: tuple[list[str], dict[str, Any]]) -> None:
    _, facts = job
    page = Path(facts["report"])
    assert page == Path(facts["path"]).with_suffix(".html")
    assert "tigon integrate" in page.read_text()


def test_the_run_keeps_the_command_that_made_it(job: tuple[list[str], dict[str, Any]]) -> None:
    arguments, facts = job
    assert shlex.split(facts["command"]) == ["tigon", *arguments]


def test_the_summary_for_people(counts: Path, tmp_path: Path) -> None:
    options = ("--batch-key", "batch", "--label-key", "kind", *QUICK)
    result = works("integrate", counts, "--out", tmp_path / "run.zarr", *options)
    names = ["run", "cells", "genes", "datasets", "factors", "objective", "clusters", "scores"]
    names += ["peak memory", "time", "report"]
    assert [re.split(r"  +", line)[0] for line in result.stdout.splitlines()] == names
    assert re.search(r"^scores +ARI \d\.\d{3}, ", result.stdout, re.MULTILINE)
    for stage in ("reading cells", "packing cells", "epoch 3", "solving loadings"):
        assert re.search(rf"^{stage}: 300 cells, ", result.stderr, re.MULTILINE)
    assert not list(tmp_path.glob(".*"))


def test_no_report(counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    arguments = ("integrate", counts, "--out", out, *QUICK, "--no-report", "--json")
    assert json.loads(works(*arguments).stdout)["report"] is None
    assert [path.name for path in tmp_path.iterdir()] == ["run.zarr"]


def test_files_are_the_datasets_where_no_batch_key_is_given(tmp_path: Path) -> None:
    paths = [
        write_h5ad(planted(n=120, m=40, k=3, d=1, seed=s).adata, tmp_path / f"s{s}.h5ad")
        for s in (1, 2)
    ]
    out = tmp_path / "run.zarr"
    facts = json.loads(works("integrate", *paths, "--out", out, *QUICK, "--json").stdout)
    assert facts["datasets"] == {"s1": 120, "s2": 120}


def test_listed_genes_are_the_genes_of_the_run(counts: Path, tmp_path: Path) -> None:
    (tmp_path / "genes.txt").write_text("gene7\n\ngene3 \ngene30\ngene11\n")
    out = tmp_path / "run.zarr"
    works("integrate", counts, "--out", out, *QUICK, "--genes", tmp_path / "genes.txt")
    assert list(anndata.read_zarr(out).var_names) == ["gene3", "gene7", "gene11", "gene30"]


def test_a_dry_run_reads_no_counts_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    # Reading any of these counts would be refused.
    bad = sparse.csr_matrix(np.full((60, 25), np.nan, np.float32))
    path = write_h5ad(make_adata(bad), tmp_path / "a.h5ad")
    before = listing(tmp_path)
    options = ("--batch-key", "batch", "--out", "run.zarr", "--dry-run")
    facts = json.loads(works("integrate", path, *options, "--json").stdout)
    text = works("integrate", path, *options).stdout
    assert listing(tmp_path) == before
    expected = plan(path, batch_key="batch")
    assert facts["peak_bytes"] == expected.peak_bytes == max(facts["stages"].values())
    assert facts["atlas_passes"] == expected.atlas_passes
    assert re.search(r"^passes over the counts +2", text, re.MULTILINE)
    assert re.search(r"^memory +up to .* of 2GiB$", text, re.MULTILINE)


def test_what_was_interrupted_is_told(
    counts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("tigon.report.write_report", interrupt)
    result = tigon("integrate", counts, "--out", tmp_path / "run.zarr", *QUICK)
    assert result.exit_code == 130
    last = result.stderr.splitlines()[-1]
    assert last == f"interrupted; {tmp_path}/run.zarr is complete, what goes with it is not"


def test_defaults_are_those_of_the_library() -> None:
    command = typer.main.get_group(app).commands["integrate"]
    shown = {option.name: option.default for option in command.params}
    # It has another default on a cluster, so that the command leaves it open.
    assert shown["staleness"] is None
    for config in (INMFConfig, EmbedConfig, CellFilter, PrepareConfig):
        own = {field.name: field.default for field in fields(config)}
        for name in own.keys() & shown.keys() - {"staleness", "n_genes", "lam", "polish"}:
            assert shown[name] == own[name], name
    genes = next(option for option in command.params if option.name == "n_genes")
    assert genes.show_default == str(PrepareConfig().n_genes)
    # These may be more than a number.
    for name in ("lam", "polish"):
        assert float(shown[name]) == getattr(INMFConfig(), name)


@pytest.mark.slow
def test_the_first_compilation_is_shown_and_kept(counts: Path, tmp_path: Path) -> None:
    def said(number: int) -> str:
        # A job of few kernels: the others are kept alike, see test_kernel_faces.
        arguments = ["pca", str(counts), "--out", f"{number}.zarr", "-k", "3", "--no-report"]
        environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path / "cache")}
        return subprocess.run(
            [*TIGON, *arguments], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, check=True
        ).stderr.decode()

    assert said(1).count(COMPILING) == 1
    assert COMPILING not in said(2)


def test_compiling_is_shown(counts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    not_compiled = numba.njit(rescaling.row_squares.py_func)
    monkeypatch.setattr(rescaling, "row_squares", not_compiled)
    result = works("integrate", counts, "--out", tmp_path / "run.zarr", *QUICK, "--no-report")
    assert not_compiled.signatures
    assert result.stderr.count(COMPILING) == 1
