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
from tigon.scaling.packing import build_pack
from tigon.storage.block import Block
from tigon.storage.packs.pack import Pack, PackBlock

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


def write_once(arrays: Path, n_genes: int, n_threads: int) -> float:
    """Seconds to write a pack of the counts saved in a folder, by the version that is imported."""
    saved = np.load(arrays)
    counts = Counts(saved["indptr"], saved["indices"], saved["values"], int(saved["n_genes"]))
    job = Job.of(counts, n_genes)
    with (
        tempfile.TemporaryDirectory(dir=arrays.parent) as folder,
        ThreadEngine(n_threads) as engine,
    ):
        return min(job.seconds(folder, engine, 2))


def compare(
    arrays: Path, other: str, n_genes: int, n_threads: int, n_repeats: int
) -> dict[str, Any]:
    """Writing by this version and by another, in processes of their own, in turn."""
    task = ["--once", str(arrays), "--genes", str(n_genes), "--threads", str(n_threads)]
    command = [sys.executable, __file__, *task]
    seconds: dict[str, list[float]] = {"this": [], "other": []}
    for _ in range(n_repeats):
        for version, environment in (("other", {"PYTHONPATH": other}), ("this", {})):
            done = subprocess.run(
                command,
                env={**os.environ, **environment},
                capture_output=True,
                text=True,
                check=True,
            )
            seconds[version].append(float(done.stdout))
    this, before = min(seconds["this"]), min(seconds["other"])
    return {
        "what": "writing, against another version",
        "seconds": round(this, 3),
        "other_seconds": round(before, 3),
        "times_as_fast": round(before / this, 2),
        "ratios": [round(b / a, 2) for a, b in zip(seconds["this"], seconds["other"], strict=True)],
    }


def read_figures(pack: Pack, n_repeats: int, engine: ThreadEngine) -> Iterator[dict[str, Any]]:
    """Checking the pack, and an epoch's mini-batches from its files and from memory."""
    whole = pack.read(0, pack.n_cells)
    cuts = plan_schedule(INMFConfig(n_components=20), pack.n_cells).epoch(
        1, np.random.SeedSequence(0)
    )

    def resident(start: int, stop: int) -> PackBlock:
        first, last = whole.indptr[start], whole.indptr[stop]
        return PackBlock(
            whole.positions[start:stop],
            whole.datasets[start:stop],
            whole.weights[start:stop],
            whole.indptr[start : stop + 1] - first,
            whole.genes[first:last],
            whole.counts[first:last],
        )

    ways: dict[str, Callable[[], object]] = {
        "checking": lambda: sum(engine.ordered_map(pack.check, pack.stretches())),
        "an epoch from files": lambda: [pack.read(*cut) for cut in cuts],
        "an epoch from memory": lambda: [resident(*cut) for cut in cuts],
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


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="a few cells, to see that it runs")
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--genes", type=int, default=2000, help="genes that are selected")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--against", metavar="FOLDER", help="a folder with another version")
    parser.add_argument("--once", metavar="FILE", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.once:
        print(write_once(given.once, given.genes, given.threads))
        return
    n_cells, n_genes = (2500, 100) if given.tiny else (given.cells, given.genes)
    counts = draw(n_cells, *((1000, 60) if given.tiny else (20_000, 1500)))
    same = {
        "n_cells": n_cells,
        "n_genes": n_genes,
        "n_nonzeros": len(counts.indices),
        "threads": given.threads,
        **machine(),
    }
    with tempfile.TemporaryDirectory() as folder, ThreadEngine(given.threads) as engine:
        seconds = Job.of(counts, n_genes).seconds(folder, engine, given.repeats)
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
