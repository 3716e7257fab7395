"""The benchmarks of scaling run at their smallest, and their lines say what they should."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

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
    assert sum(line["stages_s"].values()) == pytest.approx(line["seconds"])
    assert {"reading cells", "packing cells", "epochs", "solving loadings"} <= set(line["stages_s"])
    assert 0 < line["factorisation_s"] < line["seconds"]
    assert line["schedule"] == ([4, 7] if more else [1, 0])
    assert line["peak_bytes"] > 0


def test_a_peer_at_its_smallest(tmp_path: Path) -> None:
    """A stand-in for nmf-torch gets what Tigon factorises, and F of both is of one kind."""
    peers = tmp_path / "peers"
    (peers / "nmf_torch-0.dist-info").mkdir(parents=True)
    (peers / "nmf_torch-0.dist-info" / "METADATA").write_text("Name: nmf-torch\nVersion: 0\n")
    (peers / "nmf.py").write_text(POOR_PEER)
    ours, theirs = lines_of(
        "bench_scaling_peers.py",
        *("--tiny", "--n-epochs", "2", "--folder", str(tmp_path)),
        *("--peers", sys.executable, "--only", "nmf-torch"),
        PYTHONPATH=str(peers),
    )
    assert (ours["method"], theirs["method"]) == ("tigon", "nmf-torch")
    assert theirs["peer_version"] == "0"
    assert theirs["to_tigon_objective"] == theirs["objective"] / ours["objective"] > 1
    equal = theirs["equal_objective"]
    assert equal["n_epochs"] in (1, 2)
    assert equal["objective"] <= theirs["objective"]
    assert equal["to_tigon_seconds"] == theirs["seconds"] / equal["seconds"]
