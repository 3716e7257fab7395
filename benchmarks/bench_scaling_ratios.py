"""How many times as long a larger job takes: medians of runs in turns, one JSON line a ratio.

    python benchmarks/bench_scaling_ratios.py cells donors workers --folder /data/simulated

- ``cells``: three times the cells (beside the cells);
- ``donors``: the same cells in many donors (beside 8);
- ``workers``: one worker (beside two), each a process of one thread.

Every run is one of bench_scaling.py, in a process of its own. The two of a ratio take turns, and
every second pair begins with the other, so that what else the machine does meets both. For
workers the line tells what two processors are worth to each other at that time: steps of
mini-batches a second in two processes at once, by those in one (``two_processes``), taken
before every pair. No ratio can be larger.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import subprocess
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from record import machine

from tigon.kernels import CellTile, Metagenes, minibatch_step

HERE = Path(__file__).parent
KINDS = ("cells", "donors", "workers")

_RATE_S = 1.0
"""How long a process counts its steps."""


def main() -> None:
    """Measure what was asked for, and print."""
    chosen = options()
    for kind in chosen.kinds:
        print(json.dumps(machine() | line(kind, chosen)), flush=True)


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=KINDS)
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--donors", type=int, default=300, help="that 8 are compared with")
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--n-epochs", default="5")
    parser.add_argument("--memory-limit", default="1GiB")
    parser.add_argument("--read-cells", action="store_true", help="as for bench_scaling.py")
    parser.add_argument("--folder", type=Path, required=True, help="where atlases are kept")
    return parser.parse_args()


def line(kind: str, chosen: argparse.Namespace) -> dict[str, Any]:
    """A ratio, of so many pairs."""
    sizes = {"cells": chosen.cells, "genes": chosen.genes, "donors": 8}
    larger, smaller = {
        "cells": (sizes | {"cells": 3 * chosen.cells}, sizes),
        "donors": (sizes | {"donors": chosen.donors}, sizes),
        "workers": (sizes | {"workers": 1}, sizes | {"workers": 2}),
    }[kind]
    pairs, possible = [], []
    for n in range(chosen.pairs):
        if kind == "workers":
            possible.append(two_processes())
        both = (larger, smaller) if n % 2 else (smaller, larger)
        found = {id(each): run(each, chosen) for each in both}
        pairs.append((found[id(larger)], found[id(smaller)]))
    ratios = [one["seconds"] / other["seconds"] for one, other in pairs]
    return {
        "benchmark": "scaling ratios",
        "kind": kind,
        "read_cells": chosen.read_cells,
        "larger": larger,
        "smaller": smaller,
        "seconds": [[one["seconds"], other["seconds"]] for one, other in pairs],
        "peak_bytes": [
            max(each["peak_bytes"] for each in which) for which in zip(*pairs, strict=True)
        ],
        "ratios": ratios,
        "median_ratio": median(ratios),
    } | ({"two_processes": possible} if possible else {})


def run(sizes: dict[str, int], chosen: argparse.Namespace) -> dict[str, Any]:
    """A line of bench_scaling.py."""
    command = [sys.executable, str(HERE / "bench_scaling.py"), "--folder", str(chosen.folder)]
    command += ["--n-epochs", chosen.n_epochs, "--memory-limit", chosen.memory_limit]
    command += ["--read-cells"] if chosen.read_cells else []
    for name, value in sizes.items():
        command += [f"--{name}", str(value)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def two_processes() -> float:
    """By how much more two processes do at once than one does alone."""
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        for _ in pool.map(steps_a_second, [0.0, 0.0]):
            pass  # both have loaded their kernels
        alone = pool.submit(steps_a_second, _RATE_S).result()
        return sum(pool.map(steps_a_second, [_RATE_S, _RATE_S])) / alone


def steps_a_second(seconds: float) -> float:
    """Steps of a mini-batch in one thread, for so long, but at least one."""
    n_cells, n_genes, k, n_entries = 2048, 2000, 20, 400
    rng = np.random.default_rng(0)
    genes = np.sort(rng.integers(0, n_genes, (n_cells, n_entries), np.uint16))
    counts = rng.integers(1, 9, genes.shape, np.uint16)
    tile = CellTile(
        np.arange(n_cells),
        n_entries * np.arange(n_cells + 1),
        genes.ravel(),
        counts.ravel(),
        (1 / counts.sum(axis=1)).astype(np.float32),
    )
    scaled = rng.random((n_genes, k), np.float32)
    metagenes = Metagenes(scaled, scaled.T @ scaled, np.ones(n_genes))
    n_steps, began = 0, time.perf_counter()
    while n_steps == 0 or time.perf_counter() - began < seconds:
        minibatch_step(tile, metagenes, n_threads=1)
        n_steps += 1
    return n_steps / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
