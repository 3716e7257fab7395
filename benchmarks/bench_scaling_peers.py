"""The factorisation beside those of nmf-torch and pyliger: seconds, memory and F.

    python benchmarks/bench_scaling_peers.py --folder /data/simulated --peers /path/to/python
    python benchmarks/bench_scaling_peers.py --folder /tmp --tiny

takes the simulated atlas of bench_scaling.py and runs Tigon and every peer on it in turn,
each in a process of its own, with its own default seed and number of passes, the same
threads and lambda. Peers get the scaled counts of the genes that Tigon selects, as Tigon sees them:
dense float32 for nmf-torch, a sparse matrix for each donor for pyliger, in memory before the
clock starts. Tigon has to read its genes from the atlas, whose files are read once before, so that
what fits in the page cache comes from there: its seconds are those of the pack, the epochs and
the final pass; those after the pack are told besides, in which it has what peers
have from the start. Memory is the largest proportional set size of the process
tree, for peers while they factorise, for Tigon from the opening of the atlas.

F of all is computed by one function from W and V, which solves the loadings of every cell
(tigon.scaling.inmf.solving.solve_all), so that nobody is favoured by how they end. At equal
objective: the fewest epochs after which Tigon's F is no worse than the peer's are searched
for, and the seconds of a whole run of so many are those told.

The peers have an environment of their own, Python 3.11: torch, nmf-torch, psutil, anndata,
scikit-learn, lazy-loader, tqdm, h5py, six, setuptools<81, and pyliger and h5sparse without
what else they ask for (``pip install --no-deps``). Without ``--peers`` only Tigon runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import bench_scaling
import numpy as np
from numpy.typing import NDArray
from peers_scaling.factorise import PEERS
from record import machine
from scipy import sparse

import tigon
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.config import MAX_EPOCHS, INMFConfig
from tigon.scaling.inmf.solving import solve_all
from tigon.scaling.inmf.state import Problem
from tigon.scaling.memory import give_back
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.storage.packs.pack import Pack

HERE = Path(__file__).parent
Line = dict[str, Any]


def main() -> None:
    """Make the atlas where it is not there yet, measure in turn, print."""
    chosen = options()
    # The same cores for all; processes that are started inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.n_threads])
    place = place_of(chosen)
    if not place.exists():
        bench_scaling.make_atlas(chosen, place)
    about = {
        "benchmark": "scaling beside peers",
        "n_cells": chosen.cells,
        "n_genes": chosen.genes,
        "n_donors": chosen.donors,
        "n_components": chosen.n_components,
        "n_threads": chosen.n_threads,
    }
    for line in lines(chosen, place):
        print(json.dumps(machine() | about | line), flush=True)


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--donors", type=int, default=8)
    parser.add_argument("--tiny", action="store_true", help="600 cells x 200 genes of 2 donors")
    parser.add_argument("--folder", type=Path, required=True, help="where atlases are kept")
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--n-epochs", default="auto", help="of Tigon, unless searched for")
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--memory-limit", default="1GiB", help="of Tigon")
    parser.add_argument("--peers", help="Python of the peers' environment")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--limit-s", type=float, default=0, help="after which a peer is stopped")
    parser.add_argument("--repeats", type=int, default=1)
    chosen = parser.parse_args()
    if chosen.tiny:
        chosen.cells, chosen.genes, chosen.donors = 600, 200, 2
    return chosen


def place_of(chosen: argparse.Namespace) -> Path:
    """The atlas."""
    folder: Path = chosen.folder
    return folder / f"{chosen.cells}-{chosen.genes}-{chosen.donors}.zarr"


def lines(chosen: argparse.Namespace, place: Path) -> Iterator[Line]:
    """Tigon, and every peer beside the Tigon of its round."""
    with (
        tempfile.TemporaryDirectory(dir=chosen.folder) as name,
        ThreadEngine(chosen.n_threads) as engine,
    ):
        folder = Path(name)
        pack, problem = packed(chosen, place, folder / "pack", engine)
        with closing(pack):
            if chosen.peers:
                hand_over(pack, problem, folder)
                give_back()
                os.sync()  # or gigabytes would be written to the disk beside what is measured
            for _ in range(chosen.repeats):
                ours = tigon_line(chosen, chosen.n_epochs)
                yield ours
                for peer in chosen.only if chosen.peers else ():
                    theirs = peer_line(peer, chosen, folder)
                    if "stopped_after_s" in theirs:
                        theirs |= {"tigon_seconds": ours["seconds"]}
                        theirs |= {"to_tigon_bytes": theirs["peak_bytes"] / ours["peak_bytes"]}
                    if "seconds" in theirs:
                        theirs["objective"] = objective(pack, problem, peer, folder, engine)
                        theirs |= beside(theirs, ours, chosen)
                    yield theirs


def packed(
    chosen: argparse.Namespace, place: Path, folder: Path, engine: ThreadEngine
) -> tuple[Pack, Problem]:
    """The counts that are factorised, as Tigon packs them, and their scales."""
    with tigon.open(place) as atlas:
        prepared = prepare(atlas, PrepareConfig(batch_key="donor"), chosen.n_components, engine)
        parts = prepared.datasets, prepared.statistics, prepared.genes
        pack = build_pack(atlas, *parts, folder, engine, np.random.SeedSequence(0))
    return pack, prepared.problem(INMFConfig().lam)


def hand_over(pack: Pack, problem: Problem, folder: Path) -> None:
    """Write the scaled counts of every dataset where peers look for them."""
    for dataset in range(problem.n_datasets):
        cuts = [(s, min(s + 20_000, pack.n_cells)) for s in range(0, pack.n_cells, 20_000)]
        parts = [scaled(pack, problem, dataset, *cut) for cut in cuts]
        x = sparse.vstack(parts, format="csr", dtype=np.float32)
        sparse.save_npz(folder / f"{dataset}.npz", x, compressed=False)


def scaled(pack: Pack, problem: Problem, dataset: int, start: int, stop: int) -> sparse.csr_matrix:
    """What Tigon factorises, of the cells of a dataset in a stretch of the pack."""
    block = pack.read(start, stop)
    counts = sparse.csr_matrix(
        (block.counts.astype(float), block.genes.astype(np.int32), block.indptr.astype(np.int32)),
        (stop - start, pack.n_genes),
    )
    counts.sum_duplicates()  # large counts are several entries
    rows = np.flatnonzero(block.datasets == dataset)
    weights = sparse.diags(block.weights[rows].astype(float))
    return sparse.csr_matrix(weights @ counts[rows] @ sparse.diags(problem.scale[dataset]))


def tigon_line(chosen: argparse.Namespace, n_epochs: str | int) -> Line:
    """A whole run of bench_scaling.py, of which the factorisation counts."""
    bench_scaling.read_once(place_of(chosen))  # as there, and as peers have theirs in memory
    command = [sys.executable, HERE / "bench_scaling.py", "--here"]
    for name in ("cells", "genes", "donors", "folder", "n_components", "n_threads", "memory_limit"):
        command += ["--" + name.replace("_", "-"), getattr(chosen, name)]
    found = output([*command, "--n-epochs", n_epochs])
    return {
        "method": "tigon",
        "n_epochs": found["n_epochs"],
        "seconds": found["factorisation_s"],
        "after_pack_s": found["stages_s"]["epochs"] + found["stages_s"]["solving loadings"],
        "with_gene_selection_s": found["seconds"],
        "peak_bytes": found["peak_bytes"],
        "objective": found["objective"],
    }


def peer_line(peer: str, chosen: argparse.Namespace, folder: Path) -> Line:
    """One factorisation, or why there is none."""
    arguments = (chosen.n_components, INMFConfig().lam, chosen.n_threads, chosen.limit_s)
    command = [chosen.peers, HERE / "peers_scaling" / "factorise.py", peer, folder, *arguments]
    try:
        return {"method": peer} | output(command)
    except subprocess.CalledProcessError as error:
        return {"method": peer, "ended_with": error.returncode}  # -9 where memory ran out


def output(command: list[Any]) -> Line:
    """The last line that a process printed; peers print lines of their own before."""
    ran = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True)
    found: Line = json.loads(ran.stdout.splitlines()[-1])
    return found


def objective(pack: Pack, problem: Problem, peer: str, folder: Path, engine: ThreadEngine) -> float:
    """F of a peer's metagenes, exactly as that which Tigon reports of its own."""
    found = np.load(folder / f"{peer}-metagenes.npz")
    W, V = (np.ascontiguousarray(found[name], np.float32) for name in "WV")

    def forget(positions: NDArray[Any], H: NDArray[Any]) -> None:
        pass

    tol = INMFConfig().tol_final
    return solve_all(pack, problem, W, V, tol, engine, forget).objective


def beside(theirs: Line, ours: Line, chosen: argparse.Namespace) -> Line:
    """How much more the peer took than Tigon, to their own ends and at equal objective."""
    line = {
        "to_tigon_seconds": theirs["seconds"] / ours["seconds"],
        "to_tigon_bytes": theirs["peak_bytes"] / ours["peak_bytes"],
        "to_tigon_objective": theirs["objective"] / ours["objective"],
    }
    equal = at_equal_objective(theirs["objective"], ours, chosen)
    if equal is None:
        return line | {"equal_objective": None}
    told = ("n_epochs", "seconds", "after_pack_s", "peak_bytes", "objective")
    return line | {
        "equal_objective": {name: equal[name] for name in told}
        | {"to_tigon_seconds": theirs["seconds"] / equal["seconds"]}
        | {"to_tigon_after_pack_s": theirs["seconds"] / equal["after_pack_s"]}
    }


def at_equal_objective(target: float, ours: Line, chosen: argparse.Namespace) -> Line | None:
    """The shortest run of Tigon whose F is no worse; None where even the longest is worse.

    F is taken to fall from epoch to epoch, as it does but for the last digits.
    """

    @cache
    def run(n_epochs: int) -> Line:
        return ours if n_epochs == ours["n_epochs"] else tigon_line(chosen, n_epochs)

    known = ours["n_epochs"] if ours["objective"] <= target else MAX_EPOCHS
    if run(known)["objective"] > target:
        return None
    shorter = range(1, known)
    first = bisect_left(shorter, True, key=lambda n: run(n)["objective"] <= target)  # noqa: FBT003
    return run(first + 1)


if __name__ == "__main__":
    main()
