"""The storage benchmark runs at its smallest, and its lines say what they should."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCHMARK = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_storage.py"


def test_storage_at_its_smallest() -> None:
    done = subprocess.run([sys.executable, BENCHMARK, "--tiny"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    tools = ("tigon local", "tigon local, float32 SciPy", "tigon network")
    assert [(line["tool"], line["cache"]) for line in lines] == [
        (tool, cache) for tool in tools for cache in ("cold", "warm")
    ]
    assert len({line["nonzeros"] for line in lines}) == 1
    for line in lines:
        assert line["every_cell_once"]
        assert line["cells"] == line["n_cells"] == 2000
        assert line["cells_per_s"] > 0
        assert line["peak_bytes"] > 10 << 20
        # Datasets are drawn in proportion, which a perfect shuffle is only by chance.
        perfect = line["donor_entropy_shortfall_of_perfect_shuffle"]
        assert abs(line["donor_entropy_shortfall"]) < perfect
    sizes = {line["tool"]: line["store_bytes"] for line in lines}
    assert sizes["tigon network"] < sizes["tigon local"]
