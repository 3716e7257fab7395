"""Batch iterations in whole jobs: estimators, runs, the command, workers and interruptions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atlases import planted
from builders import write_h5ad
from command_line import refused, works

import tigon
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.job import job_place
from tigon.storage.errors import InputError
from tigon.storage.runs.run import Run

OPTIONS: dict[str, Any] = dict(
    batch_key="batch", n_components=3, n_genes=50, umap=False, report=False, n_threads=1
)
BATCH: dict[str, Any] = OPTIONS | {"solver": "batch", "n_epochs": 3}
QUICK = ("--batch-key", "batch", "-k", "3", "--n-genes", "50", "--no-umap", "--no-report", "--json")


class Stopped(Exception):
    """What ends a job before its time."""


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5ad(planted(n=600, m=60, k=3).adata, tmp_path_factory.mktemp("a") / "a.h5ad")


@pytest.fixture(scope="module")
def fitted(counts: Path) -> tigon.INMF:
    return tigon.INMF(3, n_genes=50, n_threads=2).fit(counts, batch_key="batch")


def assert_same(one: Run, other: Run) -> None:
    for part in ("W", "A", "B"):
        assert getattr(one, part).tobytes() == getattr(other, part).tobytes(), part
    a, b = one.to_anndata(), other.to_anndata()
    assert a.obsm["X_inmf"].tobytes() == b.obsm["X_inmf"].tobytes()
    np.testing.assert_equal(one.history, other.history)


def test_the_estimator_descends_and_reports_no_more(fitted: tigon.INMF) -> None:
    history = fitted.history_
    assert fitted.n_epochs_ == len(history["step"]) < 500
    assert (np.diff(history["loss"]) <= 0).all()
    assert history["fall"][-1] <= 1e-6 or history["residual"][-1] <= 1e-4
    assert np.isnan(history["fall"]).tolist() == [True] + [False] * (fitted.n_epochs_ - 1)
    # The loadings that are reported are solved anew, and more tightly.
    assert fitted.objective_ <= history["loss"][-1] * 600 * (1 + 1e-7)


def test_online_epochs_are_near_and_polishing_gets_there(counts: Path, fitted: tigon.INMF) -> None:
    online = tigon.OnlineINMF(3, n_genes=50, n_threads=2).fit(counts, batch_key="batch")
    polished = tigon.OnlineINMF(3, n_genes=50, polish="auto", n_threads=2)
    polished.fit(counts, batch_key="batch")
    assert online.objective_ <= 1.005 * fitted.objective_
    assert polished.objective_ <= online.objective_
    assert abs(polished.objective_ / fitted.objective_ - 1) <= 1e-3
    steps = np.isnan(polished.history_["residual"])
    np.testing.assert_array_equal(polished.history_["loss"][steps], online.history_["loss"])
    assert np.diff(steps.astype(int)).min() == -1  # epochs come first
    assert (np.diff(polished.history_["epoch"]) >= 0).all()


def test_a_batch_fit_is_refined_by_epochs(counts: Path, fitted: tigon.INMF) -> None:
    model = tigon.INMF(3, n_genes=50, n_epochs=40, n_threads=2).fit(counts, batch_key="batch")
    new = planted(n=200, m=60, k=3, seed=1).adata
    new.obs["batch"] = "later"
    model.partial_fit(new)
    assert set(model.V_) == {"b0", "b1", "later"}
    assert np.isnan(model.history_["residual"]).all()
    with pytest.raises(TypeError, match="minibatch_size"):
        tigon.INMF(3, minibatch_size=100)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"solver": "newton"}, "solver is 'newton': there are online and batch; choose one"),
        ({"polish": -1}, "polish is -1: .* at least 0; set --polish"),
        ({"polish": 2.5}, "polish is 2.5: it is a whole number; set an integer or 'auto'"),
        ({"solver": "batch", "polish": 5}, "polish is 5, with the batch solver"),
        ({"solver": "batch", "staleness": 3}, "staleness is 3, .* set --solver online"),
        ({"solver": "batch", "minibatches_per_task": 2}, "minibatches_per_task is 2, with"),
        ({"solver": "batch", "minibatch_size": 100}, "minibatch_size is 100, with"),
        ({"solver": "batch", "n_sweeps": 2}, "n_sweeps is 2, with"),
        ({"solver": "batch", "tol_objective": 1e-4}, "tol_objective is 0.0001, with"),
        ({"tol_batch": 1.0}, "tol_batch is 1.0: it lies between 0 and 1; try 1e-06"),
        ({"tol_residual": "0"}, "tol_residual is '0': it is a number"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_options_without_sense_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        tigon.plan("no.h5ad", **options)


def test_batch_runs_of_before_are_still_understood() -> None:
    # They say what was the default then, and no other number would have been taken.
    old = INMFConfig(solver="batch", minibatches_per_task=1, n_sweeps=1)
    assert old.refining().minibatches_per_task == 1


def test_later_cells_are_taken_in_by_epochs() -> None:
    batch = INMFConfig(solver="batch", n_epochs=300).refining()
    assert (batch.solver, batch.n_epochs) == ("online", "auto")
    online = INMFConfig(n_epochs=7, polish=3).refining()
    assert (online.solver, online.n_epochs, online.polish) == ("online", 7, 0)


def test_the_command_knows_both(counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "batch.zarr"
    works("integrate", counts, "--out", out, *QUICK, "--solver", "batch", "--n-epochs", "4")
    history = Run.open(out).history
    assert len(history["step"]) == 4
    assert not np.isnan(history["residual"]).any()
    assert Run.open(out).config["inmf"]["solver"] == "batch"
    out = tmp_path / "polished.zarr"
    works("integrate", counts, "--out", out, *QUICK, "--n-epochs", "1", "--polish", "2")
    assert np.count_nonzero(~np.isnan(Run.open(out).history["residual"])) == 2
    refusing = ("integrate", counts, "--out", tmp_path / "no.zarr", *QUICK, "--solver", "batch")
    assert "staleness is 2, with the batch solver" in refused(
        tmp_path, *refusing, "--staleness", "2"
    )
    facts = json.loads(works(*refusing, "--dry-run").stdout)
    assert facts["pack_passes"] == 2
    assert "the iterations" in facts["stages"]
    assert "the epochs" not in facts["stages"]


@pytest.mark.parametrize(
    ("options", "stages"),
    [
        (BATCH, ("iteration 1", "iteration 3")),
        (OPTIONS | {"n_epochs": 2, "polish": 2}, ("iteration 2",)),
    ],
    ids=["batch", "polish"],
)
def test_interrupted_jobs_go_on(
    counts: Path, tmp_path: Path, options: dict[str, Any], stages: tuple[str, ...]
) -> None:
    whole = tigon.integrate(counts, out=tmp_path / "whole.zarr", **options)
    out = tmp_path / "run.zarr"
    for stage in stages:

        def stop(told: str, done: int, total: int, **figures: float) -> None:
            if told.startswith(stage):  # noqa: B023 - called within this turn
                raise Stopped

        with pytest.raises(Stopped):
            tigon.integrate(counts, out=out, resume=True, progress=stop, **options)
        assert job_place(out, tmp_path).is_dir()
    again = tigon.integrate(counts, out=out, resume=True, **options | {"n_threads": 2})
    assert_same(again, whole)


@pytest.mark.data
@pytest.mark.parametrize("name", ["kang_pbmc_stim", "baron_mouse_pancreas", "pbmc3k"])
def test_real_data_never_rise(shared_data: Path, name: str) -> None:
    model = tigon.INMF(20, n_epochs=25, n_threads=2)
    model.fit(shared_data / f"{name}.h5ad", batch_key="batch")
    assert len(model.history_["loss"]) == 25
    assert (np.diff(model.history_["loss"]) <= 0).all()


@pytest.mark.data
def test_online_is_within_half_a_percent_of_batch(shared_data: Path) -> None:
    counts = shared_data / "kang_pbmc_stim.h5ad"
    online = tigon.OnlineINMF(20, n_threads=2).fit(counts, batch_key="batch")
    batch = tigon.INMF(20, n_threads=2).fit(counts, batch_key="batch")
    assert online.objective_ <= 1.005 * batch.objective_
