"""Benchmarks run at their smallest, and their lines say what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from atlases import planted
from builders import write_h5ad
from technical import handled_cells

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.mark.slow
def test_kernels_at_their_smallest() -> None:
    command = [sys.executable, BENCHMARKS / "bench_kernels.py", "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert {line["kernel"] for line in lines} == {
        "nnls fast warm",
        "nnls fast cold",
        "nnls tight warm",
        "nnls exact warm",
        "nnls exact cold",
        "mini-batch step, one dataset",
        "mini-batch step, two datasets",
        "epoch of resident cells, one dataset",
        "epoch of resident cells, two datasets",
    }
    for line in lines:
        assert line["threads"] == 2
        if "kkt_residual" in line:
            limits = {"tight": 1e-6, "exact": 1e-10}
            limit = limits.get(line["kernel"].split()[1], 1e-3)
            assert line["kkt_residual"] <= limit
        if "loss_per_cell" in line:
            assert line["loss_per_cell"][-1] < line["loss_per_cell"][0]


@pytest.mark.slow
def test_factors_at_their_smallest(tmp_path: Path) -> None:
    source = write_h5ad(handled_cells(600), tmp_path / "handled.h5ad")
    script = BENCHMARKS / "bench_factors.py"
    command = [sys.executable, script, source, "--label-key", "kind", "--cells", "2000"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    judged, cost = (json.loads(line) for line in done.stdout.splitlines())
    assert {why for reasons in judged["technical"].values() for why in reasons}
    assert judged["largest_correlation"]["mito"]["technical, within"] >= 0.9
    assert judged["scores_without"].keys() == judged["scores"].keys()
    assert (cost["cells"], cost["threads"]) == (2000, 2)


@pytest.mark.slow
def test_alignments_at_their_smallest(tmp_path: Path) -> None:
    adata = planted(n=300, m=60, k=3, d=2).adata
    file = write_h5ad(adata, tmp_path / "small.h5ad")
    command = [sys.executable, BENCHMARKS / "bench_alignment.py", file, "--n-components", "3"]
    command += ["--batch-key", "batch", "--label-key", "kind"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = {line["method"]: line for line in map(json.loads, done.stdout.splitlines())}
    assert {"centroid", "quantile", "none"} <= set(lines)
    assert ("harmony" in lines) != ("harmonypy is not installed" in done.stderr)
    for line in lines.values():
        assert line["n_scored"] == adata.n_obs
        assert 0 <= line["mixing"] <= 1.5
        assert -1 <= line["ari"] <= line["best_ari"] + 1e-12 <= 1 + 1e-12
