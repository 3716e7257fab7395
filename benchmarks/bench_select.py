"""Whether ``tigon select`` finds the number of factors that was planted.

    python benchmarks/bench_select.py planted --k 2:20:1 --planted 5,7,9,11,13
    python benchmarks/bench_select.py real SOURCE --batch-key batch --k 5:60:5 --lam 1,5,25

``planted`` draws counts of a known number of programmes, a seed for each, and prints what is
chosen; ``real`` prints the table of a file. One JSON line a result.

The planted model: cell c of dataset i uses programmes in proportions h_c from a Dirichlet
distribution, most of them little, and has Poisson counts around N_c h_c (W + V_i), where W
are sparse gamma draws that overlap, V_i a tenth of these, and N_c is log-normal.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from record import machine
from scipy import sparse

import tigon
from tigon.command.values import number_or, numbers, whole_numbers

CONCENTRATION = 0.15
DEPTH = 1500.0


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("planted", "real"))
    parser.add_argument("sources", nargs="*", type=Path)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--k", default="2:20:1")
    parser.add_argument("--lam", default="5")
    parser.add_argument("--n-epochs", default="auto")
    parser.add_argument("--planted", default="5,7,9,11,13")
    parser.add_argument("--cells", type=int, default=3000)
    parser.add_argument("--genes", type=int, default=500)
    parser.add_argument("--datasets", type=int, default=3)
    chosen = parser.parse_args()
    measure = planted_lines if chosen.what == "planted" else real_lines
    for line in measure(chosen):
        print(json.dumps(machine() | {"benchmark": f"select {chosen.what}"} | line), flush=True)


def planted_lines(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is chosen of each planted number; its seed is its place in the list."""
    for seed, k in enumerate(map(int, chosen.planted.split(","))):
        adata = plant(chosen.cells, chosen.genes, k, chosen.datasets, seed)
        yield {"planted": k, "seed": seed, **selected(adata, "batch", chosen, n_genes="all")}


def real_lines(chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The table of each file."""
    for source in chosen.sources:
        yield {"data": source.stem, **selected(source, chosen.batch_key, chosen, n_genes=2000)}


def selected(
    source: Any, batch_key: str, chosen: argparse.Namespace, *, n_genes: int | str
) -> dict[str, Any]:
    """The choice and its table."""
    began = time.process_time()
    table = tigon.select(
        source,
        k=whole_numbers(chosen.k, "--k"),
        lam=numbers(chosen.lam, "--lam"),
        batch_key=batch_key,
        n_genes=n_genes,
        n_epochs=number_or(chosen.n_epochs, "auto", "--n-epochs"),
    )
    shown = ["k", "lam", "error", "above_best", "above_best_se", "stability", "mixing"]
    return {
        "k": table.attrs["k"],
        "lam": table.attrs["lam"],
        "reason": table.attrs["reason"],
        "cpu_s": time.process_time() - began,
        "table": table[shown].round(5).to_dict("list"),
    }


def plant(n: int, m: int, k: int, d: int, seed: int) -> anndata.AnnData:
    """Counts of ``k`` programmes in ``d`` datasets, (n, m)."""
    rng = np.random.default_rng(seed)
    W = rng.gamma(0.3, 1.0, (k, m)) + 0.05
    V = 0.1 * rng.gamma(0.3, 1.0, (d, k, m))
    batch = rng.integers(0, d, n)
    H = rng.dirichlet(np.full(k, CONCENTRATION), n)
    rate = np.einsum("ck,ckm->cm", H, W[None] + V[batch])
    rate *= DEPTH * rng.lognormal(0.0, 0.35, (n, 1)) / rate.sum(axis=1, keepdims=True)
    counts = sparse.csr_matrix(rng.poisson(rate).astype(np.float32))
    obs = pd.DataFrame(
        {"batch": pd.Categorical([f"b{i}" for i in batch])}, index=[f"cell{c}" for c in range(n)]
    )
    return anndata.AnnData(counts, obs, pd.DataFrame(index=[f"gene{g}" for g in range(m)]))


if __name__ == "__main__":
    main()
