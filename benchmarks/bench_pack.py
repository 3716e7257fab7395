"""The pack: how fast it is written, checked and read, one JSON line a result.

Counts are Poisson over genes of very different abundance, a few thousand cells drawn and
then repeated in shuffled order; the most abundant genes are selected. Figures are minima
of interleaved repeats on the same threads.

    python benchmarks/bench_pack.py >> benchmarks/results/pack.jsonl
    python benchmarks/bench_pack.py --tiny

``--against FOLDER`` times the writing of another version in turn with this one: a folder
that holds it as the package ``tigon``.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import machine

from tigon.scaling.datasets import Datasets
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.state import Problem, init_state
from tigon.scaling.inmf.training import train
from tigon.scaling.packing import build_pack
from tigon.storage.block import Block
from tigon.storage.packs.pack import Pack

N_DATASETS = 4
DRAWN_CELLS = 2000


@dataclass(frozen=True)
class Counts:
    """An atlas in memory, read without a copy: what is timed is the pack alone."""

    indptr: NDArray[np.int64]
    indices: NDArray[np.uint16]
    values: NDArray[np.uint16]
    n_genes: int
    path: str | None = None
    source_names: tuple[str, ...] = ("drawn",)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.indptr) - 1

    def read(self, start: int, stop: int) -> Block:
        """Cells ``start`` to ``stop``."""
        first, last = self.indptr[start], self.indptr[stop]
        indptr = self.indptr[start : stop + 1] - first
        entries = slice(first, last)
        return Block(start, indptr, self.indices[entries], self.values[entries], self.n_genes)


def draw(n_cells: int, n_genes: int, n_nonzeros: int) -> Counts:
    """Counts with about ``n_nonzeros`` in a cell."""
    rng = np.random.default_rng(0)
    mean = rng.lognormal(-1.0, 2.0, n_genes)
    low, high = 0.0, 1e3
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (
            (middle, high) if (1 - np.exp(-middle * mean)).sum() < n_nonzeros else (low, middle)
        )
    n_drawn = min(DRAWN_CELLS, n_cells)
    drawn = [rng.poisson(low * mean).astype(np.uint16) for _ in range(n_drawn)]
    genes = [np.flatnonzero(cell).astype(np.uint16) for cell in drawn]
    order = np.concatenate([rng.permutation(n_drawn) for _ in range(-(-n_cells // n_drawn))])
    order = order[:n_cells].tolist()
    lengths = np.array([len(genes[c]) for c in order])
    return Counts(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        np.concatenate([genes[c] for c in order]),
        np.concatenate([drawn[c][genes[c]] for c in order]),
        n_genes,
    )


@dataclass(frozen=True)
class Job:
    """What is packed, and what of the first pass that needs."""

    counts: Counts
    genes: NDArray[np.int64]
    statistics: Any
    datasets: Datasets

    @classmethod
    def of(cls, counts: Counts, n_genes: int) -> Job:
        """All cells, and the genes that are detected most often, ascending."""
        detected = np.bincount(counts.indices, minlength=counts.n_genes)
        statistics = SimpleNamespace(
            integer=True,
            largest=float(counts.values.max()),
            kept=np.ones(counts.n_cells, bool),
            totals=np.add.reduceat(counts.values, counts.indptr[:-1], dtype=np.float64),
            n_cells_detected=detected,
            n_detected=np.diff(counts.indptr),
        )
        codes = (np.arange(counts.n_cells) % N_DATASETS).astype(np.int32)
        names = tuple(f"d{i}" for i in range(N_DATASETS))
        datasets = Datasets(names, codes, np.ones((N_DATASETS, counts.n_genes), bool))
        genes = np.sort(np.argsort(-detected, kind="stable")[:n_genes])
        return cls(counts, genes, statistics, datasets)

    def write(self, folder: Path, engine: ThreadEngine) -> Pack:
        """The pack."""
        atlas: Any = self.counts
        seed = np.random.SeedSequence(0)
        return build_pack(atlas, self.datasets, self.statistics, self.genes, folder, engine, seed)

    def seconds(self, folder: str, engine: ThreadEngine, n_repeats: int) -> list[float]:
        """Seconds of each of some repeats; they stay in the folder, numbered from 0."""
        return [
            seconds_of(lambda i=i: self.write(Path(folder, f"{i}"), engine))
            for i in range(n_repeats)
        ]


def seconds_of(fn: Callable[[], object]) -> float:
    """Wall-clock seconds of one call."""
    started = time.perf_counter()
    fn()
    return time.perf_counter() - started


def write_once(arrays: Path, n_genes: int, n_threads: int) -> list[float]:
    """Seconds, and processor seconds, to write a pack of saved counts by what is imported."""
    saved = np.load(arrays)
    counts = Counts(saved["indptr"], saved["indices"], saved["values"], int(saved["n_genes"]))
    job = Job.of(counts, n_genes)
    found = []
    with (
        tempfile.TemporaryDirectory(dir=arrays.parent) as folder,
        ThreadEngine(n_threads) as engine,
    ):
        for i in range(2):
            before = time.process_time()
            seconds = seconds_of(lambda i=i: job.write(Path(folder, f"{i}"), engine))
            found.append((seconds, time.process_time() - before))
    return [min(column) for column in zip(*found, strict=True)]


def compare(
    arrays: Path, other: str, n_genes: int, n_threads: int, n_repeats: int
) -> dict[str, Any]:
    """Writing by this version and by another, in processes of their own, in turn."""
    task = ["--once", str(arrays), "--genes", str(n_genes), "--threads", str(n_threads)]
    command = [sys.executable, __file__, *task]
    found: dict[str, list[list[float]]] = {"this": [], "other": []}
    for _ in range(n_repeats):
        for version, environment in (("other", {"PYTHONPATH": other}), ("this", {})):
            done = subprocess.run(
                command,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=True,
            )
            found[version].append(json.loads(done.stdout))
    (this, this_cpu), (before, before_cpu) = (
        [min(column) for column in zip(*found[version], strict=True)]
        for version in ("this", "other")
    )
    return {
        "what": "writing, against another version",
        "seconds": round(this, 3),
        "other_seconds": round(before, 3),
        "times_as_fast": round(before / this, 2),
        "cpu_seconds": round(this_cpu, 3),
        "other_cpu_seconds": round(before_cpu, 3),
        "ratios": [
            round(b[0] / a[0], 2) for a, b in zip(found["this"], found["other"], strict=True)
        ],
    }


def read_figures(pack: Pack, n_repeats: int, engine: ThreadEngine) -> Iterator[dict[str, Any]]:
    """Checking the pack, and an epoch's mini-batches from its files and from memory."""
    held = Pack(pack.folder)
    held.hold()
    cuts = plan_schedule(INMFConfig(n_components=20), pack.n_cells).epoch(
        1, np.random.SeedSequence(0)
    )
    ways: dict[str, Callable[[], object]] = {
        "checking": lambda: sum(engine.ordered_map(pack.check, pack.stretches())),
        "an epoch from files": lambda: [pack.read(*cut) for cut in cuts],
        "an epoch from memory": lambda: [held.read(*cut) for cut in cuts],
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(n_repeats):
        for name, way in ways.items():
            seconds[name].append(seconds_of(way))
    for name, found in seconds.items():
        yield {
            "what": name,
            "seconds": round(min(found), 5),
            "n_bytes": pack.n_bytes,
            "gbytes_per_s": round(pack.n_bytes / min(found) / 1e9, 2),
            "n_minibatches": len(cuts),
        }


def training_figures(
    job: Job, pack: Pack, n_repeats: int, engine: ThreadEngine
) -> Iterator[dict[str, Any]]:
    """Epochs of a fit of 20 factors, the pack in its files and in memory, in turn."""
    held = Pack(pack.folder)
    held.hold()
    config = INMFConfig(n_components=20, n_epochs=3)
    scale = np.full(job.datasets.measured[:, job.genes].shape, 1e3)
    problem = Problem(job.datasets.sizes, scale > 0, scale, config.lam)
    schedule = plan_schedule(config, pack.n_cells, problem.n_datasets)
    found: dict[str, list[tuple[float, float]]] = {"files": [], "memory": []}
    losses = set()
    for i in range(n_repeats + 1):  # the first compiles
        for where, source in (("files", pack), ("memory", held)):
            state = init_state(problem, config.n_components, np.random.SeedSequence(0))
            with tempfile.TemporaryDirectory(dir=pack.folder.parent) as folder:
                before = time.process_time()
                started = time.perf_counter()
                _, history = train(
                    source, Path(folder), problem, state, schedule, config, engine,
                    np.random.SeedSequence(1),
                )  # fmt: skip
                seconds = time.perf_counter() - started
            losses.add(history.loss[-1])
            if i:
                found[where].append((seconds / 3, (time.process_time() - before) / 3))
    assert len(losses) == 1, "the fits differ"
    for where, pairs in found.items():
        wall, cpu = (min(column) for column in zip(*pairs, strict=True))
        yield {
            "what": f"an epoch of training, pack in {where}",
            "seconds": round(wall, 4),
            "cpu_seconds": round(cpu, 4),
            "n_bytes": pack.n_bytes,
        }


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a few cells, to see that it runs")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--nonzeros", type=int, default=1500, help="of a cell, in all genes")
    parser.add_argument("--genes", type=int, default=2000, help="genes that are selected")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", metavar="FOLDER", help="a folder with another version")
    parser.add_argument("--once", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(json.dumps(write_once(given.once, given.genes, given.threads)))
        return
    n_cells, n_genes = (2500, 100) if given.tiny else (given.cells, given.genes)
    counts = draw(n_cells, *((1000, 60) if given.tiny else (20_000, given.nonzeros)))
    same = {
        "n_cells": n_cells,
        "n_genes": n_genes,
        "n_nonzeros": len(counts.indices),
        "threads": given.threads,
        **machine(),
    }
    with tempfile.TemporaryDirectory() as folder, ThreadEngine(given.threads) as engine:
        job = Job.of(counts, n_genes)
        seconds = job.seconds(folder, engine, given.repeats)
        pack = Pack(Path(folder, "0"))
        lines = [
            {
                "what": "writing",
                "seconds": round(min(seconds), 3),
                "cells_per_s": round(n_cells / min(seconds)),
                "nonzeros_per_s": round(len(counts.indices) / min(seconds)),
                "n_bytes": pack.n_bytes,
            },
            *read_figures(pack, given.repeats, engine),
            *training_figures(job, pack, given.repeats, engine),
        ]
        if given.against:
            arrays = Path(folder, "counts.npz")
            np.savez(
                arrays,
                indptr=counts.indptr,
                indices=counts.indices,
                values=counts.values,
                n_genes=counts.n_genes,
            )
            lines.append(compare(arrays, given.against, n_genes, given.threads, given.repeats))
    for line in lines:
        print(json.dumps({**line, **same}))


if __name__ == "__main__":
    main()
