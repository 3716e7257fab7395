"""The benchmark of unshared genes runs at its smallest, and its lines say what they should."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from atlases import planted

from tigon.scaling.embedding.scores import knn_accuracy

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
import bench_unshared  # after the folder of the benchmarks is known

SMALLEST = "--planted 2 --cells 60 --k 3 --hidings 1 --batch 1"


def test_unshared_genes_at_their_smallest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench_unshared.py", *SMALLEST.split()])
    bench_unshared.main()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    methods = [line["method"] for line in lines]
    assert methods == ["dropped", "UINMF", "batch UINMF", "in W", "dropped", "UINMF", "in W"]
    dropped, uinmf, batch, _ = lines[:4]
    assert dropped["mean_cosine"] < uinmf["mean_cosine"] <= 1
    assert (dropped["n_genes"], uinmf["n_genes"]) == (30, 270)
    assert 0.9 <= uinmf["kind_accuracy_across"] <= 1
    assert batch["online_above_best"] <= 0.005
    assert min(batch["from_online"], *batch["from_random"]) > 0


@pytest.mark.parametrize("n_in", [1, 2])
def test_genes_are_hidden_as_is_said(n_in: int) -> None:
    adata = planted(n=90, m=40, k=3, d=3).adata
    hiding = bench_unshared.hide(adata, "batch", ["kind"], 10, n_in, seed=1)
    n_measuring = sum(adata.var_names.isin(part.var_names).astype(int) for part in hiding.parts)
    assert np.bincount(n_measuring).tolist() == [0] * n_in + [30] + [0] * (2 - n_in) + [10]
    names = np.concatenate([part.obs_names for part in hiding.parts])
    assert hiding.labels["kind"].tolist() == adata.obs.loc[names, "kind"].astype(str).tolist()
    batches = adata.obs.loc[names, "batch"].astype(str).to_numpy()
    assert (np.unique(batches, return_inverse=True)[1] == hiding.codes).all()


def test_labels_across_are_of_the_nearest_cells_of_other_datasets() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((60, 4)).astype(np.float32)
    codes = rng.integers(0, 3, 60).astype(np.int32)
    labels = rng.integers(0, 2, 60).astype(np.int32)
    right = 0
    for i in range(60):
        others = np.flatnonzero(codes != codes[i])
        far = ((points[others].astype(float) - points[i]) ** 2).sum(axis=1)
        votes = np.bincount(labels[others[np.argsort(far)[:15]]], minlength=2)
        right += int(votes.argmax() == labels[i])
    near = bench_unshared.nearest_elsewhere(points, codes)
    assert knn_accuracy(near, labels) == pytest.approx(right / 60)
