"""Sizes are read, costs projected, and what cannot fit is refused with what would."""

from __future__ import annotations

import re
import subprocess
import sys
import time
import tracemalloc
import weakref
from pathlib import Path

import numpy as np
import pytest
from atlases import planted

import tigon
from tigon.scaling import memory
from tigon.scaling.alignment import centroids
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.alignment.passes import Passes
from tigon.scaling.budget import Plan, _minibatch_bytes, format_bytes, parse_bytes, plan_run
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.schedule import plan_schedule, step_cells
from tigon.scaling.inmf.state import init_state
from tigon.scaling.inmf.training import train
from tigon.scaling.memory import MemoryWatch
from tigon.scaling.packing import build_pack
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.storage.errors import InputError, MemoryLimitError
from tigon.storage.packs.blocks import StoredBlock
from tigon.storage.packs.pack import Pack
from tigon.storage.progress import silent
from tigon.storage.rows import ArrayRows


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2GiB", 2**31), ("512MiB", 2**29), ("1.5g", 3 * 2**29), ("1GB", 10**9), (4096, 4096)],
)
def test_sizes_are_read(text: str | int, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GiB", "2 potatoes", "1.2.3G", "-1G", ".", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_bytes(text)


def test_sizes_are_written() -> None:
    assert format_bytes(2**31) == "2.0 GiB"
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(12) == "12 bytes"


def test_the_window_shrinks_to_the_limit_and_then_the_run_is_refused() -> None:
    atlas = tigon.open(planted(n=4000, m=100).adata)

    def plan(limit: int | None) -> Plan:
        inmf = INMFConfig(n_components=5)
        config = IntegrateConfig(inmf=inmf, n_threads=8, memory_limit_bytes=limit)
        return plan_run(atlas, 2, config)

    free = plan(None)
    assert free.window == 16
    assert plan(free.peak_bytes).window == 16
    with pytest.raises(MemoryLimitError) as refused:
        plan(2**20)
    named = re.search(r"--memory-limit (\d+MiB)", str(refused.value))
    assert named is not None
    smallest = parse_bytes(named[1])
    assert plan(smallest).window >= 1
    with pytest.raises(MemoryLimitError):
        plan(smallest - 2**20)


@pytest.mark.parametrize(
    ("n_threads", "window", "per_task", "staleness"),
    [
        *((n, 2 * n, per_task, 0) for n in (1, 2, 6) for per_task in (1, 2, 4)),
        (2, 1, 4, 0),
        (2, 2, 4, 0),
        (5, 3, 10, 0),
        (3, 6, 2, 2),
        (4, 8, 4, 3),
        (8, 16, 4, 7),
    ],
)
def test_no_more_minibatches_are_held_than_are_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n_threads: int,
    window: int,
    per_task: int,
    staleness: int,
) -> None:
    n, k = 2000, 3
    config = INMFConfig(
        n_components=k,
        n_epochs=1,
        minibatch_size=50,
        minibatches_per_task=per_task,
        staleness=staleness,
    )
    atlas, seed = tigon.open(planted(n=n, m=60, k=k, d=1).adata), np.random.SeedSequence(0)
    with ThreadEngine(n_threads, window) as engine:
        prepared = prepare(atlas, PrepareConfig(n_genes="all"), k, engine)
        parts = prepared.datasets, prepared.statistics, prepared.genes
        pack = build_pack(atlas, *parts, tmp_path / "pack", engine, seed)
        held: list[int] = []
        alive: set[int] = set()
        read = Pack.stored

        def counting(self: Pack, start: int, stop: int) -> StoredBlock:
            time.sleep(0.002)  # others wait for it, with what they hold
            block = read(self, start, stop)
            alive.add(start)
            weakref.finalize(block.counts, alive.discard, start)
            held.append(len(alive))
            return block

        monkeypatch.setattr(Pack, "stored", counting)
        problem = prepared.problem(5.0)
        parts = problem, init_state(problem, k, seed), plan_schedule(config, n), config
        train(pack, tmp_path, *parts, engine, seed)
    counted = _minibatch_bytes(config, n, 1, window)
    counted -= (staleness + 1) * 4 * k * step_cells(config, n)
    assert len(held) == 40
    assert max(held) <= counted / config.minibatch_size


def test_the_offsets_of_many_datasets_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many bytes as centroid alignment holds where it takes all of its rounds."""
    monkeypatch.setattr(centroids, "TOLERANCE", -1.0)
    d, k, n = 200, 16, 2000
    H = np.random.default_rng(0).gamma(1, 1, (n, k)).astype(np.float32)
    codes = (np.arange(n) % d).astype(np.int32)
    with ThreadEngine(1) as engine:
        passes = Passes(ArrayRows(H), codes, np.bincount(codes), engine, silent)
        tracemalloc.start()
        centroids.find_offsets(passes, np.ones(k))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak <= centroids.offsets_bytes(n, d, k, 2, 1) <= 1.5 * peak
    atlas = tigon.open(planted(n=600, m=100).adata)
    stages = [
        plan_run(atlas, d, IntegrateConfig(align=AlignConfig(align=method))).stages["aligning"]
        for method in ("none", "centroid")
    ]
    assert stages[0] < stages[1]


def test_memory_is_watched() -> None:
    before = memory._shares(memory._tree())
    with MemoryWatch() as watch:
        held = np.ones(80 * 2**20 // 8)
    n_bytes = held.nbytes
    del held
    # Shares of libraries fall by some MiB when another process that maps them starts.
    without = min(before, memory._shares(memory._tree()))
    assert watch.peak_bytes >= without + 0.9 * n_bytes


def test_watching_takes_little_and_misses_no_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    shares = memory._shares
    monkeypatch.setattr(memory, "_shares", lambda pids: asked.append(pids) or shares(pids))
    watch, most = MemoryWatch(), 0
    for n_mib in (64, 0, 32, 16, 0, 32, 64, 96):
        held = np.ones(n_mib * 2**17)
        watch._look()
        most = max(most, shares(memory._tree()))
        # Shares of libraries fall by some MiB when another process that maps them starts.
        assert 0.99 * most <= watch.peak_bytes <= 1.05 * most
        del held
    assert len(asked) == 1  # of memory that is the processes' own, it is told at once
    for _ in range(memory._SHARES_EVERY + 10):
        watch._look()
    assert len(asked) == 2


def test_processes_that_come_later_are_watched() -> None:
    watch = MemoryWatch()
    watch._look()
    before = watch.peak_bytes
    code = "held = b'1' * (80 << 20); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1) as process:
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        for _ in range(8):
            watch._look()
        process.stdin.close()
    assert watch.peak_bytes >= before + (80 << 20)


def integrate(source: Path, out: Path, umap: bool) -> tuple[int, int]:
    """Bytes projected and measured, in a process that holds nothing of other tests."""
    code = f"""
import tigon
options = dict(batch_key="batch", n_genes=400, n_epochs=2, n_threads=2, umap={umap})
plan = tigon.plan({str(source)!r}, **options)
run = tigon.integrate({str(source)!r}, out={str(out)!r}, **options)
print(plan.peak_bytes, run.peak_memory_bytes)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    projected, measured = map(int, ran.stdout.split())
    return projected, measured


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Counts that were integrated once: to compile the kernels takes memory of its own."""
    folder = tmp_path_factory.mktemp("budget")
    planted(n=3000, m=600, depth=3000).adata.write_h5ad(folder / "counts.h5ad")
    integrate(folder / "counts.h5ad", folder / "first.zarr", umap=False)
    return folder / "counts.h5ad"


@pytest.mark.slow
@pytest.mark.parametrize("umap", [False, True])
def test_projected_memory_is_no_less_than_measured(
    source: Path, tmp_path: Path, umap: bool
) -> None:
    projected, measured = integrate(source, tmp_path / "run.zarr", umap)
    assert measured <= projected <= 2.5 * measured
