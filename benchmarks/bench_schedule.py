"""What the schedule of a cluster costs: F beside the synchronous one, and the time of Dask.

    python benchmarks/bench_schedule.py objective SOURCE... --batch-key batch
    python benchmarks/bench_schedule.py overhead ATLAS.zarr --batch-key donor
    python benchmarks/bench_schedule.py rounds ATLAS.zarr --batch-key donor
    python benchmarks/bench_schedule.py steps ATLAS.zarr --batch-key donor

``objective`` fits every schedule from several seeds on threads, which give the bytes of a
cluster, and prints for each the median F relative to one mini-batch a task and no staleness.
``overhead`` trains with the same schedule in turn on one thread and on one worker of one
thread, and prints the least seconds of each and of an empty map of as many tasks. ``rounds``
trains epochs of one round and of several, as many as the plan has, on all threads, and prints F
of the metagenes and seconds for each number of epochs and seed; ``steps`` does so with steps of
a mini-batch and a sweep, of as many mini-batches as the plan has, and with its sweeps too. One
JSON line a result.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from record import machine

import tigon
from tigon.scaling.engine import Cluster, ClusterEngine, ThreadEngine, available_threads
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.solving import solve_all
from tigon.scaling.inmf.state import Problem, init_state
from tigon.scaling.inmf.training import train
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.storage.packs.pack import Pack

SCHEDULES = ((1, 0), (2, 3), (4, 3), (4, 7), (8, 7))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("objective", "overhead", "rounds", "steps"))
    parser.add_argument("sources", nargs="+")
    parser.add_argument("--batch-key", default=None)
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--n-genes", type=int, default=2000)
    parser.add_argument("--minibatch-size", type=int, default=5000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--schedules", default=";".join(f"{g},{s}" for g, s in SCHEDULES))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--epochs", type=int, nargs="+", default=[2, 3, 5, 8])
    chosen = parser.parse_args()
    schedules = [tuple(map(int, schedule.split(","))) for schedule in chosen.schedules.split(";")]
    measures = {
        "objective": partial(objectives, schedules=schedules),
        "overhead": partial(overheads, schedules=schedules),
        "rounds": partial(plans, variants=[{"rounds": 1}, {}]),
        "steps": partial(plans, variants=[{"per_task": 1, "n_sweeps": 1}, {"n_sweeps": 1}, {}]),
    }
    for line in measures[chosen.what](chosen):
        names = [Path(source).name for source in chosen.sources]
        told = {"benchmark": f"schedule {chosen.what}", "sources": names}
        print(json.dumps(machine() | told | line), flush=True)


def objectives(chosen: argparse.Namespace, schedules: list[Any]) -> Iterator[dict[str, Any]]:
    """F of each schedule, in the order given; the first is what others are compared to."""
    base: list[float] = []
    with tigon.open(chosen.sources) as atlas:
        for per_task, staleness in schedules:
            found, epochs = [], []
            for seed in range(chosen.seeds):
                model = tigon.OnlineINMF(
                    chosen.n_components,
                    n_genes=chosen.n_genes,
                    minibatch_size=chosen.minibatch_size,
                    minibatches_per_task=per_task,
                    staleness=staleness,
                    random_state=seed,
                ).fit(atlas, batch_key=chosen.batch_key)
                found.append(model.objective_)
                epochs.append(model.n_epochs_)
            base = base or found
            yield {
                "n_cells": atlas.n_cells,
                "minibatch_size": chosen.minibatch_size,
                "minibatches_per_task": per_task,
                "staleness": staleness,
                "objective": statistics.median(found),
                "relative": statistics.median(found) / statistics.median(base) - 1,
                "relative_by_seed": [f / b - 1 for f, b in zip(found, base, strict=True)],
                "n_epochs": epochs,
            }


def overheads(chosen: argparse.Namespace, schedules: list[Any]) -> Iterator[dict[str, Any]]:
    """Seconds of training on a thread and on a worker, in turn."""
    with (
        tempfile.TemporaryDirectory() as name,
        tigon.open(chosen.sources[0]) as atlas,
        ThreadEngine(1) as thread,
        Cluster(n_workers=1).connect(2**30, 2**29) as client,
        ClusterEngine(client, Path(name), 1) as worker,
    ):
        pack, problem = packed(atlas, chosen, Path(name), thread)
        order = np.random.SeedSequence(0)
        for per_task, staleness in schedules:
            config = INMFConfig(
                n_components=chosen.n_components,
                n_epochs=2,
                minibatch_size=chosen.minibatch_size,
                minibatches_per_task=per_task,
                staleness=staleness,
            )
            schedule = plan_schedule(config, pack.n_cells, problem.n_datasets)

            tasks = [len(schedule.tasks(epoch, order)) for epoch in range(2)]
            run = partial(training_s, pack, Path(name), problem, config)
            times = [
                (run(thread), run(worker), empty_s(worker, tasks, staleness))
                for _ in range(chosen.repeats)
            ]
            here, there, nothing = map(min, zip(*times, strict=True))
            yield {
                "n_cells": pack.n_cells,
                "minibatch_size": chosen.minibatch_size,
                "minibatches_per_task": per_task,
                "staleness": staleness,
                "n_tasks": sum(tasks),
                "thread_s": here,
                "worker_s": there,
                "empty_s": nothing,
                "worker_to_thread": there / here,
                "least_ratio": min(b / a for a, b, _ in times),
            }


def plans(chosen: argparse.Namespace, variants: list[dict[str, int]]) -> Iterator[dict[str, Any]]:
    """F and seconds of fits by plans that differ from the one made for the cells."""
    n_threads = available_threads()
    with (
        tempfile.TemporaryDirectory() as name,
        tigon.open(chosen.sources[0]) as atlas,
        ThreadEngine(n_threads) as engine,
    ):
        pack, problem = packed(atlas, chosen, Path(name), engine)
        for n_epochs in chosen.epochs:
            config = INMFConfig(
                n_components=chosen.n_components,
                n_epochs=n_epochs,
                minibatch_size=chosen.minibatch_size,
            )
            planned = plan_schedule(config, pack.n_cells, problem.n_datasets)
            for seed in range(chosen.seeds):
                for schedule in (replace(planned, **variant) for variant in variants):
                    random = np.random.SeedSequence(seed)
                    state = init_state(problem, chosen.n_components, random)
                    parts = Path(name), problem, state, schedule, config, engine, random
                    began = time.perf_counter()
                    state, _ = train(pack, *parts)
                    seconds = time.perf_counter() - began
                    metagenes = state.W, state.V, config.tol_final
                    solved = solve_all(pack, problem, *metagenes, engine, lambda *_: None)
                    yield {
                        "n_cells": pack.n_cells,
                        "n_datasets": problem.n_datasets,
                        "n_threads": n_threads,
                        "n_epochs": n_epochs,
                        "rounds": schedule.rounds,
                        "minibatches_per_task": schedule.per_task,
                        "n_sweeps": schedule.n_sweeps,
                        "seed": seed,
                        "objective": solved.objective,
                        "seconds": seconds,
                    }


def packed(
    atlas: tigon.Atlas, chosen: argparse.Namespace, folder: Path, engine: ThreadEngine
) -> tuple[Pack, Problem]:
    """The selected genes of an atlas."""
    chosen_cells = PrepareConfig(batch_key=chosen.batch_key, n_genes=chosen.n_genes)
    prepared = prepare(atlas, chosen_cells, chosen.n_components, engine)
    parts = prepared.datasets, prepared.statistics, prepared.genes
    pack = build_pack(atlas, *parts, folder / "pack", engine, np.random.SeedSequence(0))
    return pack, prepared.problem(5.0)


def training_s(
    pack: Pack, folder: Path, problem: Problem, config: INMFConfig, engine: ThreadEngine
) -> float:
    """Seconds of all epochs."""
    state = init_state(problem, config.n_components, np.random.SeedSequence(1))
    schedule = plan_schedule(config, pack.n_cells, problem.n_datasets)
    began = time.perf_counter()
    train(pack, folder, problem, state, schedule, config, engine, np.random.SeedSequence(0))
    return time.perf_counter() - began


def empty_s(engine: ThreadEngine, n_tasks: list[int], staleness: int) -> float:
    """Seconds of maps of as many tasks that do nothing."""
    began = time.perf_counter()
    for n in n_tasks:
        for _ in engine.ordered_map(abs, range(n), staleness + 1):
            pass
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
