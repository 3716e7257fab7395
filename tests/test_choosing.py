"""The choice of k and lambda: held-out errors from their definition, the rule, the same bytes."""

from __future__ import annotations

import importlib
from argparse import Namespace
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
from atlases import planted
from builders import write_h5ad
from command_line import refused, works
from scipy import sparse
from scipy.optimize import nnls as scipy_nnls

import tigon
from tigon.command.values import numbers, whole_numbers
from tigon.scaling import job as jobs
from tigon.scaling.choosing import paths
from tigon.scaling.choosing.choosing import STAGE, agreement
from tigon.scaling.choosing.folds import Fold, child, cut_folds, draw_sample
from tigon.scaling.choosing.growing import grow
from tigon.scaling.choosing.heldout import hidden_error
from tigon.scaling.choosing.table import Setting, above, as_table, choose
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.consensus import Metagenes
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.state import init_state
from tigon.scaling.inmf.training import train
from tigon.scaling.job import job_place
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, Prepared, prepare
from tigon.storage.borrowing import borrowed_atlas
from tigon.storage.errors import InputError, MemoryLimitError, OutputExistsError
from tigon.storage.packs.pack import Pack
from tigon.storage.packs.reader import PackPart

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
TRUE_K = 4
OPTIONS: dict[str, Any] = dict(batch_key="batch", n_genes="all", n_epochs=4, n_folds=3)


@pytest.fixture(scope="module")
def adata() -> anndata.AnnData:
    return planted(n=600, m=100, k=TRUE_K, seed=1).adata


@pytest.fixture(scope="module")
def packed(adata: anndata.AnnData, tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    """What is prepared, its pack and its folds."""
    with borrowed_atlas(adata) as atlas, ThreadEngine(1) as engine:
        prepared = prepare(atlas, PrepareConfig(batch_key="batch", n_genes="all"), 3, engine)
        seed = np.random.SeedSequence(0)
        sample = draw_sample(prepared, 500, seed)
        folder = tmp_path_factory.mktemp("pack") / "pack"
        pack = build_pack(
            atlas, sample.datasets, prepared.statistics, prepared.genes, folder, engine, seed
        )
        yield prepared, pack, cut_folds(pack, sample.problem, 3, 0.25, seed)
        pack.close()


Packed = tuple[Prepared, Pack, list[Fold]]


def test_folds_are_cells_apart_and_datasets_in_proportion(packed: Packed) -> None:
    prepared, pack, folds = packed
    assert pack.n_cells == 500
    everyone = pack.read(0, 500).positions
    assert len(set(everyone.tolist())) == 500
    share = np.bincount(prepared.datasets.codes) / 600
    held = []
    for fold in folds:
        inside = fold.held_out.read(0, fold.held_out.n_cells)
        outside = fold.training.read(0, fold.training.n_cells)
        assert set(inside.positions) | set(outside.positions) == set(everyone)
        assert not set(inside.positions) & set(outside.positions)
        held += inside.positions.tolist()
        np.testing.assert_allclose(
            np.bincount(inside.datasets) / len(inside.datasets), share, atol=0.02
        )
        assert np.bincount(outside.datasets).tolist() == fold.problem.n_cells.tolist()
        assert fold.hidden.sum() == round(0.25 * len(prepared.genes))
    assert sorted(held) == sorted(everyone.tolist())
    assert (folds[0].hidden != folds[1].hidden).any()


def test_a_part_of_a_pack_is_those_cells(packed: Packed) -> None:
    pack = packed[1]
    part = PackPart(pack, ((3, 10), (20, 60), (400, 401)))
    places = [*range(3, 10), *range(20, 60), 400]
    assert part.n_cells == len(places)
    for start, stop in ((0, 48), (0, 7), (7, 47), (5, 9), (46, 48), (47, 48), (2, 2)):
        found, wanted = part.read(start, stop), [pack.read(p, p + 1) for p in places[start:stop]]
        for name in ("positions", "datasets", "weights", "genes", "counts"):
            parts = [getattr(block, name) for block in wanted]
            np.testing.assert_array_equal(getattr(found, name), np.concatenate([*parts, []]))
        lengths = [len(block.genes) for block in wanted]
        np.testing.assert_array_equal(found.indptr, np.cumsum([0, *lengths]))
        np.testing.assert_array_equal(part.datasets(start, stop), found.datasets)


def dense(fold: Fold, part: PackPart) -> np.ndarray:
    """Scaled counts of a part, float64."""
    block = part.read(0, part.n_cells)
    X = sparse.csr_array(
        (block.counts.astype(float), block.genes, block.indptr),
        shape=(part.n_cells, fold.problem.n_genes),
    ).toarray()
    return X * block.weights[:, None].astype(float) * fold.problem.scale[block.datasets]


def test_the_error_is_its_definition(packed: Packed) -> None:
    fold = packed[2][1]
    lam, k = 5.0, 3
    problem = fold.with_lam(lam)
    # One dataset lacks genes, some of which are hidden.
    problem.measured[1, ::7] = False
    problem = replace(problem, scale=problem.scale * problem.measured)
    state = init_state(problem, k, np.random.SeedSequence(5))
    found = Metagenes(state.W, state.V)
    X, datasets = dense(fold, fold.held_out), fold.held_out.datasets(0, fold.held_out.n_cells)
    error, squares = 0.0, 0.0
    for x, i in zip(X, datasets.tolist(), strict=True):
        seen, hidden = (problem.measured[i] & genes for genes in (~fold.hidden, fold.hidden))
        L, V = (found.W + found.V[i]).astype(float), found.V[i].astype(float)
        stacked = np.vstack([L[:, seen].T, np.sqrt(lam) * V[:, seen].T])
        h = scipy_nnls(stacked, np.concatenate([x[seen], np.zeros(seen.sum())]))[0]
        error += np.square(x[hidden] - h @ L[:, hidden]).sum()
        squares += np.square(x[hidden]).sum()
    with ThreadEngine(1) as engine:
        assert hidden_error(fold, problem, found, 1e-5, engine) == pytest.approx(
            error / squares, rel=1e-4
        )


def test_a_larger_fit_begins_with_the_sums_of_the_smaller_one(
    packed: Packed, tmp_path: Path
) -> None:
    fold = packed[2][0]
    problem = fold.with_lam(5.0)
    config = INMFConfig(n_components=3, n_epochs=2)
    with ThreadEngine(1) as engine:
        schedule = plan_schedule(config, fold.training.n_cells)
        first = grow(None, problem, 3, np.random.SeedSequence(1))
        small, _ = train(
            fold.training, tmp_path, problem, first, schedule, config, engine,
            np.random.SeedSequence(2),
        )  # fmt: skip
        A, B = small.A.copy(), small.B.copy()
        S, T = small.S.copy(), small.T.copy()
    large = grow(small, problem, 5, np.random.SeedSequence(3))
    np.testing.assert_array_equal(large.W[:3], small.W)
    np.testing.assert_array_equal(large.A_previous[:, :3, :3], A)
    np.testing.assert_array_equal(large.B_previous[:, :3], B)
    np.testing.assert_array_equal(large.S[:, :3, :3], S)
    np.testing.assert_array_equal(large.T[:3], T)
    for sums in (large.A_previous, large.S):
        assert (sums[:, 3:] == 0).all()
        assert (sums[:, :, 3:] == 0).all()
    assert (large.B_previous[:, 3:] == 0).all()
    assert (large.T[3:] == 0).all()
    assert (large.A == 0).all()
    assert large.n_seen.tolist() == [0, 0]
    assert (large.W[3:] > 0).mean() > 0.9


def test_agreement_is_the_mean_cosine_of_matched_factors() -> None:
    rng = np.random.default_rng(0)
    true = np.eye(4, 9) + 0.05
    true /= np.linalg.norm(true, axis=1, keepdims=True)
    factors = np.array([true[rng.permutation(4)] for _ in range(3)])
    np.testing.assert_allclose(agreement(factors), 1.0)
    factors[2, 0] = np.eye(9)[8]
    found = agreement(factors)
    assert found[2] < found[0] < 1.0


def setting(
    k: int, lam: float, error: float, stability: float, mixing: float, spread: float = 0.001
) -> Setting:
    folds = np.array([-1.0, 0.0, 1.0]) * spread * k
    return Setting(
        k, lam, error + folds + [0.1, 0.0, -0.1], np.full(3, stability), np.full(3, mixing)
    )


def test_the_rule() -> None:
    settings = [
        setting(2, 1.0, 0.500, 0.99, 1.0),
        setting(4, 1.0, 0.301, 0.50, 1.0),  # as good as the best, not stable
        setting(6, 1.0, 0.301, 0.80, 0.7),
        setting(6, 5.0, 0.3005, 0.80, 0.9),  # mixes better
        setting(8, 1.0, 0.300, 0.90, 0.9),
    ]
    choice = choose(settings, 0.6)
    assert (choice.k, choice.lam) == (6, 5.0)
    assert choice.best == 4
    assert "4 settings that are as good as the best" in choice.reason
    assert "at least 0.6 was asked for" in choice.reason
    nothing_stable = choose(settings, 0.95)
    assert nothing_stable.k == 4
    assert "none that is as good having the 0.95" in nothing_stable.reason
    # What folds have in common is no uncertainty: the difference counts, fold by fold.
    difference = settings[2].errors - settings[4].errors
    assert above(settings[2], settings[4]) == pytest.approx(
        (difference.mean(), difference.std(ddof=1) / np.sqrt(3))
    )
    assert above(settings[2], settings[4])[1] < 0.1 * settings[4].errors.std()


def test_a_choice_at_an_end_of_what_was_compared_says_so() -> None:
    settings = [setting(k, 5.0, 0.3 + 0.1 * abs(k - 4), 0.9, 1.0) for k in (2, 4, 6)]
    assert "may be better" not in choose(settings, 0.6).reason
    assert "no other setting is as good" in choose(settings, 0.6).reason
    largest = choose(settings[:2], 0.6)
    assert largest.k == 4
    assert "4 is the largest k compared: larger ones may be better." in largest.reason
    least = choose(settings[1:], 0.6)
    assert "4 is the least k compared: smaller ones may be better." in least.reason
    assert "may be better" not in choose(settings[1:2], 0.6).reason
    of_lambda = choose([setting(4, lam, 0.3 + lam, 0.9, 1.0) for lam in (1.0, 5.0)], 0.6)
    assert "1 is the least lambda compared" in of_lambda.reason


def test_one_dataset_needs_no_mixing() -> None:
    nothing = float("nan")
    settings = [setting(4, 1.0, 0.302, 0.9, nothing), setting(4, 5.0, 0.3, 0.9, nothing)]
    choice = choose(settings, 0.6)
    assert choice.lam == 5.0
    assert "mixes" not in choice.reason
    assert as_table(choice)["recommended"].tolist() == [False, True]


@pytest.fixture(scope="module")
def table(adata: anndata.AnnData) -> pd.DataFrame:
    return tigon.select(adata, k=range(2, 7), lam=[5.0], n_threads=1, **OPTIONS)


def test_the_planted_number_is_chosen(table: pd.DataFrame) -> None:
    (chosen,) = table[table["recommended"]].to_dict("records")
    assert abs(chosen["k"] - TRUE_K) <= 1
    assert (table.attrs["k"], table.attrs["lam"]) == (chosen["k"], 5.0)
    errors = table.set_index("k")["error"]
    assert errors[2] > 1.5 * errors[TRUE_K]
    assert table.set_index("k")["stability"][TRUE_K] > 0.95
    assert table["mixing"].between(0.0, 1.5).all()


def test_the_table_does_not_depend_on_threads_and_can_be_read_back(
    adata: anndata.AnnData, table: pd.DataFrame, tmp_path: Path
) -> None:
    page = tmp_path / "choice.html"
    again = tigon.select(adata, k=np.arange(2, 7), lam=5.0, out=page, n_threads=2, **OPTIONS)
    assert again.to_csv() == table.to_csv()
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "choice.csv"), table, rtol=1e-15)
    text = page.read_text()
    assert text.count("<svg") == 3
    assert again.attrs["reason"] in text
    assert "http://" not in text.replace("http://www.w3.org", "")
    for left in (page, page.with_suffix(".csv")):
        with pytest.raises(OutputExistsError, match=f"{left.name}.* exists.*overwrite"):
            tigon.select(adata, k=3, out=page, **OPTIONS)
        page.unlink(missing_ok=True)


class Stopped(Exception):
    """What ends a job before its time."""


def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of factors that are fitted from now on."""
    numbers: list[int] = []

    def noted(*arguments: Any) -> Any:
        numbers.append(len(arguments[3].W))
        return train(*arguments)

    monkeypatch.setattr(paths, "train", noted)
    return numbers


def test_an_interrupted_choice_goes_on_to_the_same_table(
    adata: anndata.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped twice, in the fits of either lambda, and continued by the command."""
    source = write_h5ad(adata, tmp_path / "a.h5ad")
    words = ("select", source, "--batch-key", "batch", "--n-genes", "all", "--n-epochs", "2")
    words = (*words, "--n-cells", "200", "--n-folds", "2", "--k", "2:4", "--n-threads", "1")
    options: dict[str, Any] = dict(OPTIONS, n_epochs=2, n_cells=200, n_folds=2)
    options |= dict(k=[2, 3, 4], lam=[1.0, 5.0])
    whole = tigon.select(source, n_threads=2, **options)
    page, numbers = tmp_path / "k.html", trained(monkeypatch)
    place = job_place(page, tmp_path)

    def after(n_fits: int) -> Callable[..., None]:
        def progress(stage: str, done: int, total: int, **figures: float) -> None:
            if stage == STAGE and len(numbers) == n_fits:
                raise Stopped

        return progress

    for n_fits in (2, 8):
        with pytest.raises(Stopped):
            tigon.select(
                source, out=page, resume=True, n_threads=2, progress=after(n_fits), **options
            )
    assert numbers == [2, 3, 4, 2, 3, 4, 2, 3]
    work = next(place.glob("work-*"))
    assert jobs._kept(work) == "some fits"
    # Paths whose state is lost, or scores of which are damaged, are walked again.
    (work / "state-1-0.npz").unlink()
    (work / "fit-0-0-3.npz").write_bytes(b"damaged")
    command = (*words, "--out", page, "--resume", "--lam")
    assert "is another one: lam was [1.0, 5.0] and is [1.0, 6" in refused(tmp_path, *command, "1,6")
    works(*command, "1,5")
    assert numbers[8:] == [2, 3, 4] * 3
    assert (tmp_path / "k.csv").read_text() == whole.to_csv(index=False)
    assert not place.exists()


def test_an_interrupted_choice_without_a_page_is_nobodys(adata: anndata.AnnData) -> None:
    with pytest.raises(InputError, match="found by its page, and there is none: give out"):
        tigon.select(adata, k=3, resume=True, **OPTIONS)


def test_a_dataset_without_cells_to_learn_from_is_no_failure(adata: anndata.AnnData) -> None:
    """Of a very small dataset a fold may hold out all cells that there are."""
    few = adata[:300].copy()
    few.obs["batch"] = np.where(np.arange(300) < 2, "tiny", "large")
    found = tigon.select(few, k=[2], n_threads=1, n_cells=40, **OPTIONS)
    assert np.isfinite(found["error"]).all()


def test_a_fold_of_which_nothing_is_hidden_is_refused(adata: anndata.AnnData) -> None:
    """Where one cell has nearly all genes to itself, folds without it hide a gene of zeros."""
    bare = adata[:60].copy()
    counts = bare.X.toarray()
    counts[1:, 3:] = 0
    bare.X = sparse.csr_matrix(counts)
    with pytest.raises(InputError, match=r"in fold \d have no counts in the 1 genes hidden of"):
        tigon.select(bare, k=[2], n_threads=1, hidden_share=0.01, **OPTIONS)


def test_ranges_and_lists_are_read() -> None:
    assert whole_numbers("5:20:5", "--k") == [5, 10, 15, 20]
    assert whole_numbers("2:4", "--k") == [2, 3, 4]
    assert whole_numbers("5,10,7", "--k") == [5, 10, 7]
    assert numbers("1,5.5,25", "--lam") == [1.0, 5.5, 25.0]
    for bad in ("5:1", "a", "", "1:9:0", "1:9:-1", "1:2:3:4", "1:1000000", "2.5", "1,,2"):
        with pytest.raises(InputError, match="5:60:5"):
            whole_numbers(bad, "--k")
    with pytest.raises(InputError, match="1,5,25"):
        numbers("1;2", "--lam")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"k": []}, "no value of k"),
        ({"k": [0]}, "n_components is 0"),
        ({"k": [2.5]}, "k is 2.5"),
        ({"k": [400]}, "400 components are more than the 100 genes"),
        ({"k": [80]}, "80 factors are more than the 75 genes that are not hidden"),
        ({"lam": [-1.0]}, "lam is -1"),
        ({"lam": ["x"]}, "lam is 'x'"),
        ({"n_folds": 1}, "n_folds is 1"),
        ({"n_cells": 0}, "n_cells is 0"),
        ({"hidden_share": 1.0}, "hidden_share is 1"),
        ({"min_stability": 2}, "min_stability is 2"),
        ({"n_threads": 0}, "n_threads is 0"),
        ({"batch_key": "nothing"}, "'nothing' is not a column"),
        ({"lambda_": 1}, "'lambda_' is not an option of select"),
        ({"out": "x.zarr"}, "the page is an .html file"),
    ],
)
def test_impossible_options_are_refused(
    adata: anndata.AnnData, changed: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        tigon.select(adata, **{"k": [3], **OPTIONS, **changed})


def test_too_small_a_limit_is_refused(adata: anndata.AnnData) -> None:
    with pytest.raises(MemoryLimitError, match=r"the memory limit of .* is too small"):
        tigon.select(adata, k=[3], memory_limit="100MiB", **OPTIONS)


def test_the_command_as_a_user_meets_it(adata: anndata.AnnData, tmp_path: Path) -> None:
    source = write_h5ad(adata, tmp_path / "a.h5ad")
    page = tmp_path / "k.html"
    words = ("select", source, "--batch-key", "batch", "--n-folds", "2", "--n-epochs", "1")
    dry = works(*words, "--k", "2:4", "--lam", "1,5", "--out", page, "--dry-run")
    assert "fits   12" in dry.stdout
    assert "cells  600 at most" in dry.stdout
    assert not page.exists()
    done = works(*words, "--k", "2,3", "--out", page)
    assert "recommended" in page.read_text()
    assert "reason" in done.stdout
    assert set(pd.read_csv(tmp_path / "k.csv")["k"]) == {2, 3}
    told = refused(tmp_path, *words, "--k", "2,300", "--out", tmp_path / "l.html")
    assert "300 components are more than" in told
    told = refused(tmp_path, *words, "--k", "3:1:1", "--out", tmp_path / "l.html")
    assert "--k is '3:1:1'" in told
    told = refused(tmp_path, *words, "--k", "3", "--lam", "-1", "--out", tmp_path / "l.html")
    assert "lam is -1" in told


def test_the_benchmark_tells_what_was_planted_and_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    bench = importlib.import_module("bench_select")
    tiny = Namespace(planted="3", k="2:4", lam="5", n_epochs="4", cells=400, genes=80, datasets=2)
    (line,) = bench.planted_lines(tiny)
    assert abs(line["k"] - line["planted"]) <= 1
    assert line["table"]["k"] == [2, 3, 4]


def test_named_seeds_do_not_depend_on_what_else_is_drawn() -> None:
    seed = np.random.SeedSequence(3)
    before = child(seed, 1, 2).generate_state(4)
    seed.spawn(5)
    np.testing.assert_array_equal(child(seed, 1, 2).generate_state(4), before)
