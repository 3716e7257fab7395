"""UINMF as a job: the command line, what a run keeps, later cells and resuming."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from builders import write_h5ad
from command_line import refused, works

import tigon
from tigon.command.values import lambdas, wanted_unshared
from tigon.scaling import recalling
from tigon.storage.errors import InputError
from tigon.storage.runs.run import Run

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from unshared_planted import (  # after the folder of the benchmarks is known
    PlantedParts,
    planted_unshared,
)

OPTIONS: dict[str, Any] = dict(
    n_components=4,
    lam_by_dataset={"b1": 1.0},
    n_genes="all",
    n_unshared=30,
    n_epochs=3,
    minibatch_size=40,
    minibatches_per_task=2,
    staleness=1,
    umap=False,
    report=False,
    n_threads=1,
)


class Stopped(Exception):
    """What ends a job before its time."""


@pytest.fixture(scope="module")
def case() -> PlantedParts:
    return planted_unshared(n=200, n_shared=24, n_own=20, k=4, d=3, depth=800)


@pytest.fixture(scope="module")
def atlas(case: PlantedParts, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("atlas") / "atlas.zarr"
    paths = [write_h5ad(part, place.parent / f"b{i}.h5ad") for i, part in enumerate(case.parts)]
    tigon.write_atlas(tigon.open(paths, join="outer"), place)
    return place


@pytest.fixture(scope="module")
def whole(atlas: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of one thread, which nothing disturbed."""
    return tigon.integrate(atlas, out=tmp_path_factory.mktemp("whole") / "run.zarr", **OPTIONS)


def assert_same(one: Run, other: Run) -> None:
    assert one.W.tobytes() == other.W.tobytes()
    assert one.A.tobytes() == other.A.tobytes()
    assert one.B.tobytes() == other.B.tobytes()
    for name in one.datasets:
        assert one.V[name].tobytes() == other.V[name].tobytes()
    assert np.asarray(one.loadings).tobytes() == np.asarray(other.loadings).tobytes()
    assert one.var.equals(other.var)


def test_a_run_says_what_is_shared_and_every_lambda(whole: Run, case: PlantedParts) -> None:
    adata = anndata.read_zarr(whole.path)
    shared = adata.var["tigon_shared"].to_numpy()
    assert shared.sum() == 24
    assert (~shared).sum() == 30
    assert not adata.varm["W"][~shared].any()
    assert list(adata.uns["tigon"]["statistics"]["lam"]) == [5.0, 1.0, 5.0]
    known = recalling.recall_fit(whole)
    assert known.lam == {"b0": 5.0, "b1": 1.0, "b2": 5.0}
    np.testing.assert_array_equal(known.shared, shared)
    assert abs(known.objective() - whole.objective) <= 1e-6 * whole.objective


def test_an_interrupted_job_goes_on_to_the_same_bytes(
    atlas: Path, whole: Run, tmp_path: Path
) -> None:
    """Stopped in the epoch after that of the common genes."""

    def progress(stage: str, done: int, total: int, **figures: float) -> None:
        if stage == "epoch 2":
            raise Stopped

    out = tmp_path / "run.zarr"
    with pytest.raises(Stopped):
        tigon.integrate(atlas, out=out, resume=True, progress=progress, **OPTIONS)
    assert_same(tigon.integrate(atlas, out=out, resume=True, **OPTIONS), whole)


def test_cells_that_come_later(case: PlantedParts, atlas: Path, tmp_path: Path) -> None:
    """Update and project by the command: known datasets with their U, new ones without."""
    b0, b1, b2 = (atlas.parent / f"b{i}.h5ad" for i in range(3))
    run, later, query = (tmp_path / f"{name}.zarr" for name in ("run", "later", "query"))
    options = ["-k", "4", "--n-epochs", "3", "--no-umap", "--no-report", "--n-genes", "all"]
    unshared = ["--join", "outer", "--n-unshared", "all", "--lam", "2,b1=1"]
    works("integrate", b0, b1, *unshared, *options, "--out", run)
    command = ["update", run, b2, "--drop", "b1", "--no-report", "--out", later, "--json"]
    assert json.loads(works(*command).stdout)["datasets"] == {"b0": 200, "b2": 200}
    updated = Run.open(later)
    assert updated.lam is not None
    assert updated.lam.tolist() == [2.0, 2.0]
    shared = updated.var["tigon_shared"].to_numpy()
    assert not updated.W[:, ~shared].any()
    assert (updated.V["b2"][:, ~shared] > 0).any()
    counted = f"({shared.sum()} shared, {(~shared).sum()} unshared)"
    assert counted in works("info", later).stdout
    works("project", run, b1, "--out", query)
    laid = Run.open(query)
    np.testing.assert_allclose(np.asarray(laid.loadings), np.asarray(Run.open(run).loadings)[200:])
    assert laid.lam is not None
    assert laid.lam.tolist() == [1.0]


def test_the_command_refuses_in_a_line(atlas: Path, tmp_path: Path) -> None:
    b0, b1 = (atlas.parent / f"b{i}.h5ad" for i in range(2))
    command = ["integrate", b0, b1, "--out", tmp_path / "run.zarr", "-k", "4"]
    outer = [*command, "--join", "outer"]
    assert "0 unshared genes" in refused(tmp_path, *command, "--n-unshared", "20")
    said = refused(tmp_path, *outer, "--n-unshared", "20", "--unshared-genes", "genes.txt")
    assert "counted or listed; choose one" in said
    assert "'bb', which is no dataset: there are b0, b1" in refused(
        tmp_path, *outer, "--lam", "bb=1"
    )
    assert "--lam is '1,2': it is a number for all" in refused(tmp_path, *outer, "--lam", "1,2")
    dry = refused(tmp_path, *command, "--n-unshared", "20", "--dry-run")
    assert "--join outer" in dry


def test_lambdas_are_read() -> None:
    assert lambdas("5") == {"lam": 5.0}
    assert lambdas("a=1, b=c=2") == {"lam_by_dataset": {"a": 1.0, "b=c": 2.0}}
    assert lambdas("a=1,3") == {"lam": 3.0, "lam_by_dataset": {"a": 1.0}}
    for text in ("", "a", "a=", "5,6", "a=1,a=2", "5,"):
        with pytest.raises(InputError, match="for instance --lam 5"):
            lambdas(text)


def test_unshared_genes_are_counted_or_listed(tmp_path: Path) -> None:
    assert wanted_unshared(None, None) is None
    assert wanted_unshared("all", None) == "all"
    assert wanted_unshared("7", None) == 7
    (tmp_path / "genes.txt").write_text("u1\n\nu2\n")
    assert wanted_unshared(None, str(tmp_path / "genes.txt")) == ["u1", "u2"]
    with pytest.raises(InputError, match="--n-unshared is 'many'"):
        wanted_unshared("many", None)
