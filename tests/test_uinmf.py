"""UINMF: genes that not all datasets measure, against dense definitions and an exact solver."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import tigon
from tigon.kernels import reference
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.continuing import _start
from tigon.scaling.inmf.schedule import common_passes
from tigon.scaling.inmf.state import Problem, init_state
from tigon.storage.errors import InputError

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
from unshared_batch import Batch, solve  # after the folder of the benchmarks is known
from unshared_planted import PlantedParts, cosines, planted_unshared

Array = np.ndarray

ALL: dict[str, Any] = dict(n_genes="all", n_threads=2)
LAM = {"b0": 5.0, "b1": 1.0, "b2": 5.0}


def outer(case: PlantedParts) -> tigon.Atlas:
    return tigon.open(case.parts, join="outer")


def scaled(case: PlantedParts, model: tigon.OnlineINMF) -> dict[str, Array]:
    """Each dataset's matrix over the genes of the model by the definition, 0 where unmeasured."""
    found = {}
    for i, part in enumerate(case.parts):
        x = part.X.toarray().astype(float)
        x /= x.sum(axis=1, keepdims=True)
        x /= np.sqrt((x**2).sum(axis=0) / (len(x) - 1))
        at = part.var_names.get_indexer(model.genes_)
        found[f"b{i}"] = np.where(at >= 0, x[:, at], 0.0)
    return found


@pytest.fixture(scope="module")
def case() -> PlantedParts:
    return planted_unshared(n=200, n_shared=24, n_own=20, k=4, d=3, depth=800)


@pytest.fixture(scope="module")
def model(case: PlantedParts) -> tigon.UINMF:
    model = tigon.UINMF(4, lam_by_dataset={"b1": 1.0}, n_unshared="all", **ALL)
    return model.fit(outer(case), batch_key="batch")


@pytest.fixture(scope="module")
def loadings(case: PlantedParts, model: tigon.UINMF) -> dict[str, Array]:
    H = model.transform(outer(case), batch_key="batch").astype(float)
    return {f"b{i}": H[200 * i : 200 * (i + 1)] for i in range(3)}


@pytest.mark.parametrize("seed", range(3))
def test_unshared_genes_recover_what_shared_ones_do_not(seed: int) -> None:
    case = planted_unshared(seed=seed)
    dropped = tigon.OnlineINMF(6, **ALL).fit_transform(tigon.open(case.parts, join="inner"))
    found = tigon.UINMF(6, n_unshared="all", **ALL).fit_transform(outer(case))
    # Over the cells of both datasets: factors must be the same ones in either.
    assert cosines(dropped, case.H).mean() <= 0.94
    assert cosines(found, case.H).min() >= 0.98


def test_masks_are_those_of_the_equations(model: tigon.UINMF) -> None:
    genes = model.genes_.astype(str)
    shared = np.char.startswith(genes, "s")
    np.testing.assert_array_equal(model.shared_, shared)
    assert not model.W_[:, ~shared].any()
    assert (model.W_[:, shared] > 0).any()
    for i in range(3):
        lacks = np.char.startswith(genes, f"u{(i + 2) % 3}")
        U = model.V_[f"b{i}"][:, ~shared & ~lacks]
        assert U.shape == (4, 40)
        assert (U > 0).mean() > 0.5
        assert not model.V_[f"b{i}"][:, lacks].any()
        assert not model.B_[f"b{i}"][:, lacks].any()


def test_reported_objective_is_the_definition(
    case: PlantedParts, model: tigon.UINMF, loadings: dict[str, Array]
) -> None:
    F, shared = 0.0, model.shared_
    assert model.lam_ == LAM
    for name, x in scaled(case, model).items():
        h, W, V = loadings[name], model.W_.astype(float), model.V_[name].astype(float)
        X, P, U = x[:, shared], x[:, ~shared], V[:, ~shared]
        F += ((X - h @ (W + V)[:, shared]) ** 2).sum() + ((P - h @ U) ** 2).sum()
        F += LAM[name] * (((h @ V[:, shared]) ** 2).sum() + ((h @ U) ** 2).sum())
        np.testing.assert_allclose(model.A_[name], h.T @ h, rtol=1e-10)
    assert abs(model.objective_ - F) <= 1e-5 * F
    assert abs(model._known().objective() - F) <= 1e-5 * F


def test_loadings_are_the_non_negative_least_squares(
    case: PlantedParts, model: tigon.UINMF, loadings: dict[str, Array]
) -> None:
    for name, x in scaled(case, model).items():
        V = model.V_[name].astype(float)
        L = model.W_ + V
        exact = solve(L @ L.T + LAM[name] * V @ V.T, x[:40] @ L.T)
        assert np.abs(loadings[name][:40] - exact).max() <= 2e-3 * exact.max()


def test_online_ends_within_half_a_percent_of_batch(case: PlantedParts, model: tigon.UINMF) -> None:
    """Batch run to its end, from random starts and from where online ended."""
    measured = np.array(list(model.measured_.values()))
    problem = list(scaled(case, model).values()), measured, model.shared_, np.array([5.0, 1.0, 5.0])
    V = np.array(list(model.V_.values()), dtype=float)
    batches = [Batch(*problem, model.W_.astype(float), V)]
    batches += [Batch.drawn(*problem, 4, seed) for seed in range(2)]
    assert abs(batches[0].objective() - model.objective_) <= 1e-5 * model.objective_
    ends = []
    for batch in batches:
        found = np.array(batch.run(1e-5))
        assert (np.diff(found) <= 1e-9 * found[0]).all()
        ends.append(found[-1])
    assert model.objective_ <= 1.005 * min(ends)
    # The engine's own batch solver, alone and after online epochs, ends at the exact one's end.
    for options in ({"solver": "batch"}, {"polish": "auto"}):
        own = tigon.UINMF(4, lam_by_dataset={"b1": 1.0}, n_unshared="all", **options, **ALL)
        own.fit(outer(case), batch_key="batch")
        assert own.objective_ <= 1.0005 * min(ends)
        assert not own.W_[:, ~own.shared_].any()
        # Not of the iterations that began with the common genes; F never rises.
        loss = own.history_["loss"][~np.isnan(own.history_["residual"])]
        assert len(loss) > 2
        assert (np.diff(loss) <= 0).all()


def test_bits_do_not_depend_on_threads(case: PlantedParts) -> None:
    options: dict[str, Any] = dict(n_genes="all", n_unshared=30, n_epochs=3, minibatch_size=60)
    one, two = (
        tigon.UINMF(4, n_threads=n, **options).fit(outer(case), batch_key="batch") for n in (1, 2)
    )
    assert one.W_.tobytes() == two.W_.tobytes()
    assert one.objective_ == two.objective_
    for name in one.V_:
        assert one.V_[name].tobytes() == two.V_[name].tobytes()
        assert one.B_[name].tobytes() == two.B_[name].tobytes()


def test_datasets_agree_on_common_genes_first() -> None:
    measured = np.ones((2, 10), bool)
    measured[0, 6:] = False
    problem = Problem(np.array([50, 50]), measured, measured * 1.0, 5.0, measured.all(axis=0))
    assert common_passes(problem, 6, most=60) == 1
    assert common_passes(problem, 6, most=30, wanted=20) == 15
    assert common_passes(problem, 7, most=60) == 0  # fewer genes than factors
    assert common_passes(problem, 6, most=1) == 0
    assert common_passes(replace(problem, shared=None), 6, most=60) == 0
    here = problem.over_common()
    np.testing.assert_array_equal(here.measured, np.tile(np.arange(10) < 6, (2, 1)))
    np.testing.assert_array_equal(here.scale, problem.scale)
    state = init_state(problem, 3, np.random.SeedSequence(0))
    assert not state.W[:, 6:].any()
    assert not state.in_pattern[state.patterns[6]].any()


def test_genes_are_chosen_of_either_kind(case: PlantedParts) -> None:
    model = tigon.UINMF(4, n_genes=10, n_unshared=12, n_epochs=1)
    model.fit(outer(case), batch_key="batch")
    assert model.shared_.sum() == 10
    kinds = np.array([str(gene)[:2] for gene in model.genes_])
    assert (np.char.startswith(kinds, "s") == model.shared_).all()
    # The most variable of each dataset in turn: those of no dataset are left out.
    assert {"u0", "u1", "u2"} <= set(kinds)
    assert any(V[:, ~model.shared_].any() for V in model.V_.values())  # after one epoch alone
    listed = tigon.UINMF(3, n_genes=["s3", "s1", "s2"], n_unshared=["u1_4"], n_epochs=1)
    listed.fit(outer(case), batch_key="batch")
    assert list(listed.genes_) == ["s1", "s2", "s3", "u1_4"]
    assert listed.shared_.tolist() == [True, True, True, False]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_unshared": 0}, "number of unshared genes is 0: .* set --n-unshared"),
        ({"n_unshared": 2.5}, "n_unshared is 2.5"),
        ({"n_unshared": ["s1"]}, r"1 of 1 genes listed as unshared are measured by all.*\(s1\)"),
        ({"n_genes": ["u1_0"]}, r"1 of 1 genes listed as shared are not measured by all datasets"),
        ({"n_unshared": ["zzz"]}, "1 of 1 listed genes are not in the atlas"),
        ({"lam_by_dataset": {"b9": 1.0}}, "'b9', which is no dataset: there are b0, b1, b2"),
        ({"lam_by_dataset": {"b1": -1.0}}, "lam of 'b1' is -1.0: .* set --lam"),
        ({"lam_by_dataset": {"b1": "1"}}, "lam of 'b1' is '1': it is a number"),
        ({"lam_by_dataset": {1: 1.0}}, "lam_by_dataset names 1"),
        ({"lam_by_dataset": 3.0}, "lam_by_dataset is 3.0"),
    ],
)
def test_impossible_options_are_refused_before_reading(
    case: PlantedParts, options: dict[str, Any], said: str
) -> None:
    def reading(*told: Any, **figures: float) -> None:
        raise AssertionError("counts are read")

    model = tigon.UINMF(3, progress=reading, **options)
    with pytest.raises(InputError, match=said):
        model.fit(outer(case), batch_key="batch")


def test_data_without_genes_of_a_kind_are_refused(case: PlantedParts) -> None:
    with pytest.raises(InputError, match="0 unshared genes: 3 datasets measure the same 24; join"):
        tigon.UINMF(4).fit(tigon.open(case.parts, join="inner"), batch_key="batch")
    apart = [
        part[:, part.var_names.str.startswith(f"u{i}")].copy() for i, part in enumerate(case.parts)
    ]
    with pytest.raises(InputError, match="none of the 60 genes is measured by all of 3 datasets"):
        tigon.UINMF(4).fit(tigon.open(apart, join="outer"), batch_key="batch")


def test_lambda_of_each_dataset_weighs_without_unshared_genes(case: PlantedParts) -> None:
    """A penalty so large that a dataset has no metagenes of its own, and none on another's."""
    model = tigon.OnlineINMF(4, lam=1e6, lam_by_dataset={"b1": 0.1}, n_genes="all", n_epochs=5)
    model.fit(tigon.open(case.parts, join="inner"), batch_key="batch")
    sizes = {name: np.linalg.norm(V) / np.linalg.norm(model.W_) for name, V in model.V_.items()}
    assert sizes["b0"] < 1e-3
    assert sizes["b2"] < 1e-3
    assert sizes["b1"] > 0.05
    assert INMFConfig(lam=2.0, lam_by_dataset={"a": 1.0}).lam_of(["b", "a"]) == [2.0, 1.0]


def test_new_datasets_are_solved_over_their_shared_genes(
    case: PlantedParts, model: tigon.UINMF
) -> None:
    part = case.parts[0].copy()
    part.obs["batch"] = "new"
    H = model.transform(tigon.open(part), batch_key="batch")
    x = scaled(case, model)["b0"][:, model.shared_]
    W = model.W_[:, model.shared_].astype(float)
    exact = solve(W @ W.T, x @ W.T)
    assert np.abs(H - exact).max() <= 2e-3 * exact.max()


def test_a_later_dataset_starts_from_zero_at_genes_that_are_not_shared(
    model: tigon.UINMF,
) -> None:
    known, shared = model._known().without(["b2"]), model.shared_
    names = ("b0", "b1", "b2")
    measured, scale = (
        np.stack([of[name] for name in names]) for of in (model.measured_, model.scale_)
    )
    problem = Problem(np.array([0, 0, 200]), measured, scale, 5.0, shared)
    seed, genes = np.random.SeedSequence(0), np.arange(len(shared))
    with ThreadEngine(1) as engine:
        V = _start(names, known, problem, genes, seed, engine).V
    assert not V[2][:, ~shared].any()
    assert (V[2][:, shared] > 0).all()
    assert (V[0][:, ~shared] > 0).any()  # what is known stays


def test_later_cells_refine_a_fit_with_unshared_genes(case: PlantedParts) -> None:
    model = tigon.UINMF(4, n_unshared="all", lam_by_dataset={"b1": 1.0}, **ALL)
    model.fit(tigon.open(case.parts[:2], join="outer"), batch_key="batch")
    # u0 of three datasets is unshared of the two, u1 is common to them: it is shared.
    shared = model.shared_.copy()
    assert set(np.array([str(gene)[0] for gene in model.genes_[shared]])) == {"s", "u"}
    model.partial_fit(case.parts[2], batch_key="batch")
    np.testing.assert_array_equal(model.shared_, shared)
    assert model.lam_ == LAM
    assert not model.W_[:, ~shared].any()
    own = model.measured_["b2"] & ~shared
    assert own.any()
    assert (model.V_["b2"][:, own] > 0).any()
    assert not model.V_["b2"][:, ~model.measured_["b2"]].any()
    H = model.transform(outer(case), batch_key="batch").astype(float)
    assert cosines(H, case.H).min() >= 0.95
    X = scaled(case, model)["b2"] * model.measured_["b2"]
    h, W, V = H[400:], model.W_.astype(float), model.V_["b2"].astype(float)
    # Genes are in another order here, and loadings good to the tolerance of 1e-5.
    np.testing.assert_allclose(model.A_["b2"], h.T @ h, rtol=1e-5)
    alone = reference.objective(sparse.csr_array(X), h, W * model.measured_["b2"], V, 5.0)
    assert 0 < alone < model.objective_
