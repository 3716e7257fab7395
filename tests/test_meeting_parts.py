"""Parts of a fit and of a run that meet: what one needs of another is there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from atlases import planted

import tigon
from tigon.scaling.alignment.overcorrection import _judged
from tigon.scaling.inmf.history import History
from tigon.scaling.updating import _continued
from tigon.wording import tell_consensus


def test_a_history_of_fewer_columns_is_counted_on() -> None:
    """Runs of before the batch solver have no columns of its own."""
    before = {
        "epoch": np.array([0, 1]),
        "step": np.array([0, 1]),
        "n_seen": np.array([10, 20]),
        "loss": np.array([3.0, 2.0]),
    }
    steps = History()
    steps.append(0, 5, 1.0)
    found = _continued(before, steps)
    assert {len(column) for column in found.values()} == {3}
    assert found["epoch"].tolist() == [0, 1, 2]
    assert found["n_seen"].tolist() == [10, 20, 25]
    assert np.isnan(found["fall"]).all()


def test_no_group_is_merged_with_nobody() -> None:
    points = np.ones((100, 3), np.float32)
    nobody = np.zeros((0, 1))
    assert _judged(0, points, np.zeros(100, np.int32), nobody, nobody) == []


@pytest.mark.parametrize("estimator", [tigon.OnlineINMF, tigon.INMF])
def test_genes_that_nobody_has_leave_nothing_to_explain(estimator: type) -> None:
    adata = planted(n=60, m=20, k=2).adata.copy()
    adata.X[:, :5] = 0
    model = estimator(2, n_genes=list(adata.var_names[:5])).fit(adata, batch_key="batch")
    assert model.objective_ == 0


def test_estimators_take_what_the_main_job_takes() -> None:
    assert tigon.INMF(lam_by_dataset={"a": 1.0}).lam_by_dataset == {"a": 1.0}
    assert tigon.UINMF(n_starts=3).n_starts == 3


def test_too_few_cells_for_the_folds_of_a_choice() -> None:
    adata = planted(n=60, m=40, k=2).adata
    with pytest.raises(tigon.InputError, match="3 cells are too few for 5 folds: each needs 10"):
        tigon.select(adata, k=2, lam=5.0, n_cells=3)


def test_a_lambda_of_a_dataset_that_is_merged_is_refused_before_counts_are_read(
    tmp_path: Path,
) -> None:
    adata = planted(n=100, m=40, k=2).adata.copy()
    adata.obs["lane"] = ["few"] * 2 + ["one"] * 49 + ["two"] * 49
    options = {"batch_key": "lane", "n_components": 3, "small_datasets": "drop"}
    with pytest.raises(tigon.InputError, match="lam was given for 'few', which is no dataset"):
        tigon.plan(adata, out=tmp_path / "r.zarr", lam_by_dataset={"few": 1.0}, **options)


def test_later_runs_keep_what_still_holds(tmp_path: Path) -> None:
    adata = planted(n=240, m=40, k=3).adata
    options = {"n_components": 3, "n_epochs": 1, "umap": False, "report": False, "n_landmarks": 100}
    run = tigon.integrate(
        adata, out=tmp_path / "a.zarr", batch_key="batch", n_starts=2, n_genes=30, **options
    )
    without = tigon.drop_factors(run, [1], out=tmp_path / "b.zarr", report=False)
    assert run.consensus["stability"]
    assert without.consensus == run.consensus
    once = tigon.update(run, None, tmp_path / "c.zarr", drop=["b0"], report=False)
    assert once.consensus == run.consensus | {"n_updates": 1}
    assert tell_consensus(once.consensus) == (
        tell_consensus(run.consensus) + "; before 1 update of the run"
    )
    assert any("a sample of 100 of 240 cells" in notice for notice in run.notices)
    assert not any("a sample" in notice for notice in once.notices)
    later = run.consensus | {"n_updates": 2}
    assert tell_consensus(later).endswith("; before 2 updates of the run")
