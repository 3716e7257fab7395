"""Scenario 2 in Python: cells that come later, without the cells of before."""

from __future__ import annotations

import logging

import anndata
import numpy as np
import pytest
from atlases import planted

import tigon
from tigon.storage.errors import InputError

QUICK = dict(n_genes="all", n_epochs=4, minibatch_size=150, n_threads=2)


@pytest.fixture(scope="module")
def data() -> anndata.AnnData:
    return planted(n=2400, m=120, k=4, d=4).adata


def of(adata: anndata.AnnData, *batches: str) -> anndata.AnnData:
    return adata[adata.obs["batch"].isin(batches)].copy()


def fitted(*arrivals: anndata.AnnData, **options: object) -> tigon.OnlineINMF:
    model = tigon.OnlineINMF(4, **{**QUICK, **options})
    for arrival in arrivals:
        model.partial_fit(arrival, batch_key="batch")
    return model


def scaled(model: tigon.OnlineINMF, adata: anndata.AnnData, name: str) -> np.ndarray:
    """A dataset's cells by the definition, with the scale that the model holds."""
    X = np.asarray(adata.X.todense(), float)
    x = X / np.maximum(X.sum(axis=1, keepdims=True), 1)
    where = adata.var_names.get_indexer(model.genes_)
    return np.where(where < 0, 0.0, x[:, where]) * model.scale_[name]


def test_from_scratch_it_is_fit(data: anndata.AnnData) -> None:
    one = fitted(data)
    other = tigon.OnlineINMF(4, **QUICK).fit(data, batch_key="batch")
    np.testing.assert_array_equal(one.W_, other.W_)
    assert one.objective_ == other.objective_
    for name in other.V_:
        np.testing.assert_array_equal(one.A_[name], other.A_[name])
        np.testing.assert_array_equal(one.B_[name], other.B_[name])


def test_statistics_are_exact_sums_and_old_ones_stay(data: anndata.AnnData) -> None:
    first = fitted(of(data, "b0", "b1"))
    model = fitted(of(data, "b0", "b1"), of(data, "b2"))
    for name in ("b0", "b1"):
        np.testing.assert_array_equal(model.A_[name], first.A_[name])
        np.testing.assert_array_equal(model.B_[name], first.B_[name])
        np.testing.assert_array_equal(model.scale_[name], first.scale_[name])
        assert (model.V_[name] != first.V_[name]).any()
    new = of(data, "b2")
    H = model.transform(new, batch_key="batch").astype(float)
    np.testing.assert_allclose(model.A_["b2"], H.T @ H, rtol=1e-10)
    np.testing.assert_allclose(model.B_["b2"], H.T @ scaled(model, new, "b2"), rtol=1e-5, atol=1e-4)
    assert model.n_cells_ == {b: int((data.obs["batch"] == b).sum()) for b in ("b0", "b1", "b2")}
    assert model.n_arrivals_ == 1


def test_objective_is_that_of_all_cells_as_they_were_solved(data: anndata.AnnData) -> None:
    first = fitted(of(data, "b0"))
    H = {"b0": first.transform(of(data, "b0"))}
    model = fitted(of(data, "b0"), of(data, "b1"))
    H["b1"] = model.transform(of(data, "b1"))
    F = 0.0
    for name, h in H.items():
        x, V = scaled(model, of(data, name), name), model.V_[name].astype(float)
        F += ((x - h @ (model.W_ + V)) ** 2).sum() + 5.0 * ((h @ V) ** 2).sum()
    assert abs(model.objective_ - F) <= 1e-5 * F


def test_factors_come_back_in_the_sizes_that_they_came_in(data: anndata.AnnData) -> None:
    """F does not know sizes: metagenes times 4 and loadings over 4 are the same fit."""
    plain, large = fitted(of(data, "b0")), fitted(of(data, "b0"))
    large.W_ = large.W_ * np.float32(4)
    large.V_ = {name: V * np.float32(4) for name, V in large.V_.items()}
    large.A_ = {name: A / 16 for name, A in large.A_.items()}
    large.B_ = {name: B / 4 for name, B in large.B_.items()}
    for model in (plain, large):
        model.partial_fit(of(data, "b1"), batch_key="batch")
    # A power of two changes no bit but those of the exponents.
    np.testing.assert_array_equal(large.W_, plain.W_ * np.float32(4))
    for name in plain.V_:
        np.testing.assert_array_equal(large.V_[name], plain.V_[name] * np.float32(4))
    assert abs(large.objective_ - plain.objective_) <= 1e-6 * plain.objective_


def test_new_cells_of_a_known_dataset_keep_its_scale(data: anndata.AnnData) -> None:
    both = of(data, "b0", "b1")
    early = np.arange(both.n_obs) % 3 > 0
    first = fitted(both[early].copy())
    model = fitted(both[early].copy(), both[~early].copy())
    assert list(model.V_) == ["b0", "b1"]
    for name in ("b0", "b1"):
        np.testing.assert_array_equal(model.scale_[name], first.scale_[name])
        mine = both[~early & (both.obs["batch"] == name).to_numpy()].copy()
        H = model.transform(mine).astype(float)
        np.testing.assert_allclose(model.A_[name] - first.A_[name], H.T @ H, rtol=1e-9)
        assert model.n_cells_[name] == int((both.obs["batch"] == name).sum())
        squares = first.squares_[name] + (scaled(model, mine, name) ** 2).sum(axis=0)
        np.testing.assert_allclose(model.squares_[name], squares, rtol=1e-10)


def test_a_second_arrival_counts_the_first() -> None:
    """One peer forgets what came between: its W then rests on the first and the last alone."""
    whole = planted(n=1800, m=100, k=4, d=3, seed=2).adata
    parts = [of(whole, b) for b in ("b0", "b1", "b2")]
    model = fitted(*parts)
    forgetful = fitted(parts[0], parts[2])
    all_at_once = fitted(whole)
    assert list(model.V_) == ["b0", "b1", "b2"]
    assert set(forgetful.V_) == {"b0", "b2"}

    def fit_of(other: tigon.OnlineINMF, name: str) -> float:
        x = scaled(model, of(whole, name), name)
        H = other.transform(of(whole, name)).astype(float)
        L = other.W_ + other.V_.get(name, 0.0)
        return float(((x - H @ L) ** 2).sum())

    together = sum(fit_of(model, f"b{i}") for i in range(3))
    assert together <= 1.01 * sum(fit_of(all_at_once, f"b{i}") for i in range(3))
    assert fit_of(model, "b1") < fit_of(forgetful, "b1")
    # What W minimises, with all that came: its gradient is small where W is above zero.
    S = sum(model.A_.values())
    T = sum(model.B_[b] - model.A_[b] @ model.V_[b].astype(float) for b in model.V_)
    without = T - (model.B_["b1"] - model.A_["b1"] @ model.V_["b1"].astype(float))
    inside = model.W_ > 1e-3

    def gradient(S: np.ndarray, T: np.ndarray) -> float:
        return float(np.abs((S @ model.W_.astype(float) - T) / np.diag(S)[:, None])[inside].mean())

    assert gradient(S, T) < 0.3 * gradient(S - model.A_["b1"], without)


def test_order_of_arrival_matters_little(data: anndata.AnnData) -> None:
    found = []
    for order in (("b0", "b1", "b2", "b3"), ("b3", "b1", "b0", "b2")):
        model = fitted(*(of(data, b) for b in order))
        x = {b: scaled(model, of(data, b), b) for b in order}
        H = {b: model.transform(of(data, b)).astype(float) for b in order}
        V = {b: model.V_[b].astype(float) for b in order}
        found.append(
            sum(
                ((x[b] - H[b] @ (model.W_ + V[b])) ** 2).sum() + 5.0 * ((H[b] @ V[b]) ** 2).sum()
                for b in order
            )
        )
    assert abs(found[0] - found[1]) <= 0.01 * min(found)


@pytest.mark.parametrize("n_threads", [1, 4])
def test_bits_do_not_depend_on_threads(data: anndata.AnnData, n_threads: int) -> None:
    half = of(data, "b0", "b1")
    early = np.arange(half.n_obs) % 2 == 0
    rest = anndata.concat([half[~early], of(data, "b2")])
    one = fitted(half[early].copy(), rest, n_threads=2)
    other = fitted(half[early].copy(), rest, n_threads=n_threads)
    np.testing.assert_array_equal(one.W_, other.W_)
    assert one.objective_ == other.objective_
    for name in one.V_:
        np.testing.assert_array_equal(one.V_[name], other.V_[name])
        np.testing.assert_array_equal(one.A_[name], other.A_[name])
        np.testing.assert_array_equal(one.B_[name], other.B_[name])


def test_genes_that_are_new_are_ignored_and_absent_ones_masked(
    data: anndata.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    first = of(data, "b0")
    known = first[:, :90].copy()
    new = of(data, "b1")[:, ::-1][:, :100].copy()  # 70 of the 90 known genes, in another order
    with caplog.at_level(logging.WARNING, "tigon"):
        model = fitted(known, new)
    told = " ".join(caplog.messages)
    assert "30 of the 100 genes of the new data are not in the model" in told
    assert "20 of the model's 90 genes are not in the data" in told
    assert list(model.genes_) == list(known.var_names)
    absent = ~np.isin(model.genes_, new.var_names)
    assert absent.sum() == 20
    for matrix in (model.V_["b1"], model.B_["b1"]):
        assert not matrix[:, absent].any()
    assert model.V_["b0"][:, absent].any()
    H = model.transform(new).astype(float)
    x = scaled(model, new, "b1")
    np.testing.assert_allclose(model.B_["b1"], H.T @ x, rtol=1e-5, atol=1e-4)


def test_a_known_dataset_whose_new_cells_lack_genes_goes_on_without_them(
    data: anndata.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    cells = of(data, "b0")
    early = np.arange(cells.n_obs) % 2 == 0
    with caplog.at_level(logging.WARNING, "tigon"):
        model = fitted(cells[early].copy(), cells[~early, 10:].copy())
    assert "new cells of b0 lack 10 of the 120 genes" in " ".join(caplog.messages)
    lost = ~np.isin(model.genes_, cells.var_names[10:])
    assert not model.B_["b0"][:, lost].any()
    assert not model.squares_["b0"][lost].any()
    assert np.isfinite(model.objective_)


def test_small_new_datasets_follow_the_policy(data: anndata.AnnData) -> None:
    few = of(data, "b1")[:6].copy()
    few.obs["batch"] = ["s1"] * 3 + ["s2"] * 3
    with pytest.raises(InputError, match="2 datasets have fewer cells than components"):
        fitted(of(data, "b0"), few)
    model = fitted(of(data, "b0"), few, small_datasets="merge")
    assert list(model.V_) == ["b0", "merged small datasets"]
    assert model.merged_ == dict.fromkeys(("s1", "s2"), "merged small datasets")
    mixed = anndata.concat([few, of(data, "b0")[:20]])
    mixed.obs_names = [f"later{i}" for i in range(26)]
    left = fitted(of(data, "b0"), mixed, small_datasets="drop")
    assert left.n_cells_ == {"b0": int((data.obs["batch"] == "b0").sum()) + 20}
    with pytest.raises(InputError, match="no new dataset has as many cells"):
        fitted(of(data, "b0"), few, small_datasets="drop")
    # Three more cells of one of them are of the pool, which is known now.
    model.partial_fit(few[:3].copy(), batch_key="batch")
    assert model.n_cells_["merged small datasets"] == 9


def test_sources_of_the_same_name_are_told(
    data: anndata.AnnData, caplog: pytest.LogCaptureFixture
) -> None:
    model = tigon.OnlineINMF(4, **QUICK).fit(of(data, "b0"))
    with caplog.at_level(logging.WARNING, "tigon"):
        model.partial_fit(of(data, "b1"))
    assert "adata0 has the name of a dataset of the fit" in " ".join(caplog.messages)
    assert list(model.n_cells_) == ["adata0"]


def test_what_does_not_fit_is_refused(data: anndata.AnnData) -> None:
    strange = of(data, "b1")
    strange.var_names = [f"x{i}" for i in range(strange.n_vars)]
    model = fitted(of(data, "b0"))
    before = model.W_.copy()
    with pytest.raises(InputError, match="none of the 120 genes of the model"):
        model.partial_fit(strange, batch_key="batch")
    with pytest.raises(InputError, match="'donor' is not a column"):
        model.partial_fit(of(data, "b1"), batch_key="donor")
    np.testing.assert_array_equal(model.W_, before)


def test_thousands_of_steps_do_not_drift() -> None:
    whole = planted(n=600, m=60, k=4, d=2, seed=5).adata
    short = fitted(of(whole, "b0"), of(whole, "b1"))
    long = fitted(of(whole, "b0"), of(whole, "b1"), n_epochs=120)
    assert long.objective_ <= 1.002 * short.objective_
    size = np.sqrt((long.W_.astype(float) ** 2).mean(axis=1))
    assert 0.3 <= size.min() <= size.max() <= 3
