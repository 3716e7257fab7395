"""The benchmark of the pack runs at its smallest, and its lines say what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_pack.py"


def test_the_pack_at_its_smallest() -> None:
    command = [sys.executable, str(BENCHMARK), "--tiny", "--repeats", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["what"] for line in lines] == [
        "writing",
        "checking",
        "an epoch from files",
        "an epoch from memory",
        "an epoch of training, pack in files",
        "an epoch of training, pack in memory",
    ]
    for line in lines:
        assert line["seconds"] > 0
        assert line["n_bytes"] > 4 * line["n_cells"]
        assert line["threads"] == 2
