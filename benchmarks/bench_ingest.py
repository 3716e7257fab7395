"""Ingest of simulated ``.h5ad`` files, beside what the HDF5 library takes to read them.

    python benchmarks/bench_ingest.py > benchmarks/results/ingest.jsonl
    python benchmarks/bench_ingest.py --tiny

For each way to compress the file one line a task, and the tasks take turns: reading
both arrays of counts with h5py, in pieces of a million and nothing else done, and
ingest into either profile. Every turn is a process of its own, whose tree is sampled
for memory; the minimum of the turns is reported, with the processor time of all its
threads, which other work on the machine disturbs less, and the load of
the machine at the end of the turn. Files are in the page cache. The
cells are drawn from 10,000 that ``simulate.py`` makes: they repeat, but far beyond
the reach of a chunk's compression.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import simulate
from record import machine
from scipy import sparse

from tigon.scaling.memory import MemoryWatch
from tigon.storage import open_atlas, write_atlas

_PIECE = 1 << 20
_BLOCK_CELLS = 10_000
_TASKS = ("hdf5", "local", "network")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    n_cells: int = 200_000
    n_genes: int = 20_000
    n_bank: int = 10_000
    n_molecules: float = 1180.0
    n_turns: int = 3
    compressions: tuple[str | None, ...] = (None, "lzf", "gzip")


TINY = Size(
    n_cells=2000,
    n_genes=500,
    n_bank=1000,
    n_molecules=300.0,
    n_turns=1,
    compressions=("gzip",),
)


def main() -> None:
    """Print a line per result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--cells", type=int, default=Size.n_cells)
    parser.add_argument("--turns", type=int, default=Size.n_turns)
    parser.add_argument("--limit", default="2GiB", help="memory limit of ingest")
    parser.add_argument("--one", nargs=4, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        print(json.dumps(one_turn(*given.one)))
        return
    size = TINY if given.tiny else Size(n_cells=given.cells, n_turns=given.turns)
    for line in lines(size, given.limit):
        about = {"n_cells": size.n_cells, "n_genes": size.n_genes, "turns": size.n_turns}
        print(json.dumps({"benchmark": "ingest", **machine(), **about, **line}), flush=True)


def lines(size: Size, limit: str) -> Iterator[dict[str, Any]]:
    """Results of all files and tasks."""
    bank = draw_bank(size)
    with tempfile.TemporaryDirectory(prefix="tigon-bench-ingest-") as folder:
        for compression in size.compressions:
            path = Path(folder, "counts.h5ad")
            write_source(path, bank, size, compression)
            turns = [
                {task: run_turn(task, path, Path(folder, "out.zarr"), limit) for task in _TASKS}
                for _ in range(size.n_turns)
            ]
            yield from summed_up(turns, compression, path.stat().st_size)
            path.unlink()


def summed_up(
    turns: list[dict[str, dict[str, Any]]], compression: str | None, n_bytes: int
) -> Iterator[dict[str, Any]]:
    """A line per task: its quickest turn, and its ratios to reading in the same turns."""
    for task in _TASKS:
        best = min((turn[task] for turn in turns), key=lambda result: float(result["s"]))
        ratios = [turn["hdf5"]["s"] / turn[task]["s"] for turn in turns]
        yield {
            "task": task,
            "h5ad": compression or "uncompressed",
            "h5ad_bytes": n_bytes,
            **best,
            "mnnz_per_s": round(best["nnz"] / best["s"] / 1e6, 1),
            "speed_over_hdf5_read": [round(ratio, 2) for ratio in ratios],
            "peak_mib": round(max(turn[task]["peak_bytes"] for turn in turns) / 2**20),
        }


def run_turn(task: str, path: Path, out: Path, limit: str) -> dict[str, Any]:
    """One task in a process of its own."""
    command = [sys.executable, __file__, "--one", task, str(path), str(out), limit]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def one_turn(task: str, path: str, out: str, limit: str) -> dict[str, Any]:
    """Time and memory of one task; the interpreter and imports are in the memory only."""
    import anndata.io  # noqa: F401  (what writing loads late is not its time)
    import obstore  # noqa: F401
    import zarr  # noqa: F401

    from tigon.scaling.budget import parse_bytes

    with MemoryWatch() as memory:
        begun, cpu = time.perf_counter(), time.process_time()
        if task == "hdf5":
            nnz, written = read_only(path), 0
        else:
            options = {"profile": task, "memory_limit": parse_bytes(limit), "overwrite": True}
            with open_atlas(path) as atlas, write_atlas(atlas, out, **options) as made:
                nnz = int(made.n_nonzeros or 0)
            written = sum(file.stat().st_size for file in Path(out).rglob("*") if file.is_file())
        seconds, cpu = time.perf_counter() - begun, time.process_time() - cpu
    found = {
        "load_average": round(os.getloadavg()[0], 1),
        "s": round(seconds, 3),
        "cpu_ns_per_nnz": round(cpu / nnz * 1e9, 1),
        "nnz": nnz,
        "peak_bytes": memory.peak_bytes,
    }
    if written:
        found |= {"bytes_per_nnz": round(written / nnz, 3), "limit": parse_bytes(limit)}
    return found


def read_only(path: str) -> int:
    """Read both arrays of counts as h5py does, a million at a time."""
    with h5py.File(path) as file:
        for name in ("data", "indices"):
            array = file["X"][name]
            for start in range(0, len(array), _PIECE):
                array[start : start + _PIECE]
        return int(array.shape[0])


def draw_bank(size: Size) -> sparse.csr_array:
    """Cells to draw from."""
    atlas = simulate.Atlas(
        n_cells=size.n_bank, n_genes=size.n_genes, n_donors=1, n_molecules=size.n_molecules
    )
    tiles = range(0, size.n_bank, simulate.TILE)
    drawn = [atlas.cells(0, start, start + simulate.TILE)[0] for start in tiles]
    bank = sparse.csr_array(sparse.vstack(drawn, format="csr"))
    bank.sort_indices()
    return bank


def write_source(path: Path, bank: sparse.csr_array, size: Size, compression: str | None) -> None:
    """An ``.h5ad`` as AnnData writes it (float32 counts, int32 positions), in blocks."""
    import anndata

    cells = pd.DataFrame(index=[f"cell{number}" for number in range(size.n_cells)])
    genes = pd.DataFrame(index=[f"gene{number}" for number in range(size.n_genes)])
    anndata.AnnData(obs=cells, var=genes).write_h5ad(path)
    drawn = np.random.default_rng(0).integers(0, bank.shape[0], size.n_cells)
    indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(np.diff(bank.indptr)[drawn])])
    with h5py.File(path, "r+") as file:
        with suppress(KeyError):
            del file["X"]
        X = file.create_group("X")
        X.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0"})
        X.attrs["shape"] = np.array([size.n_cells, size.n_genes])
        X.create_dataset("indptr", data=indptr, compression=compression)
        how = {"shape": (int(indptr[-1]),), "chunks": True, "compression": compression}
        values = X.create_dataset("data", dtype=np.float32, **how)
        positions = X.create_dataset("indices", dtype=np.int32, **how)
        for start in range(0, size.n_cells, _BLOCK_CELLS):
            rows = bank[drawn[start : start + _BLOCK_CELLS]]
            here = slice(int(indptr[start]), int(indptr[start]) + rows.nnz)
            values[here], positions[here] = rows.data, rows.indices


if __name__ == "__main__":
    main()
