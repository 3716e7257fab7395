"""Shuffled mini-batches from disk: cells per second, memory and bytes, beside other tools.

    python benchmarks/bench_storage.py --peers /path/to/python3.12 >> results/storage.jsonl

simulates one atlas, has every tool write the store that it recommends, and takes epochs
of shuffled mini-batches from each in turn, cold (the store's files dropped from the
page cache) and warm. A round is all tools one after another; the fastest of the rounds
counts. Prints a JSON line for each tool and cache. Without ``--peers`` only Tigon runs.

The peers have an environment of their own (annbatch needs Python 3.12):
annbatch[zarrs], scdataset, anndata, h5py, torch. They get what they recommend:

annbatch   a preshuffled collection, chunks of 32 cells, 256 of them in memory
scDataset  blocks of 16 cells of a backed .h5ad, 16,384 cells a fetch, kept sparse
h5ad       random cells of a backed AnnData, a few mini-batches of an epoch; as anndata
           writes by default (no compression) and as files are shared (gzip)
zarr       slices of what anndata writes, runs of 64 cells, 16,384 shuffled in memory

All have the same cells, the same threads (``--threads`` cores) and mini-batches of the
same size. That every cell comes once (but h5ad, which is cut short) and that together
they have as many non-zeros as the file is checked; entropy of donors and of cell types
is beside the speed.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
import psutil
from peers_storage.feed import feed
from randomness import mean_shortfall, perfect_shortfall
from record import machine
from scipy import sparse
from simulate import Atlas

from tigon.storage import open_atlas, write_atlas

HERE = Path(__file__).parent
Line = dict[str, Any]


@dataclass(frozen=True)
class Contender:
    """Who feeds mini-batches, and from which store.

    Attributes
    ----------
    name
        As in the results.
    store
        Name of its store.
    feeder
        Script and tool that read it.
    n_steps
        Mini-batches of an epoch that are timed; 0 for all.
    """

    name: str
    store: str
    feeder: tuple[str, str]
    n_steps: int = 0


OURS = (
    Contender("tigon local", "local.zarr", ("bench_storage.py", "narrow")),
    Contender("tigon local, float32 SciPy", "local.zarr", ("bench_storage.py", "scipy")),
    Contender("tigon network", "network.zarr", ("bench_storage.py", "narrow")),
)
PEERS = (
    Contender("annbatch", "annbatch.zarr", ("peers_storage/feed.py", "annbatch")),
    Contender("scDataset", "plain.h5ad", ("peers_storage/feed.py", "scdataset")),
    Contender("h5ad", "plain.h5ad", ("peers_storage/feed.py", "h5ad"), 5),
    Contender("h5ad, gzip", "gzip.h5ad", ("peers_storage/feed.py", "h5ad"), 2),
    Contender("zarr slices", "anndata.zarr", ("peers_storage/feed.py", "zarr")),
)


def simulate(folder: Path, options: argparse.Namespace) -> None:
    """One .h5ad of all donors, as anndata writes it, and compressed."""
    atlas = Atlas(
        n_cells=options.cells,
        n_genes=options.genes,
        n_donors=8,
        n_molecules=options.molecules,
    )
    blocks = [block for donor in range(8) for block in atlas.blocks(donor)]
    obs = pd.concat([obs for _, obs in blocks])
    for column in ("cell_type", "donor"):
        obs[column] = obs[column].astype("category")
    obs["row"] = np.arange(len(obs))
    counts = [sparse.csr_matrix(X.astype(np.float32)) for X, _ in blocks]
    del blocks
    X = sparse.vstack(counts, format="csr")
    adata = anndata.AnnData(X, obs=obs, var=pd.DataFrame(index=atlas.genes))
    adata.write_h5ad(folder / "plain.h5ad")
    adata.write_h5ad(folder / "gzip.h5ad", compression="gzip")


def build(folder: Path, options: argparse.Namespace) -> None:
    """Every tool's own store of the simulated cells, those that are not there."""
    plain = folder / "plain.h5ad"
    if not plain.exists():
        simulate(folder, options)
    for profile in ("local", "network"):
        if not (folder / f"{profile}.zarr").exists():
            with open_atlas(plain) as atlas:
                write_atlas(atlas, folder / f"{profile}.zarr", profile=profile).close()
    for tool, store in (("annbatch", "annbatch.zarr"), ("zarr", "anndata.zarr")):
        if options.peers and not (folder / store).exists():
            command = [options.peers, HERE / "peers_storage/build.py", tool, plain, folder / store]
            subprocess.run(command, check=True, stdout=sys.stderr)


def run(contender: Contender, folder: Path, options: argparse.Namespace) -> list[Line]:
    """A cold epoch and a warm one, in a process of their own."""
    script, tool = contender.feeder
    python = sys.executable if contender in OURS else options.peers
    with tempfile.TemporaryDirectory() as out:
        rows = Path(out) / "rows.npz"
        steps = str(contender.n_steps)
        command = [python, HERE / script, tool, folder / contender.store, str(options.batch), steps]
        if contender in OURS:
            command.insert(2, "--feed")
        cores = sorted(os.sched_getaffinity(0))[: options.threads]
        with subprocess.Popen(
            [*map(str, command), str(rows)],
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=partial(os.sched_setaffinity, 0, cores),
        ) as process:
            peak = _peak_bytes(process)
            printed = process.communicate()[0]
        if process.returncode:
            raise RuntimeError(f"{contender.name} ended with {process.returncode}")
        found = np.load(rows)
        rest = {"peak_bytes": peak[0], **_randomness(found, folder, options)}
        # What else the machine did: ratios hold under load, single figures do not.
        rest["load_average"] = round(os.getloadavg()[0], 1)
    return [{**json.loads(line), **rest} for line in printed.splitlines()]


def _peak_bytes(process: subprocess.Popen[str]) -> list[int]:
    """Largest proportional set size of a process tree, sampled until it ends."""
    peak = [0]
    watched = psutil.Process(process.pid)

    def watch() -> None:
        while process.poll() is None:
            try:
                tree = [watched, *watched.children(recursive=True)]
                peak[0] = max(peak[0], sum(each.memory_full_info().pss for each in tree))
            except psutil.Error:
                pass  # one of them has ended
            threading.Event().wait(0.05)

    threading.Thread(target=watch, daemon=True).start()
    return peak


def _randomness(found: Any, folder: Path, options: argparse.Namespace) -> Line:
    """Shortfall of entropy over full mini-batches; every cell once where all were read."""
    obs = anndata.read_h5ad(folder / "plain.h5ad", backed="r").obs
    rows, lengths = found["rows"], found["lengths"]
    if len(rows) == len(obs):
        np.testing.assert_array_equal(np.sort(rows), np.arange(len(obs)))
    batches = np.split(rows, np.cumsum(lengths)[:-1])
    full = [each for each in batches if len(each) == options.batch] or batches
    line: Line = {"every_cell_once": len(rows) == len(obs)}
    for name in ("donor", "cell_type"):
        codes = obs[name].cat.codes.to_numpy()
        perfect = perfect_shortfall(obs[name].nunique(), len(obs), options.batch)
        line[f"{name}_entropy_shortfall"] = round(mean_shortfall(codes, full), 6)
        line[f"{name}_entropy_shortfall_of_perfect_shuffle"] = round(perfect, 6)
    return line


def lines(folder: Path, options: argparse.Namespace) -> Iterator[Line]:
    """One line for each tool and cache, of its fastest round."""
    contenders = [*OURS, *(PEERS if options.peers else ())]
    rounds = []
    for number in range(options.rounds):
        for contender in contenders:
            print(f"round {number + 1}: {contender.name}", file=sys.stderr)
            rounds += [(contender, line) for line in run(contender, folder, options)]
    n_nonzeros = {line["nonzeros"] for _, line in rounds if line["every_cell_once"]}
    if len(n_nonzeros) != 1:
        raise RuntimeError(f"the tools do not agree on the number of non-zeros: {n_nonzeros}")
    for contender in contenders:
        store = folder / contender.store
        for cache in ("cold", "warm"):
            of_it = [line for who, line in rounds if who == contender and line["cache"] == cache]
            best = min(of_it, key=lambda line: line["seconds"] / line["cells"])
            yield {
                "benchmark": "storage",
                **machine(),
                "n_cells": options.cells,
                "n_genes": options.genes,
                "threads": options.threads,
                "batch": options.batch,
                "rounds": options.rounds,
                "tool": contender.name,
                **best,
                "cells_per_s": round(best["cells"] / best["seconds"], 1),
                "store_bytes": _bytes_on_disk(store),
            }


def _bytes_on_disk(store: Path) -> int:
    files = store.rglob("*") if store.is_dir() else [store]
    return sum(file.stat().st_size for file in files if file.is_file())


def feed_ours(arguments: list[str]) -> None:
    """The part that runs as a process of its own, for Tigon's stores."""
    form, store, batch_size, steps, out = arguments

    with open_atlas(store) as atlas:
        made = atlas.minibatches(int(batch_size), stratify="donor")

        def epoch(seed: int) -> Iterator[tuple[Any, Any]]:
            for batch in made.epoch(seed):
                yield (batch.to_scipy() if form == "scipy" else batch), batch.cells

        for cache in ("cold", "warm"):
            print(json.dumps(feed(epoch, cache, store, int(steps), Path(out))), flush=True)


def main() -> None:
    """Print the lines that the command line asks for."""
    if sys.argv[1:2] == ["--feed"]:
        feed_ours(sys.argv[2:])
        return
    parser = argparse.ArgumentParser(description="Shuffled mini-batches from disk.")
    parser.add_argument("--cells", type=int, default=200_000)
    parser.add_argument("--genes", type=int, default=20_000)
    parser.add_argument("--molecules", type=float, default=2400.0, help="a cell, in the median")
    parser.add_argument("--batch", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peers", help="Python of the peers' environment")
    parser.add_argument("--work", type=Path, help="keeps the stores here, for another time")
    parser.add_argument("--tiny", action="store_true", help="as small as makes sense")
    options = parser.parse_args()
    if options.tiny:
        options.cells, options.genes, options.molecules = 2000, 500, 200.0
        options.batch, options.rounds = 256, 1
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.work or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        build(folder, options)
        for line in lines(folder, options):
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
