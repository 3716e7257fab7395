"""kill -9 at any moment of writing a pack or a run: nothing half-written is ever found.

One process imports what is needed and forks a child for each attempt; the child writes and
is killed after a delay drawn from the time that an undisturbed child takes, until so many
were killed while they wrote.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

N_KILLS = 12

START = """
import os, random, signal, sys, time
from pathlib import Path
import numpy as np

def child(work):
    number = os.fork()
    if number == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return number

def finished(number):
    return os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])

def content(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}

def attempts(work, check, n_kills):
    spans = []
    for _ in range(2):  # the longer one was disturbed
        started = time.perf_counter()
        assert finished(child(work)) == 0
        spans.append(time.perf_counter() - started)
        check(True)
    span = min(spans)
    rng, n_killed = random.Random(0), 0
    while n_killed < n_kills:
        number = child(work)
        time.sleep(rng.uniform(0, span))
        os.kill(number, signal.SIGKILL)
        was_killed = finished(number) == -signal.SIGKILL
        n_killed += was_killed
        span *= 1 if was_killed else 0.9  # others are disturbed less than the first were
        check(False)
    assert finished(child(work)) == 0
    check(True)
    print("killed", n_killed)
"""

PACK = """
import tigon
from tigon.scaling.datasets import Datasets
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.keeping import obtain_pack
from tigon.storage.block import Block
from tigon.storage.packs.cache import PackCache
from tigon.storage.packs.pack import Pack
from tigon.storage.publish import remove

rng = np.random.default_rng(0)
n, m, row = 30_000, 300, 60

class Atlas:
    digest, path, source_names = "same", None, ["drawn"]
    n_cells, n_genes = n, m
    indices = np.tile(np.arange(0, m, m // row, dtype=np.uint16), n)
    values = rng.integers(1, 9, n * row).astype(np.uint16)
    def read(self, start, stop):
        rows = slice(start * row, stop * row)
        indptr = np.arange(stop - start + 1) * row
        return Block(start, indptr, self.indices[rows], self.values[rows], m)

class Statistics:
    integer, largest = True, 8.0
    kept, totals = np.ones(n, bool), np.full(n, 100.0)
    n_cells_detected, n_detected = np.full(m, n // 5), np.full(n, row)

codes = (np.arange(n) % 3).astype(np.int32)
datasets = Datasets(("a", "b", "c"), codes, np.ones((3, m), bool))
folder = Path(sys.argv[1])

def work():
    with ThreadEngine(2) as engine:
        genes, seed = np.arange(m), np.random.SeedSequence(0)
        cache = PackCache(folder / "cache")
        obtain_pack(Atlas(), datasets, Statistics, genes, folder, cache, engine, seed)

whole = None

def check(done):
    global whole
    packs = [path for path in (folder / "cache").glob("pack-*")]
    assert len(packs) == done or (not done and len(packs) <= 1), packs
    for path in packs:
        pack = Pack(path)
        for stretch in pack.stretches():
            pack.check(stretch)
        pack.close()
        whole = whole or content(path)
        assert content(path) == whole
    if done:
        assert [path.name for path in (folder / "cache").iterdir()] == [packs[0].name]
    # The next attempt is to write again.
    for path in packs:
        remove(path)

attempts(work, check, int(sys.argv[2]))
"""

RUN = """
import anndata, anndata.io, zarr  # used by the children only: Zarr starts a thread
from run_builder import build_contents
from tigon.storage.publish import remove
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run

contents = build_contents(n_cells=3000)
folder = Path(sys.argv[1])
whole, attempt = None, 0

def out():
    # Half of the attempts replace a run, the others find none.
    return folder / ("new.zarr" if attempt % 2 else "old.zarr")

def work():
    write_run(out(), contents, overwrite=True)

def opens():
    assert Run.open(out()).objective == contents.model.objective

def check(done):
    global whole, attempt
    if done:
        assert not [path for path in folder.iterdir() if path.name.startswith(f".{out().name}")]
    assert out().exists() or not done
    if out().exists():
        whole = whole or content(out())
        assert content(out()) == whole
    if done:
        assert finished(child(opens)) == 0
    remove(folder / "new.zarr")
    attempt += 1

finished(child(work))
attempts(work, check, int(sys.argv[2]))
"""


@pytest.mark.parametrize("code", [PACK, RUN], ids=["pack", "run"])
def test_a_kill_at_any_moment_leaves_nothing_half_written(tmp_path: Path, code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", START + code, str(tmp_path), str(N_KILLS)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["killed", str(N_KILLS)]
