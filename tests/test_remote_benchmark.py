"""The benchmark of reading over a network runs at its smallest and tells what it should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_remote.py"


@pytest.mark.slow
def test_remote_reading_at_its_smallest() -> None:
    command = [sys.executable, BENCHMARK, "--tiny"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["profile"], line["what"]) for line in lines] == [
        (profile, what)
        for profile in ("local", "network")
        for what in (
            "against bare requests",
            "against bare requests",
            "against the disk, 1 Gbit/s",
            "memory",
            "memory",
        )
    ]
    for line in lines:
        if line["what"] == "against bare requests":
            assert line["nonzeros"] == 600 * 40
            # Four blocks of two small arrays; before them two indexes and offsets of cells.
            assert line["requests_later"] == 2 * 4
            assert line["requests_first"] == 2 * 4 + 2 + 1
