"""The benchmark of principal components at its smallest: its lines and its measure."""

from __future__ import annotations

import importlib
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atlases import planted
from builders import write_h5ad

import tigon

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
PEERS = ["scikit-learn PCA", "scikit-learn TruncatedSVD", "scanpy on nothing"]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("bench_pca")


@pytest.fixture
def chosen(tmp_path: Path) -> Namespace:
    counts = write_h5ad(planted(n=300, m=60, k=4, d=2).adata, tmp_path / "a.h5ad")
    tigon.write_atlas(tigon.open(counts), tmp_path / "a.zarr").close()
    return Namespace(
        atlas=tmp_path / "a.zarr", n_components=4, n_threads=2, peers=sys.executable, only=PEERS,
        all_genes=False, limit_s=None, repeats=1,
    )  # fmt: skip


def test_lines(bench: Any, chosen: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "ours", lambda of, what: bench.measure(of_kind(of, what)))
    floor, gram, krylov, centred, uncentred, absent = bench.lines(chosen)
    assert [line["method"] for line in (floor, gram, krylov)] == [
        "floor",
        "tigon gram",
        "tigon krylov",
    ]
    assert gram["n_passes"] == 2 < krylov["n_passes"]
    assert gram["explained_of_exact"] == pytest.approx(1, abs=1e-12)
    # Iterations end at residuals of 7 %, of which the variance has the square.
    assert 1 - 0.07**2 < krylov["explained_of_exact"] <= 1 + 1e-12
    assert (centred["centred"], uncentred["centred"]) == (True, False)
    # float32: about 1e-7 for each of 60 genes.
    assert centred["explained_of_exact"] == pytest.approx(1, abs=1e-5)
    assert 0.9 < uncentred["explained_of_exact"] <= 1 + 1e-5
    assert centred["to_tigon_seconds"] == centred["seconds"] / gram["seconds"]
    assert absent == {**absent, "method": "scanpy on nothing", "ended_with": 1}
    assert "seconds" not in absent
    check_others(bench, chosen)


def of_kind(chosen: Namespace, what: str) -> Namespace:
    return Namespace(**{**vars(chosen), "here": what})


def check_others(bench: Any, chosen: Namespace) -> None:
    """Directions at random explain little, and a component that was missed shows."""
    exact = bench.Exact.read(chosen.atlas.with_suffix(".peers"), 4)
    drawn = np.random.default_rng(0).standard_normal((4, len(exact.gram)))
    assert exact.accuracy(drawn, centred=True)["explained_of_exact"] < 0.5
    values, vectors = np.linalg.eigh(exact.centred)
    missed = exact.accuracy(vectors[:, [-1, -2, -3, -5]].T, centred=True)
    kept = values[[-1, -2, -3, -5]].sum() / values[-4:].sum()
    assert missed["explained_of_exact"] == pytest.approx(kept, rel=1e-12)
    assert missed["smallest_cos"] < 1e-6


def test_genes_are_few_enough_counts(
    bench: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adata = planted(n=300, m=60, k=4, d=2).adata
    adata.obs["donor"] = adata.obs["batch"]
    place = tmp_path / "b.zarr"
    tigon.write_atlas(tigon.open(write_h5ad(adata, tmp_path / "b.h5ad")), place).close()
    detected = np.asarray((adata.X > 0).mean(axis=0)).ravel()
    density = float(np.sort(detected)[:40].mean())
    some = Namespace(variable=20, density=density, n_threads=2)
    with tigon.open(bench.variable_genes(some, place)) as atlas:
        assert atlas.n_genes == 20
        assert atlas.n_nonzeros / atlas.n_cells / 20 <= density
