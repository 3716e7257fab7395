"""The objective of batch iterations, of online epochs, of both, and of nmf-torch's batch mode.

    python benchmarks/bench_batch.py kang_pbmc_stim.h5ad --peers /path/to/python
    python benchmarks/bench_batch.py pbmc3k.h5ad --seeds 1 --only "tigon batch"

All factorise the counts of one pack with the same scaling, k and lambda, for every seed, with
the tolerances that ship. nmf-torch's batch mode goes on until ten iterations lower the root of
F by less than a millionth. F of all is computed by one function from W and V, which solves the
loadings of every cell (tigon.scaling.inmf.solving.solve_all). Of Tigon's iterations each line
tells by how much F rose at most from one to the next: never by more than 0. Prints a line per
method and seed, then the medians. The peers' environment is that of bench_scaling_peers.py.

The time of an iteration beside that of an epoch is bench_scaling.py's, with ``--solver batch``.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from bench_scaling_peers import HERE, Line, hand_over, objective, output
from numpy.typing import NDArray
from record import machine

import tigon
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.factorising import factorise
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, Prepared, prepare

METHODS: dict[str, dict[str, Any]] = {
    "tigon online": {},
    "tigon online, polished": {"polish": "auto"},
    "tigon batch": {"solver": "batch"},
    "tigon online, from nndsvd": {"init": "nndsvd"},
    "tigon batch, from nndsvd": {"solver": "batch", "init": "nndsvd"},
}
PEER = "nmf-torch-batch"


def main() -> None:
    """Run, print a line per result, and the medians."""
    chosen = options()
    about = {"benchmark": "batch", "data": chosen.path.name, **machine()}
    found: dict[str, list[float]] = {}
    for line in lines(chosen):
        found.setdefault(line["method"], []).append(line["objective"])
        print(json.dumps(about | line), flush=True)
    for method, values in found.items():
        told = {"method": method, "median_objective": statistics.median(values)}
        print(json.dumps(about | told | {"n_seeds": len(values)}))


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--lam", type=float, default=5.0)
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--allow-non-integer", action="store_true")
    parser.add_argument("--peers", help="Python of the peers' environment")
    return parser.parse_args()


def lines(chosen: argparse.Namespace) -> Iterator[Line]:
    """Every method and the peer, seed by seed."""
    k, lam = chosen.n_components, chosen.lam
    with (
        tempfile.TemporaryDirectory() as name,
        tigon.open(chosen.path, allow_non_integer=chosen.allow_non_integer) as atlas,
        ThreadEngine(chosen.n_threads) as engine,
        ExitStack() as over,
    ):
        folder = Path(name)
        prepared = prepare(atlas, PrepareConfig(batch_key=chosen.batch_key), k, engine)
        problem = prepared.problem(lam)
        parts = prepared.datasets, prepared.statistics, prepared.genes
        pack = build_pack(atlas, *parts, folder / "pack", engine, np.random.SeedSequence(0))
        over.callback(pack.close)
        if chosen.peers:
            hand_over(pack, problem, folder)
        for seed in range(chosen.seeds):
            for method in chosen.only:
                config = INMFConfig(n_components=k, lam=lam, random_state=seed, **METHODS[method])
                yield {"method": method, "seed": seed} | ours(atlas, prepared, config, engine)
            if chosen.peers:
                command = [chosen.peers, HERE / "peers_scaling" / "factorise.py", PEER, folder]
                line = output([*command, k, lam, chosen.n_threads, 0, seed])
                F = objective(pack, problem, PEER, folder, engine)
                yield {"method": PEER, "seed": seed, "objective": F} | line


def ours(atlas: tigon.Atlas, prepared: Prepared, config: INMFConfig, engine: ThreadEngine) -> Line:
    """One factorisation, the packing of its cells apart."""
    began: dict[str, float] = {}

    def note(stage: str, done: int, total: int, **figures: float) -> None:
        began.setdefault("epochs" if stage.split()[0] in ("epoch", "iteration") else stage, now())

    now = time.perf_counter
    with tempfile.TemporaryDirectory() as name:
        found = factorise(atlas, prepared, config, Path(name), engine, forget, note)
    fall = np.array(found.history.fall)
    iterations = np.flatnonzero(~np.isnan(found.history.residual))
    rises = np.diff(np.array(found.history.loss)[iterations])
    line: Line = {
        "objective": found.solution.objective,
        "n_epochs": found.history.n_epochs - len(iterations),
        "n_iterations": len(iterations),
        "seconds": now() - began["epochs"],
    }
    if len(iterations):
        line["largest_rise"] = float(rises.max(initial=-np.inf))
        line["last_fall"] = fall[-1]
        line["residual"] = found.history.residual[-1]
    return line


def forget(positions: NDArray[Any], H: NDArray[Any]) -> None:
    """Loadings are of no matter here."""


if __name__ == "__main__":
    main()
