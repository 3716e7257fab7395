"""Online iNMF: planted factors, honest objectives, the same bits."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest
from atlases import planted
from scipy import sparse
from scipy.optimize import linear_sum_assignment
from scipy.optimize import nnls as scipy_nnls

import tigon
from tigon.kernels import reference
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.schedule import plan_schedule, step_cells
from tigon.storage.errors import InputError


def scaled(adata: anndata.AnnData, model: tigon.OnlineINMF, key: str) -> dict[str, np.ndarray]:
    """Each dataset's scaled matrix, dense, by the definition."""
    X = np.asarray(adata.X.todense(), dtype=float)
    x = X / np.maximum(X.sum(axis=1, keepdims=True), 1)
    x = x[:, adata.var_names.get_indexer(model.genes_)]
    found = {}
    for name in model.V_:
        mine = x[(adata.obs[key].astype(str) == name).to_numpy()]
        rms = np.sqrt((mine**2).sum(axis=0) / (len(mine) - 1))
        found[name] = np.divide(mine, rms, out=np.zeros_like(mine), where=rms > 0)
    return found


def objective(
    adata: anndata.AnnData, model: tigon.OnlineINMF, H: np.ndarray, key: str, lam: float
) -> float:
    """F from its definition."""
    total = 0.0
    for name, x in scaled(adata, model, key).items():
        h = H[(adata.obs[key].astype(str) == name).to_numpy()].astype(float)
        W, V = model.W_.astype(float), model.V_[name].astype(float)
        total += reference.objective(sparse.csr_array(x), h, W, V, lam)
    return total


def matched_cosine(found: np.ndarray, true: np.ndarray) -> np.ndarray:
    """Cosine of each true row with the found row it is matched to."""
    a = found / np.linalg.norm(found, axis=1, keepdims=True)
    b = true / np.linalg.norm(true, axis=1, keepdims=True)
    similar = b @ a.T
    rows, columns = linear_sum_assignment(-similar)
    return similar[rows, columns]


@pytest.fixture(scope="module")
def case():  # type: ignore[no-untyped-def]
    problem = planted(n=3000, m=150, k=5)
    model = tigon.OnlineINMF(5, n_genes="all", minibatch_size=300, random_state=0, n_threads=2)
    return problem, model.fit(problem.adata, batch_key="batch")


def test_planted_factors_are_recovered(case) -> None:  # type: ignore[no-untyped-def]
    problem, model = case
    H = model.transform(problem.adata)
    usage = problem.H / np.linalg.norm(problem.H, axis=0)
    assert matched_cosine(H.T.astype(float), usage.T).min() >= 0.95


def test_noiseless_separable_factors_are_recovered_to_a_hundredth() -> None:
    rng = np.random.default_rng(0)
    k, m, n = 4, 80, 2000
    W = rng.gamma(1.0, 1.0, (k, m)) * (np.arange(m) % k == np.arange(k)[:, None])
    H = rng.dirichlet(np.full(k, 0.2), n)
    rate = H @ (W / W.sum(axis=1, keepdims=True))
    counts = np.round(rate * 1e6)  # integers so large that rounding is no noise
    adata = anndata.AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    model = tigon.OnlineINMF(k, n_genes="all", n_epochs=60, random_state=1, n_threads=2)
    found = model.fit_transform(adata)
    assert matched_cosine(found.T.astype(float), H.T).min() >= 0.99


def test_reported_objective_is_the_definition(case) -> None:  # type: ignore[no-untyped-def]
    problem, model = case
    H = model.transform(problem.adata)
    F = objective(problem.adata, model, H, "batch", 5.0)
    assert abs(model.objective_ - F) <= 1e-5 * F
    X = scaled(problem.adata, model, "batch")
    for name, x in X.items():
        h = H[(problem.adata.obs["batch"] == name).to_numpy()].astype(float)
        np.testing.assert_allclose(model.A_[name], h.T @ h, rtol=1e-10)
        # x is scaled in float64 here and its weights are float32 there.
        np.testing.assert_allclose(model.B_[name], h.T @ x, rtol=1e-5, atol=1e-4)


def test_loadings_are_the_non_negative_least_squares(case) -> None:  # type: ignore[no-untyped-def]
    problem, model = case
    H = model.transform(problem.adata)
    root = np.sqrt(5.0)
    for name, x in scaled(problem.adata, model, "batch").items():
        mine = np.flatnonzero(problem.adata.obs["batch"] == name)[:60]
        W, V = model.W_.astype(float), model.V_[name].astype(float)
        stacked = np.vstack([(W + V).T, root * V.T])
        for row, cell in enumerate(mine):
            target = np.concatenate([x[row], np.zeros(x.shape[1])])
            exact, _ = scipy_nnls(stacked, target)
            assert np.abs(H[cell] - exact).max() <= 2e-3 * max(exact.max(), 1e-12)


def test_loss_falls_and_is_per_cell(case) -> None:  # type: ignore[no-untyped-def]
    problem, model = case
    history = model.history_
    assert (np.diff(history["n_seen"]) > 0).all()
    first, last = (history["loss"][history["epoch"] == e].mean() for e in (0, model.n_epochs_ - 1))
    assert last < first
    assert abs(last * problem.adata.n_obs - model.objective_) <= 0.05 * model.objective_


def test_bits_do_not_depend_on_threads_but_on_the_seed() -> None:
    adata = planted(n=2600, m=120, k=4, d=3).adata
    fitted = [
        tigon.OnlineINMF(
            4, n_genes=100, n_epochs=2, random_state=seed, n_threads=n, minibatch_size=260
        ).fit(adata, batch_key="batch")
        for seed, n in ((0, 1), (0, 2), (1, 2))
    ]
    one, two, other = fitted
    np.testing.assert_array_equal(one.W_, two.W_)
    assert one.objective_ == two.objective_
    for name in one.V_:
        np.testing.assert_array_equal(one.V_[name], two.V_[name])
        np.testing.assert_array_equal(one.A_[name], two.A_[name])
        np.testing.assert_array_equal(one.B_[name], two.B_[name])
    np.testing.assert_array_equal(one.transform(adata), two.transform(adata))
    assert not np.array_equal(one.W_, other.W_)


def test_bits_do_not_depend_on_chunks(tmp_path: Path) -> None:
    adata = planted(n=2600, m=120, k=4, d=2).adata
    found = []
    for name, chunk in (("a", 2**17), ("b", 1000)):
        tigon.write_atlas(tigon.open(adata), tmp_path / f"{name}.zarr", chunk_nonzeros=chunk)
        model = tigon.OnlineINMF(4, n_genes=100, n_epochs=2, n_threads=2)
        found.append(model.fit(tmp_path / f"{name}.zarr", batch_key="batch"))
    np.testing.assert_array_equal(found[0].W_, found[1].W_)
    assert found[0].objective_ == found[1].objective_


def test_one_dataset_without_a_penalty_is_plain_nmf() -> None:
    from sklearn.decomposition import NMF

    adata = planted(n=1500, m=100, k=4, d=1).adata
    model = tigon.OnlineINMF(4, lam=0.0, n_genes="all", n_epochs=40, n_threads=2)
    model.fit(adata, batch_key="batch")
    (x,) = scaled(adata, model, "batch").values()
    peer = NMF(4, init="nndsvda", solver="cd", max_iter=400, tol=1e-6).fit(x)
    assert model.objective_ <= 1.005 * peer.reconstruction_err_**2


def test_unmeasured_genes_are_masked_not_zero() -> None:
    adata = planted(n=2000, m=120, k=4, d=2).adata
    first = adata[adata.obs["batch"] == "b0"].copy()
    seen = np.arange(120) % 4 != 0
    second = adata[adata.obs["batch"] == "b1", seen].copy()
    atlas = tigon.open([first, second], join="outer")
    model = tigon.OnlineINMF(4, n_genes="all", n_epochs=20, n_threads=2)
    model.fit(atlas, batch_key="batch")
    hidden = np.isin(model.genes_, adata.var_names[~seen])
    assert hidden.sum() == 30
    assert (model.V_["b1"][:, hidden] == 0).all()
    assert (model.B_["b1"][:, hidden] == 0).all()
    assert (model.V_["b0"][:, hidden] > 0).any()
    # W at hidden genes is what the dataset that measures them says, not half of it.
    whole = tigon.OnlineINMF(4, n_genes="all", n_epochs=20, n_threads=2)
    whole.fit(adata, batch_key="batch")
    columns = [list(whole.genes_).index(g) for g in model.genes_]
    a = model.W_ + model.V_["b0"]
    b = (whole.W_ + whole.V_["b0"])[:, columns]
    assert matched_cosine(a[:, hidden], b[:, hidden]).min() >= 0.97
    size = np.linalg.norm(a[:, hidden]) / np.linalg.norm(b[:, hidden])
    assert 0.8 <= size <= 1.25


def test_transform_takes_new_datasets_and_missing_genes(case) -> None:  # type: ignore[no-untyped-def]
    problem, model = case
    new = problem.adata[:400, :120].copy()
    new.obs["batch"] = "new"
    H = model.transform(new)
    assert H.dtype == np.float32
    known = model.transform(problem.adata)[:400]
    same = H.argmax(axis=1) == known.argmax(axis=1)
    assert same.mean() >= 0.9
    strange = new.copy()
    strange.var_names = [f"x{i}" for i in range(120)]
    with pytest.raises(InputError, match="none of the 150 genes"):
        model.transform(strange)


def test_a_cell_is_solved_alone(case) -> None:  # type: ignore[no-untyped-def]
    problem, model = case
    H = model.transform(problem.adata)
    few = np.array([3, 700, 701, 2999])
    np.testing.assert_array_equal(model.transform(problem.adata[few].copy()), H[few])


def test_cells_without_selected_counts_load_zero() -> None:
    adata = planted(n=800, m=100, k=4).adata
    X = adata.X.toarray()
    X[5] = 0
    X[7, :99] = 0
    adata.X = sparse.csr_matrix(X)
    genes = list(adata.var_names[:50])
    model = tigon.OnlineINMF(4, n_genes=genes, n_epochs=3, n_threads=2)
    H = model.fit_transform(adata, batch_key="batch")
    assert (H[[5, 7]] == 0).all()
    assert np.isfinite(H).all()
    assert np.isfinite(model.W_).all()


def test_schedule_visits_every_cell_once_an_epoch() -> None:
    seed = np.random.SeedSequence(1)
    for n, size in ((2000, 5000), (2638, 5000), (100_000, 5000), (37, 5), (11, 5000), (3, 1)):
        schedule = plan_schedule(INMFConfig(n_components=1, minibatch_size=size), n)
        epochs = [schedule.epoch(e, seed) for e in range(4)]
        for cuts in epochs:
            ordered = sorted(cuts)
            assert ordered[0][0] == 0
            assert ordered[-1][1] == n
            assert all(a[1] == b[0] for a, b in pairwise(ordered))
            assert max(b - a for a, b in ordered) <= max(1, min(size, n // 10))
        assert schedule.min_epochs >= 5
        assert schedule.min_epochs * schedule.steps_per_epoch >= 200
        if n > 1000:
            assert epochs[1] != epochs[2]


@pytest.mark.parametrize("n_cells", [1, 50, 7000, 1_000_000, 3_000_001])
@pytest.mark.parametrize("per_task", [1, 3, 8])
@pytest.mark.parametrize("epoch", [0, 1])
def test_tasks_that_travel_are_even_and_shared_evenly(
    n_cells: int, per_task: int, epoch: int
) -> None:
    config = INMFConfig(minibatches_per_task=per_task, staleness=7)
    schedule, seed = plan_schedule(config, n_cells), np.random.SeedSequence(0)
    tasks = schedule.tasks(epoch, seed)
    assert [cut for task in tasks for cut in task] == schedule.epoch(epoch, seed)
    sizes = [len(task) for task in tasks]
    assert max(sizes) - min(sizes) <= 1
    assert 1 <= min(sizes) <= max(sizes) <= schedule.per_task
    assert len(tasks) % 4 == 0 or max(sizes) == 1


@pytest.mark.parametrize(
    ("options", "n_cells", "per_task", "n_sweeps"),
    [
        ({}, 3, 1, 1),
        ({}, 499_999, 1, 1),
        ({}, 500_000, 2, 1),
        ({}, 750_000, 3, 2),
        ({}, 1_000_000, 4, 2),
        ({}, 100_000_000, 8, 2),
        ({"minibatches_per_task": 1}, 1_000_000, 1, 1),
        ({"minibatches_per_task": 4}, 200_000, 4, 2),
        ({"minibatches_per_task": 4}, 20_000, 1, 1),
        ({"staleness": 7}, 12_000, 1, 1),
        ({"staleness": 7}, 200_000, 4, 2),
        ({"staleness": 7}, 750_000, 7, 2),
        ({"staleness": 7}, 100_000_000, 12, 2),
        ({"n_sweeps": 1}, 1_000_000, 4, 1),
        ({"minibatch_size": 1000}, 1_000_000, 4, 1),
        ({"minibatch_size": 20_000}, 100_000, 1, 1),
        ({"minibatch_size": 20_000}, 200_000, 1, 2),
    ],
)
def test_steps_of_many_cells_have_several_minibatches(
    options: dict[str, Any], n_cells: int, per_task: int, n_sweeps: int
) -> None:
    config = INMFConfig(**options)
    schedule = plan_schedule(config, n_cells, n_datasets=8)
    assert (schedule.per_task, schedule.n_sweeps) == (per_task, n_sweeps)
    assert plan_schedule(config, n_cells, n_datasets=200).n_sweeps == options.get("n_sweeps", 1)
    assert step_cells(config, n_cells) >= schedule.per_task * min(
        config.minibatch_size, n_cells // 10
    )


@pytest.mark.parametrize(
    ("options", "n_cells", "fewest"),
    [
        ({}, 10_000, 20),  # ten steps of one sweep an epoch
        ({}, 200_000, 5),
        ({}, 1_000_000, 5),
        ({"staleness": 7}, 12_000, 20),
        ({"staleness": 7}, 200_000, 10),  # ten steps of two sweeps
        ({"staleness": 7}, 1_000_000, 5),
        ({"staleness": 7}, 100_000_000, 5),
        ({"staleness": 7, "n_sweeps": 1}, 1_000_000, 10),
    ],
)
def test_epochs_are_at_least_five_and_two_hundred_sweeps(
    options: dict[str, Any], n_cells: int, fewest: int
) -> None:
    assert plan_schedule(INMFConfig(**options), n_cells, n_datasets=8).min_epochs == fewest


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_components": 0}, "n_components is 0"),
        ({"lam": -1.0}, "lam is -1"),
        ({"n_epochs": 0}, "n_epochs is 0"),
        ({"minibatch_size": 0}, "minibatch_size is 0"),
        ({"tol": 1e-9}, "tol is 1e-09"),
        ({"n_components": 101, "n_genes": "all"}, "101 components are more than the 100 genes"),
        ({"n_components": 12, "n_genes": 10}, "12 components are more than the 10 genes"),
        ({"n_genes": 0}, "number of genes is 0"),
        ({"n_genes": ["zzz"]}, "1 of 1 listed genes"),
    ],
)
def test_impossible_options_are_refused(options: dict, said: str) -> None:
    adata = planted(n=300, m=100).adata
    with pytest.raises(InputError, match=said):
        tigon.OnlineINMF(**options).fit(adata, batch_key="batch")


def test_estimator_follows_scikit_learn() -> None:
    from sklearn.base import clone

    model = tigon.OnlineINMF(7, lam=2.0)
    assert clone(model).get_params()["n_components"] == 7
    assert "lam=2.0" in repr(model)
    with pytest.raises(Exception, match="not fitted"):
        model.transform(planted(n=100).adata)


def test_merged_datasets_are_solved_as_they_were_fitted() -> None:
    adata = planted(n=900, m=80, k=4, d=1).adata
    adata.obs["batch"] = ["big"] * 890 + ["s1"] * 3 + ["s2"] * 7
    model = tigon.OnlineINMF(8, n_genes="all", n_epochs=3, small_datasets="merge", n_threads=2)
    H = model.fit(adata, batch_key="batch").transform(adata)
    (merged,) = set(model.merged_.values())
    assert set(model.merged_) == {"s1", "s2"}
    np.testing.assert_allclose(H[890:].T.astype(float) @ H[890:], model.A_[merged], rtol=1e-6)


def test_objective_of_a_nearly_exact_fit_is_still_right() -> None:
    counts = np.outer(np.arange(1, 201), np.arange(1, 9)).astype(np.float32)
    adata = anndata.AnnData(sparse.csr_matrix(counts))
    adata.obs["batch"] = "one"
    model = tigon.OnlineINMF(1, lam=0.0, n_genes="all", n_epochs=40, n_threads=2)
    H = model.fit_transform(adata, batch_key="batch")
    size = sum((x**2).sum() for x in scaled(adata, model, "batch").values())
    # What is left is rounding of float32 W, V and H, in F as in its definition.
    assert abs(model.objective_ - objective(adata, model, H, "batch", 0.0)) <= 1e-12 * size
