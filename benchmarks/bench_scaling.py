"""From an atlas to W, V and H of every cell: seconds and memory, one JSON line a run.

    python benchmarks/bench_scaling.py --cells 50000 --folder /data/simulated
    python benchmarks/bench_scaling.py --cells 1000000 --donors 300 --folder /data/simulated
    python benchmarks/bench_scaling.py --cells 200000 --folder /data/simulated --workers 2
    python benchmarks/bench_scaling.py --folder /data/simulated --n-threads 1 --cluster-schedule

Counts are simulated (simulate.py: 20,000 genes, about 1,500 non-zeros a cell, donors of their
own depth and programmes, cell types of unequal shares, one of them in one donor only), written
once as an atlas of Tigon's, of a source a donor, and used again. What is timed is the first pass
with the selection of genes (which takes the sums that are stored with the atlas, unless
``--read-cells`` is given), the pack, the epochs and the final pass, which writes the loadings to a
file; workers are started before, and have loaded the libraries. Processor seconds are told by
stage for this process, which on a cluster is the driver and the scheduler, and of all stages for
the workers. Memory is the proportional set size of the process tree, sampled every 50 ms, in a
process that has done nothing else. All files of the atlas are read once before the clock starts,
so that what fits in the page cache comes from there.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import simulate
from record import machine

import tigon
from tigon.scaling import first_pass
from tigon.scaling.budget import bytes_to_spare, parse_bytes
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.engine import Cluster
from tigon.scaling.inmf.config import INMFConfig, usual_staleness
from tigon.scaling.inmf.factorising import factorise
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.integrating import plan_integration
from tigon.scaling.memory import MemoryWatch, use_one_heap
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.scaling.running import running
from tigon.storage.rows import RowFile
from tigon.storage.scattering import in_any_order

N_MOLECULES = 2400
"""Of the median cell; about 1,500 of its 20,000 genes are then seen."""

STAGES = (
    "reading cells",
    "ordering cells",
    "packing cells",
    "the epochs",
    "the iterations",
    "solving loadings",
)
"""Those of a plan that are run here."""


def main() -> None:
    """Make the atlas where it is not there yet, measure in a process of its own, print."""
    chosen = options()
    place = chosen.folder / f"{chosen.cells}-{chosen.genes}-{chosen.donors}.zarr"
    if not place.exists():
        make_atlas(chosen, place)
    if chosen.here:
        print(json.dumps(measure(chosen, place)))
        return
    for _ in range(chosen.repeats):
        read_once(place)
        ran = subprocess.run(
            [sys.executable, __file__, *sys.argv[1:], "--here"], stdout=subprocess.PIPE, check=True
        )
        print(json.dumps(machine() | json.loads(ran.stdout)), flush=True)


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--donors", type=int, default=8)
    parser.add_argument("--folder", type=Path, required=True, help="where atlases are kept")
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--solver", choices=("online", "batch"), default="online")
    parser.add_argument("--n-epochs", type=number_or_auto, default=5, help="a number, or auto")
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--workers", type=int, default=None, help="processes of one thread each")
    parser.add_argument(
        "--cluster-schedule", action="store_true", help="that of clusters, also on threads"
    )
    parser.add_argument("--memory-limit", default="1GiB")
    parser.add_argument(
        "--read-cells", action="store_true", help="to select genes, though their sums are stored"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def number_or_auto(text: str) -> int | str:
    """As the options of the factorisation take it."""
    return text if text == "auto" else int(text)


def make_atlas(chosen: argparse.Namespace, place: Path) -> None:
    """Simulate donor by donor, and join them."""
    chosen.folder.mkdir(parents=True, exist_ok=True)
    model = simulate.Atlas(
        n_cells=chosen.cells,
        n_genes=chosen.genes,
        n_donors=chosen.donors,
        n_molecules=N_MOLECULES * min(1.0, chosen.genes / 20_000),
    )
    with tempfile.TemporaryDirectory(dir=chosen.folder) as name:
        donors = []
        for donor in range(chosen.donors):
            counts = Path(name) / f"donor{donor + 1}.h5ad"  # the name is that of the donor
            simulate.write_donor(model, donor, counts)
            donors.append(counts.with_suffix(".zarr"))
            with tigon.open(counts) as atlas:
                tigon.write_atlas(atlas, donors[-1])
            counts.unlink()  # five times the atlas, which of millions of cells is much
        with tigon.open(donors) as atlas:
            tigon.write_atlas(atlas, place)


def read_once(place: Path) -> None:
    """Bring the files of an atlas into the page cache, as far as they fit in it."""
    room = bytearray(1 << 24)
    for path in sorted(place.rglob("*")):
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.readinto(room):
                    pass


def measure(chosen: argparse.Namespace, place: Path) -> dict[str, Any]:
    """One run, from the atlas to the loadings."""
    use_one_heap()
    if chosen.read_cells:
        first_pass.stored_statistics = lambda *_: None
    cluster = Cluster(n_workers=chosen.workers)
    limit = parse_bytes(chosen.memory_limit)
    config = IntegrateConfig(
        prepare=PrepareConfig(batch_key="donor"),
        inmf=INMFConfig(
            n_components=chosen.n_components,
            solver=chosen.solver,
            n_epochs=chosen.n_epochs,
            staleness=usual_staleness(
                on_cluster=cluster.is_used or chosen.cluster_schedule, solver=chosen.solver
            ),
        ),
        embed=EmbedConfig(umap=False),
        n_threads=chosen.n_threads,
        memory_limit_bytes=limit,
    )
    moments: list[tuple[str, float]] = []
    on_cpu: list[tuple[str, float]] = []

    def note(stage: str, done: int, total: int, **figures: float) -> None:
        if not moments or moments[-1][0] != stage:
            moments.append((stage, time.perf_counter()))
            on_cpu.append((stage, time.process_time()))

    with (
        tempfile.TemporaryDirectory(dir=chosen.folder) as name,
        tigon.open(place) as atlas,
        MemoryWatch() as memory,
    ):
        plan = plan_integration(atlas, config, cluster)
        plan = replace(plan, stages={n: cost for n, cost in plan.stages.items() if n in STAGES})
        folder = Path(name)
        with running(cluster, plan, chosen.n_threads, atlas, folder) as engine:
            began, cpu_began = time.perf_counter(), time.process_time()
            workers_began = workers_cpu_seconds()
            prepared = prepare(atlas, config.prepare, chosen.n_components, engine, progress=note)
            prepared_at = time.perf_counter()
            shape = (len(prepared.kept_codes), chosen.n_components)
            loadings = RowFile(folder / "loadings", shape)
            spare = 0 if cluster.is_used else bytes_to_spare(plan, limit)
            with in_any_order(loadings) as write:
                found = factorise(
                    atlas, prepared, config.inmf, folder, engine, write, note, spare_bytes=spare
                )
            ended, cpu_ended = time.perf_counter(), time.process_time()
            workers_ended = workers_cpu_seconds()
        n_nonzeros = atlas.n_nonzeros
        is_stored = atlas.sums is not None and not chosen.read_cells
    n_cells, n_datasets = len(prepared.kept_codes), len(prepared.datasets.names)
    schedule = plan_schedule(config.inmf, n_cells, n_datasets)
    return {
        "benchmark": "scaling",
        "n_cells": atlas.n_cells,
        "n_genes": atlas.n_genes,
        "n_nonzeros": n_nonzeros,
        "n_donors": chosen.donors,
        "first_pass": "stored sums" if is_stored else "cells",
        "n_threads": chosen.n_threads,
        "n_workers": chosen.workers,
        "schedule": [schedule.per_task, config.inmf.staleness],
        "n_sweeps": schedule.n_sweeps,
        "solver": chosen.solver,
        "n_epochs": found.history.n_epochs,
        "objective": found.solution.objective,
        "seconds": ended - began,
        "factorisation_s": ended - prepared_at,
        "cpu_seconds": cpu_seconds(),
        "stages_s": stages(began, moments, ended),
        "stages_cpu_s": stages(cpu_began, on_cpu, cpu_ended),
        "workers_cpu_s": workers_ended - workers_began,
        "peak_bytes": memory.peak_bytes,
        "projected_bytes": plan.peak_bytes,
        "limit_bytes": limit,
    }


def stages(began: float, moments: list[tuple[str, float]], ended: float) -> dict[str, float]:
    """Seconds by stage, each from when it first told of itself; the first from the start."""
    starts = [began, *(at for _, at in moments[1:]), ended]
    found: dict[str, float] = {}
    for (name, _), (start, stop) in zip(moments, pairwise(starts), strict=True):
        counted = {"epoch": "epochs", "iteration": "iterations"}
        key = counted.get(name.split()[0], name)
        found[key] = found.get(key, 0.0) + stop - start
    return found


def cpu_seconds() -> float:
    """Of this process; what shares the machine shows in the difference to its seconds."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def workers_cpu_seconds() -> float:
    """Of the processes that this one started, so far."""
    used = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return float(sum(times.user + times.system for times in used))


if __name__ == "__main__":
    main()
