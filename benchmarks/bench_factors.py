"""Which factors look technical in real data, what leaving them out does, and what listing costs.

For every file and seed: a run, its factors listed, and the run without those that look
technical. A line tells how strongly shares of factors correlate with depth, detected genes
and ribosomal counts over all cells and within clusters, of the factors that look technical
and of the others, and the scores of both runs. With --cells, a made-up run of so many cells
is listed by a process of its own: seconds, and the peak of its memory.

    python benchmarks/bench_factors.py kang_pbmc_stim.h5ad pbmc3k.h5ad --seeds 3
    python benchmarks/bench_factors.py --cells 1000000 4000000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from record import machine

import tigon
from tigon.factor_calls import listed
from tigon.scaling.factors.listing import FactorListing
from tigon.scaling.memory import MemoryWatch
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.factors import Factors
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run

MIB = 2**20
_SCORES = ("ari", "nmi", "knn_accuracy", "mixing", "best_ari")


def judged(path: Path, batch_key: str, label_key: str, seed: int) -> dict[str, Any]:
    """One file and seed."""
    options: dict[str, Any] = {"batch_key": batch_key, "label_key": label_key, "umap": False}
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        run = tigon.integrate(
            path, out=out / "run.zarr", report=False, random_state=seed, n_threads=2, **options
        )
        found = listed(run, n_threads=2)
        line = {
            "benchmark": "factors",
            "data": path.name,
            "seed": seed,
            "cells": found.n_cells,
            "technical": {str(f): found.reasons[f] for f in found.technical},
            "top_genes": {str(f): found.genes[f][:5] for f in found.technical},
            "largest_correlation": strongest(found),
            "scores": scores(run),
        }
        if found.technical:
            start = time.perf_counter()
            rest = tigon.drop_factors(
                run, found.technical, out / "rest.zarr", report=False, n_threads=2
            )
            line["seconds_to_drop"] = round(time.perf_counter() - start, 2)
            line["scores_without"] = scores(rest)
    return line


def strongest(found: FactorListing) -> dict[str, dict[str, float]]:
    """Largest correlation of a figure with a factor that looks technical, and with another."""
    mine = np.isin(np.arange(len(found.genes)), found.technical)
    told = {}
    for name, r in found.correlations.items():
        told[name] = {
            f"{which}, {how}": round(float(np.nanmax(np.abs(values[of]), initial=0)), 3)
            for which, of in (("technical", mine), ("others", ~mine))
            for how, values in (("within", r.within), ("overall", r.overall))
        }
    return told


def scores(run: Run) -> dict[str, float]:
    """The scores of a run that are known: one dataset has no mixing."""
    found = {name: round(run.scores.get(name, np.nan), 4) for name in _SCORES}
    return {name: score for name, score in found.items() if np.isfinite(score)}


@dataclass(frozen=True, slots=True)
class DrawnRows:
    """Loadings drawn as they are read."""

    shape: tuple[int, int]
    dtype = np.dtype(np.float32)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop``."""
        rng = np.random.default_rng([start, stop])
        return rng.gamma(0.4, 1.0, (stop - start, self.shape[1])).astype(np.float32)


def made_up(path: Path, n: int, k: int = 20, m: int = 2000, d: int = 40) -> None:
    """A run of ``n`` cells of 30 clusters in ``d`` datasets."""
    rng = np.random.default_rng(0)
    dataset = np.sort(rng.integers(0, d, n)).astype(np.int32)
    names = [f"donor{i}" for i in range(d)]
    obs = pd.DataFrame(
        {
            "total_counts": rng.lognormal(8, 0.5, n),
            "n_genes_by_counts": rng.integers(500, 5000, n).astype(np.int32),
            "pct_counts_mt": rng.random(n).astype(np.float32),
            "pct_counts_ribo": rng.random(n).astype(np.float32),
            "tigon_dataset": pd.Categorical.from_codes(dataset, names),
            "tigon_cluster": pd.Categorical.from_codes(
                rng.integers(0, 30, n).astype(np.int8), [str(i) for i in range(30)]
            ),
        }
    )
    obs.index = obs.index.astype(str)
    W = rng.gamma(0.3, 1.0, (k, m)).astype(np.float32)
    contents = RunContents(
        obs=obs,
        var=pd.DataFrame(index=[f"gene{i}" for i in range(m)]),
        datasets=names,
        n_cells=np.bincount(dataset, minlength=d),
        model=Factors(
            W=W,
            V=dict.fromkeys(names, 0.1 * W),
            A=np.stack([np.eye(k) * n / d] * d),
            B=np.zeros((d, m, k)),
            objective=1.0,
        ),
        obsm={"X_inmf": DrawnRows((n, k))},
    )
    write_run(path, contents)


def listing_cost(n: int) -> dict[str, Any]:
    """Seconds and peak memory of listing the factors of ``n`` cells, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.zarr"
        made_up(path, n)
        command = [sys.executable, __file__, "--measure", str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    line: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"benchmark": "listing factors", "cells": n, **line}


def measure(path: str) -> dict[str, float]:
    """The cost of one listing, libraries included."""
    with MemoryWatch() as memory:
        start = time.perf_counter()
        listed(path, n_threads=2)
        seconds = time.perf_counter() - start
    return {"seconds": round(seconds, 2), "peak_mib": memory.peak_bytes // MIB, "threads": 2}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="label")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cells", type=int, nargs="*", default=[], metavar="N")
    parser.add_argument("--measure", metavar="RUN", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    for path in options.files:
        for seed in range(options.seeds):
            line = judged(path, options.batch_key, options.label_key, seed)
            print(json.dumps({**line, **machine()}), flush=True)
    for n in options.cells:
        print(json.dumps({**listing_cost(n), **machine()}), flush=True)


if __name__ == "__main__":
    main()
