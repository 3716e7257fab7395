"""The benchmark of scaling runs at its smallest, and its lines say what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_scaling.py"


@pytest.mark.parametrize("more", [[], ["--workers", "1"]])
def test_scaling_at_its_smallest(tmp_path: Path, more: list[str]) -> None:
    if more:
        pytest.importorskip("distributed")
    sizes = ["--cells", "600", "--genes", "200", "--donors", "2", "--n-epochs", "1"]
    command = [sys.executable, str(BENCHMARK), *sizes, "--folder", str(tmp_path), *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["n_cells"] == 600
    assert line["n_epochs"] == 1
    assert sum(line["stages_s"].values()) == pytest.approx(line["seconds"])
    assert {"reading cells", "packing cells", "epochs", "solving loadings"} <= set(line["stages_s"])
    assert line["schedule"] == ([4, 7] if more else [1, 0])
    assert line["peak_bytes"] > 0
