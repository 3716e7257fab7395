"""The benchmark of ingest runs at its smallest, and its lines say what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_ingest.py"


def test_ingest_at_its_smallest() -> None:
    command = [sys.executable, BENCHMARK, "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["task"] for line in lines] == ["hdf5", "local", "network"]
    assert {line["h5ad"] for line in lines} == {"gzip"}
    sizes = {line["task"]: line["bytes_per_nnz"] for line in lines if line["task"] != "hdf5"}
    assert sizes["network"] < sizes["local"]
    for line in lines:
        assert line["nnz"] == lines[0]["nnz"] > 0
        assert line["s"] > 0
        assert 0 < line["peak_bytes"] < line.get("limit", 2**31)
