"""Factors of a run: listed, judged, and what the sums behind that are."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import NO_COLOURS, refused, works
from hypothesis import given, settings
from hypothesis import strategies as st
from run_builder import build_contents
from technical import handled_cells
from typer.testing import CliRunner

import tigon
from tigon.command.app import app
from tigon.factor_calls import as_table, listed
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.factors import summing
from tigon.scaling.factors.genes import gene_scores, top_genes
from tigon.scaling.factors.judging import reasons
from tigon.scaling.factors.moments import Moments
from tigon.storage.errors import InputError
from tigon.storage.gene_kinds import MITOCHONDRIAL, NO_KIND, RIBOSOMAL, STRESS, kinds_of
from tigon.storage.rows import ArrayRows
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three types, a factor of damaged cells and one of deeply sequenced ones."""
    return tigon.integrate(
        handled_cells(1000),
        out=tmp_path_factory.mktemp("run") / "run.zarr",
        batch_key="batch",
        n_components=5,
        n_genes="all",
        n_epochs=5,
        umap=False,
        report=False,
        n_threads=2,
    )


@pytest.fixture(scope="module")
def table(run: Run) -> pd.DataFrame:
    return tigon.factors(run, n_top=5)


def named(table: pd.DataFrame, prefix: str) -> list[int]:
    """Factors all of whose top genes have such names."""
    mine = [
        all(g.startswith(prefix) for g in genes.split(", ")) for genes in table["genes"].tolist()
    ]
    return np.flatnonzero(mine).tolist()


def test_planted_technical_factors_are_found_and_no_other(table: pd.DataFrame) -> None:
    (mito,), (deep,) = named(table, "MT-"), named(table, "deep")
    assert len(named(table, "g")) == 3
    assert np.flatnonzero(table["technical"] != "").tolist() == sorted([mito, deep])
    assert table.loc[mito, "r_mito"] >= 0.9
    assert "follows the mitochondrial share" in table.loc[mito, "technical"]
    assert "8 of 10 top genes are mitochondrial genes" in table.loc[mito, "technical"]
    assert table.loc[deep, "r_depth"] >= 0.8
    assert table.loc[deep, "technical"].startswith("its share follows depth (r = +0.")
    assert table["r_ribo"].isna().all()


def shares(run: Run) -> np.ndarray:
    H = np.asarray(run.loadings).astype(float)
    p = H / np.sqrt((H**2).mean(axis=0))
    return np.asarray(p / p.sum(axis=1, keepdims=True))


def test_the_figures_are_those_of_pandas(run: Run, table: pd.DataFrame) -> None:
    obs, p = run.obs, shares(run)
    assert p.sum(axis=1).min() > 0.999, "all cells have loadings"
    groups = [obs["tigon_cluster"].astype(str), obs["tigon_dataset"].astype(str)]
    of = {"depth": np.log(obs["total_counts"]), "genes": np.log(obs["n_genes_by_counts"])}
    of["mito"] = obs["pct_counts_mt"].astype(float)
    frame = pd.DataFrame(p, index=obs.index)
    rest = frame - frame.groupby(groups, observed=True).transform("mean")
    for name, x in of.items():
        within = x - x.groupby(groups, observed=True).transform("mean")
        for f in range(5):
            # Scales are float32 in the run's own units: shares agree to 1e-6.
            overall = np.corrcoef(p[:, f], x)[0, 1]
            assert table.loc[f, f"r_{name}_overall"] == pytest.approx(overall, abs=1e-5)
            found = np.corrcoef(rest[f], within)[0, 1]
            assert table.loc[f, f"r_{name}"] == pytest.approx(found, abs=1e-5)
    assert table["n_cells"].tolist() == np.bincount(p.argmax(axis=1), minlength=5).tolist()
    sizes = np.sqrt((run.W.astype(float) ** 2).mean(axis=1))
    weighed = np.asarray(run.loadings).astype(float).sum(axis=0) * sizes
    np.testing.assert_allclose(table["loadings"], weighed / weighed.sum(), rtol=1e-5)
    use = frame.groupby(groups[1]).mean().to_numpy()
    listing = listed(run)
    np.testing.assert_allclose(listing.use, use, rtol=1e-5)
    u = use / use.sum(axis=0)
    np.testing.assert_allclose(table["use"], u.max(axis=0), rtol=1e-5)
    uneven = 1 + (u * np.log(u)).sum(axis=0) / np.log(2)
    np.testing.assert_allclose(table["unevenness"], uneven, atol=1e-6)
    V, W = np.stack([run.V[name] for name in run.datasets]), run.W
    np.testing.assert_allclose(listing.own, V.sum(axis=2) / (V + W).sum(axis=2), rtol=1e-5)


def test_the_listing_does_not_depend_on_threads_or_storage(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summing, "STRETCH_CELLS", 300)
    one, two = (tigon.factors(run, n_threads=n) for n in (1, 2))
    pd.testing.assert_frame_equal(one, two, check_exact=True)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), cuts=st.lists(st.integers(0, 80), max_size=3))
def test_moments_of_parts_are_those_of_the_whole(seed: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    p, x, group = rng.random((80, 3)), rng.normal(8, 1, 80), rng.integers(0, 4, 80)
    whole = Moments.zeros(4, 3)
    edges = [0, *sorted(cuts), 80]
    for start, stop in pairwise(edges):
        there, local = np.unique(group[start:stop], return_inverse=True)
        part = Moments.zeros(len(there), 3)
        part.add_cells(p[start:stop], x[start:stop], local)
        whole.add(part, there)
    expected = [np.corrcoef(p[:, f], x)[0, 1] for f in range(3)]
    # The mean square of x is 65 times its variance: that many times eps cancel.
    np.testing.assert_allclose(whole.overall(), expected, atol=1e-11)
    means = pd.DataFrame(np.column_stack([p, x])).groupby(group).transform("mean").to_numpy()
    rest = np.column_stack([p, x]) - means
    expected = [np.corrcoef(rest[:, f], rest[:, 3])[0, 1] for f in range(3)]
    np.testing.assert_allclose(whole.within(), expected, atol=1e-10)


def test_what_is_constant_has_no_correlation() -> None:
    moments = Moments.zeros(1, 2)
    p = np.column_stack([np.full(200, 1 / 3), np.linspace(0, 1, 200)])
    moments.add_cells(p, np.full(200, np.log(1234.0)), np.zeros(200, np.int64))
    assert np.isnan(moments.overall()).all()
    moments = Moments.zeros(1, 2)
    moments.add_cells(p, np.linspace(5, 6, 200), np.zeros(200, np.int64))
    np.testing.assert_allclose(moments.overall(), [np.nan, 1.0])


def test_cells_without_a_figure_or_loadings_count_in_nothing_of_it() -> None:
    rng = np.random.default_rng(0)
    H = rng.random((500, 3)).astype(np.float32)
    H[::5] = 0
    x = rng.random(500)
    x[1::5] = np.nan
    depth = np.where(np.arange(500) % 5 == 2, 0.0, rng.integers(1, 90, 500).astype(float))
    cells = summing.Cells(
        loadings=ArrayRows(H),
        scale=np.ones(3),
        datasets=ArrayRows(np.zeros(500, np.int8)),
        clusters=None,
        n_datasets=1,
        n_clusters=0,
        figures={"x": ArrayRows(x), "depth": ArrayRows(depth)},
        logarithmic=frozenset({"depth"}),
    )
    with ThreadEngine(1) as engine:
        sums = summing.sum_factors(cells, engine)
    assert sums.n.sum() == sums.n_strongest.sum() == 400
    assert sums.moments["x"].n.sum() == sums.moments["depth"].n.sum() == 300
    p, ok = H / np.maximum(H.sum(axis=1), 1e-9)[:, None], (H.any(axis=1)) & np.isfinite(x)
    expected = [np.corrcoef(p[ok, f].astype(float), x[ok])[0, 1] for f in range(3)]
    np.testing.assert_allclose(sums.moments["x"].overall(), expected, atol=1e-6)


def test_kinds_of_genes_go_by_their_names() -> None:
    kinds = {
        MITOCHONDRIAL: ["MT-CO1", "mt-Nd2", "Mt-x"],
        RIBOSOMAL: ["RPS3A", "Rpl13a", "RPLP0", "RPSA", "RPS4Y1", "RPL36AL", "RPSAP58", "RPS27L"],
        STRESS: ["FOS", "Junb", "HSPA1A", "Dnajb1"],
        NO_KIND: ["RPS6KA1", "RPS6KB2", "RPS19BP1", "MRPL20", "MTOR", "RPN1", "FOSX", "CD3D", ""],
    }
    names = [name for of_kind in kinds.values() for name in of_kind]
    expected = [kind for kind, of_kind in kinds.items() for _ in of_kind]
    assert kinds_of(names).tolist() == expected


def test_what_makes_a_factor_suspect() -> None:
    quiet = np.zeros((3, 10), np.uint8)
    nan = np.nan
    deep = {"depth": np.array([0.8, -0.6, 0.49]), "genes": np.array([nan, nan, nan])}
    assert [len(why) for why in reasons(deep, quiet)] == [1, 0, 0]
    shallow = {"depth": np.array([0.6, -0.7, 0.1])}
    assert reasons(shallow, quiet) == [[], ["its share follows depth (r = -0.70)"], []]
    damaged = {"mito": np.array([-0.9, 0.5, nan]), "ribo": np.array([-0.9, -0.5, 0.2])}
    assert [len(why) for why in reasons(damaged, quiet)] == [0, 1, 0]
    kinds = np.array([[STRESS] * 5 + [0] * 5, [RIBOSOMAL] * 4 + [0] * 6, [0] * 10], np.uint8)
    assert reasons({}, kinds) == [["5 of 10 top genes are stress genes"], [], []]


def test_genes_that_all_factors_have_do_not_lead() -> None:
    W = np.array([[4.0, 3.0, 0.0], [4.0, 0.0, 1.0]], np.float32)
    assert top_genes(gene_scores(W), 1).ravel().tolist() == [1, 0]
    again = gene_scores(W * np.array([[7.0], [0.1]], np.float32))
    np.testing.assert_allclose(again, gene_scores(W), rtol=1e-6)
    assert not gene_scores(np.zeros((2, 3), np.float32)).any()


def test_what_a_run_does_not_keep_is_missing(tmp_path: Path) -> None:
    contents = build_contents(n_cells=300)
    poor = replace(contents, obs=contents.obs[["tigon_cluster"]])
    listing = listed(write_run(tmp_path / "run.zarr", poor))
    assert listing.missing == ["depth", "genes", "mito", "ribo"]
    assert listing.used_by == [""] * 8
    assert as_table(listing)["r_mito"].isna().all()
    rich = listed(write_run(tmp_path / "rich.zarr", contents))
    assert rich.missing == ["mito", "ribo"]
    # Made by an earlier version: cells that came later have it.
    some = np.where(np.arange(300) < 150, np.nan, 1.0 + np.arange(300) % 7)
    mixed = replace(contents, obs=contents.obs.assign(pct_counts_ribo=some))
    found = listed(write_run(tmp_path / "mixed.zarr", mixed)).correlations["ribo"]
    assert np.isfinite(found.overall).all()
    few = replace(
        contents, obs=contents.obs.assign(pct_counts_ribo=np.where(some > 5, some, np.nan))
    )
    assert np.isnan(listed(write_run(tmp_path / "f.zarr", few)).correlations["ribo"].within).all()


def told(run: Run, columns: int, *options: str) -> str:
    arguments = ["factors", str(run.path), *options]
    found = CliRunner().invoke(app, arguments, env={**NO_COLOURS, "COLUMNS": str(columns)})
    assert found.exit_code == 0, found.stderr
    return str(found.stdout)


def test_the_command_lists(run: Run, table: pd.DataFrame) -> None:
    wide, narrow = told(run, 130, "--n-top", "5"), told(run, 60, "--n-top", "5")
    (mito,), (deep,) = named(table, "MT-"), named(table, "deep")
    for text, columns in ((wide, 130), (narrow, 60)):
        assert max(map(len, text.splitlines())) <= columns
        assert " ".join(table.loc[mito, "genes"].split(", ")) in text
        assert f"--drop-factors {min(mito, deep)},{max(mito, deep)}" in " ".join(text.split())
        assert "no ribosomal share" in text
    lines = wide.splitlines()
    assert lines[0].split()[:3] == ["factor", "loadings", "cells"]
    assert [int(line.split()[0]) for line in lines[1:6]] == list(range(5))
    assert [line.endswith("technical") for line in lines[1:6]] == [
        f in (mito, deep) for f in range(5)
    ]
    assert f"factor {mito}  technical" in narrow


def test_of_a_projection_the_run_is_named_to_drop_factors_from(run: Run, tmp_path: Path) -> None:
    laid = tigon.project(run, handled_cells(1000), tmp_path / "laid.zarr", batch_key="batch")
    text = " ".join(told(laid, 130).split())
    assert f"tigon factors {run.path} --drop-factors" in text
    assert text.endswith("--out ..., and project again")


def test_the_command_says_where_unshared_genes_are(tmp_path: Path) -> None:
    contents = build_contents(n_cells=300)
    shared = np.arange(60) < 45
    some = replace(contents, var=contents.var.assign(tigon_shared=shared))
    text = " ".join(told(Run.open(write_run(tmp_path / "some.zarr", some)), 130).split())
    assert "Top genes are of the 45 that all datasets measure; the 15 others have" in text
    assert "Top genes are" not in told(Run.open(write_run(tmp_path / "all.zarr", contents)), 130)


def test_the_command_answers_in_json(run: Run, table: pd.DataFrame) -> None:
    facts: dict[str, Any] = json.loads(works("factors", run.path, "--json").stdout)
    assert facts["technical"] == np.flatnonzero(table["technical"] != "").tolist()
    assert facts["missing"] == ["ribo"]
    assert [factor["number"] for factor in facts["factors"]] == list(range(5))
    first = facts["factors"][0]
    assert sum(each["use"] for each in first["datasets"].values()) == pytest.approx(1)
    assert first["correlations"]["depth"]["within"] == pytest.approx(table.loc[0, "r_depth"])
    assert len(first["genes"]) == 10


def test_the_command_refuses_to_list(run: Run, tmp_path: Path) -> None:
    assert "n_top is 0" in refused(tmp_path, "factors", run.path, "--n-top", "0")
    assert "n_threads is 0" in refused(tmp_path, "factors", run.path, "--n-threads", "0")
    assert "there is no run" in refused(tmp_path, "factors", tmp_path / "none.zarr")
    with pytest.raises(InputError, match="n_top is -1"):
        tigon.factors(run, n_top=-1)
