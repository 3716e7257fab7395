"""Writers killed at twenty random moments leave nothing that opens half-written."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from builders import make_adata, make_counts, write_h5ad
from scipy import sparse

from tigon.storage import open_atlas, write_atlas
from tigon.storage.errors import InputError

N_KILLS = 20

# Imports once, then forks a writer for every line: a fresh interpreter would take longer to
# start than all of the writing. Nothing that has threads runs before the fork.
WRITERS = """
import os, signal, sys, time
import anndata.io, numcodecs.pcodec, zarr, zarr.codecs, pandas, scipy.sparse, h5py
from tigon.storage import open_atlas, write_atlas
from tigon.storage.converting import convert_atlas
task, source, out = sys.argv[1:]

def write():
    sizes = dict(chunk_nonzeros=2000, shard_chunks=4, n_threads=2)
    if task == "ingest":
        write_atlas(open_atlas(source), out, profile="network", **sizes)
    else:
        convert_atlas(source, out, profile="local", **sizes)

print("ready", flush=True)
for line in sys.stdin:
    begun = time.perf_counter()
    pid = os.fork()
    if not pid:
        try:
            write()
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    if float(line) >= 0:
        time.sleep(float(line))
        os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    print(os.waitstatus_to_exitcode(status), time.perf_counter() - begun, flush=True)
"""


class Writers:
    """Starts writers one by one and kills them."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def run(self, kill_after_s: float = -1) -> tuple[int, float]:
        """Exit code (-9 where killed) and seconds; negative ``kill_after_s``: let it finish."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{kill_after_s}\n")
        self._process.stdin.flush()
        code, seconds = self._process.stdout.readline().split()
        return int(code), float(seconds)


@contextmanager
def writers(task: str, source: Path, out: Path) -> Iterator[Writers]:
    command = [sys.executable, "-W", "ignore", "-c", WRITERS, task, str(source), str(out)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Writers(process)
        assert process.stdin is not None
        process.stdin.close()


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def check_partial(folder: Path, X: sparse.csr_matrix) -> bool:
    """What lies aside opens with all counts, or not at all; returns whether it opened."""
    try:
        atlas = open_atlas(folder)
    except InputError:
        return False
    with atlas:
        assert atlas.shape == X.shape
        assert (atlas.read(0, atlas.n_cells).to_scipy() != X).nnz == 0
    return True


@pytest.mark.parametrize("task", ["ingest", "convert"])
def test_killed_at_any_moment(tmp_path: Path, task: str) -> None:
    X = make_counts(3000, 60)
    source = write_h5ad(make_adata(X), tmp_path / "in.h5ad")
    if task == "convert":
        write_atlas(open_atlas(source), tmp_path / "in.zarr", chunk_nonzeros=3000)
        source = tmp_path / "in.zarr"
    before = files_of(tmp_path)
    folder = tmp_path / "out"
    folder.mkdir()
    out = folder / "a.zarr"
    n_killed = n_partial = 0
    with writers(task, source, out) as writer:
        lasted = []
        for _ in range(2):
            code, seconds = writer.run()
            assert code == 0
            lasted.append(seconds)
            expected = files_of(out)
            shutil.rmtree(out)
        delays = np.random.default_rng(len(task)).uniform(0, min(lasted), N_KILLS)
        for delay in delays.tolist():
            code, _ = writer.run(delay)
            assert code in (0, -9)
            n_killed += code == -9
            if out.exists():
                assert files_of(out) == expected
                shutil.rmtree(out)
            left = [path for path in folder.iterdir() if "partial" in path.name]
            assert len(left) <= 1
            n_partial += len(left)
            for path in left:
                check_partial(path, X)
        assert n_killed >= N_KILLS // 2
        assert n_partial >= N_KILLS // 4
        code, _ = writer.run()
        assert code == 0
    assert files_of(out) == expected
    assert [path.name for path in folder.iterdir()] == ["a.zarr"]
    assert {name: before[name] for name in before} == {
        name: content for name, content in files_of(tmp_path).items() if name in before
    }
    with open_atlas(out) as atlas:
        assert (atlas.read(0, atlas.n_cells).to_scipy() != X).nnz == 0
