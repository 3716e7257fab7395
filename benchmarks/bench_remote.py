"""Reading an atlas over a slow network, one JSON line a result.

A server on this machine answers each request after 20 ms, in a process of its own. What is
compared, in turn, each figure the best of several rounds:

ceiling     the same client, asked for the same ranges of the same objects, no more done with
            what comes; as many requests under way as the reader may have
stream      blocks of cells by two readers, as the first pass over an atlas reads them
local       the same stream from the disk; ``paced``: its reads held to the same bytes a second

Requests are those of a whole stream on an open atlas: the first, which reads indexes of
shards and offsets of cells too, and any later one. Memory is what the process takes at most
during a stream beyond what it took before, for an atlas and for one of twice as many cells.

    python benchmarks/bench_remote.py >> benchmarks/results/remote_reading.jsonl
    python benchmarks/bench_remote.py --tiny
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import anndata
import numpy as np
import obstore
import psutil
from record import machine
from scipy import sparse

from tigon.scaling.engine import ThreadEngine
from tigon.storage import Atlas, open_atlas, write_atlas
from tigon.storage.reading.client import open_client
from tigon.storage.reading.objects import Body, Coalescing, Identity
from tigon.storage.reading.policy import RequestPolicy
from tigon.storage.reading.store import ChunkStore

SERVER = Path(__file__).resolve().parents[1] / "tests" / "faulty_server.py"
LATENCY_S = 0.02
LINK = 125e6  # 1 Gbit/s
N_READERS = 2


@dataclass(frozen=True)
class Size:
    """How much is read: cells, genes, non-zeros a cell, cells a block, rounds."""

    n_cells: int
    n_genes: int
    per_cell: int
    block_cells: int
    n_rounds: int


FULL = Size(80_000, 20_000, 1_500, 4_000, 5)
TINY = Size(600, 300, 40, 150, 1)


def write_counts(folder: Path, size: Size, profile: str, times: int = 1) -> Path:
    """An atlas of skewed counts; the same few thousand cells over and over."""
    rng = np.random.default_rng(0)
    n_drawn = min(size.n_cells, 4000)
    weights = rng.gamma(0.3, 1.0, size.n_genes) + 1e-3
    # Smallest of exponentials: a draw without replacement by weight.
    order = rng.standard_exponential((n_drawn, size.n_genes), np.float32) / weights
    genes = np.sort(np.argpartition(order, size.per_cell, axis=1)[:, : size.per_cell], axis=1)
    counts = np.minimum(rng.geometric(0.6, genes.size), 400).astype(np.uint16)
    n_cells = size.n_cells * times
    repeats = -(-n_cells // n_drawn)
    X = sparse.csr_matrix(
        (
            np.tile(counts, repeats),
            np.tile(genes.ravel().astype(np.int32), repeats),
            np.arange(0, n_drawn * repeats * size.per_cell + 1, size.per_cell),
        ),
        shape=(n_drawn * repeats, size.n_genes),
    )[:n_cells]
    adata = anndata.AnnData(X)
    path = folder / f"{profile}{times}.zarr"
    with open_atlas(adata) as atlas:
        write_atlas(atlas, path, profile=profile).close()
    return path


@contextmanager
def served(folder: Path, bytes_per_s: float | None) -> Iterator[str]:
    """The address of a slow server in another process."""
    command = [sys.executable, str(SERVER), str(folder), "--latency", str(LATENCY_S)]
    if bytes_per_s is not None:
        command += ["--bytes-per-second", str(bytes_per_s)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        yield server.stdout.readline().strip()
        server.stdin.close()


def so_far(url: str) -> list[tuple[str, str, str | None]]:
    """Method, path and range of each request that a server had."""
    with urlopen(f"{url}/-/asked") as answer:
        return [tuple(asked) for asked in json.load(answer)]


def stream(atlas: Atlas, block_cells: int) -> int:
    """Read all cells in blocks; returns the non-zeros seen."""
    blocks = [
        (start, min(start + block_cells, atlas.n_cells))
        for start in range(0, atlas.n_cells, block_cells)
    ]
    with ThreadEngine(N_READERS) as engine:
        read = engine.read_ahead(lambda block: atlas.read(*block), blocks)
        return sum(len(block.values) for block in read)


def timed(work: Callable[[], Any]) -> float:
    """Seconds that ``work`` takes."""
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


@dataclass
class Paced:
    """Files whose reads are held to ``bytes_per_s`` together."""

    inner: Any
    bytes_per_s: float
    free_at: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def coalescing(self) -> Coalescing:
        """As of the files."""
        how: Coalescing = self.inner.coalescing
        return how

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def read(self, key: str, start: int, stop: int | None, known: Identity | None) -> Body:
        """Read, then wait for as long as the bytes take."""
        body: Body = self.inner.read(key, start, stop, known)
        with self.lock:
            now = time.perf_counter()
            self.free_at = max(now, self.free_at) + len(body.data) / self.bytes_per_s
            pause = self.free_at - now
        time.sleep(pause)
        return body


def chunks_of(atlas: Atlas) -> ChunkStore:
    """What reads the chunks of an atlas of Tigon's own."""
    store: ChunkStore = atlas._parts[0].source.matrix.indices.store  # type: ignore[attr-defined]
    return store


def fetch_bare(url: str, asked: list[tuple[str, str, str | None]]) -> int:
    """Fetch the same once more and drop it; returns the bytes."""
    policy = RequestPolicy()
    client = open_client(url, policy)

    def fetch(one: tuple[str, str, str | None]) -> int:
        _, path, ranged = one
        options: Any = {}
        if ranged is not None:
            first, last = ranged.removeprefix("bytes=").split("-")
            options["range"] = (int(first), int(last) + 1)
        return len(obstore.get(client, path, options=options).bytes())

    with ThreadPoolExecutor(policy.in_flight) as threads:
        return sum(threads.map(fetch, asked))


def against_ceiling(path: Path, size: Size, link: float | None) -> dict[str, Any]:
    """The stream against bare requests of the same ranges.

    Without a limit of the ``link`` the machine's processors are what server, client and
    decoding compete for.
    """
    with served(path.parent, link) as url, open_atlas(f"{url}/{path.name}") as atlas:
        before = so_far(url)
        n_nonzeros = stream(atlas, size.block_cells)
        first = so_far(url)
        stream(atlas, size.block_cells)
        later = so_far(url)
        asked = later[len(first) :]
        n_bytes = fetch_bare(url, asked)
        ceiling = stream_s = np.inf
        for _ in range(size.n_rounds):
            ceiling = min(ceiling, timed(lambda: fetch_bare(url, asked)))
            stream_s = min(stream_s, timed(lambda: stream(atlas, size.block_cells)))
    return {
        "what": "against bare requests",
        "link_mbytes_per_s": link and link / 1e6,
        "nonzeros": n_nonzeros,
        "bytes": n_bytes,
        "requests_first": len(first) - len(before),
        "requests_later": len(asked),
        "ceiling_mbytes_per_s": round(n_bytes / ceiling / 1e6, 1),
        "stream_mbytes_per_s": round(n_bytes / stream_s / 1e6, 1),
        "share_of_ceiling": round(ceiling / stream_s, 3),
        "stream_mnonzeros_per_s": round(n_nonzeros / stream_s / 1e6, 1),
    }


def against_local(path: Path, size: Size) -> dict[str, Any]:
    """The stream over a link of 1 Gbit/s and 20 ms, against the disk held to as much."""
    with (
        served(path.parent, LINK) as url,
        open_atlas(f"{url}/{path.name}") as remote,
        open_atlas(path) as paced,
        open_atlas(path) as local,
    ):
        store = chunks_of(paced)
        store.objects = Paced(store.objects, LINK)  # type: ignore[assignment]
        atlases = {"remote": remote, "paced": paced, "local": local}
        best = dict.fromkeys(atlases, np.inf)
        for atlas in atlases.values():
            stream(atlas, size.block_cells)
        for _ in range(size.n_rounds):
            for name, atlas in atlases.items():
                best[name] = min(best[name], timed(lambda a=atlas: stream(a, size.block_cells)))
    return {
        "what": "against the disk, 1 Gbit/s",
        **{f"{name}_s": round(seconds, 3) for name, seconds in best.items()},
        "remote_over_paced": round(best["remote"] / best["paced"], 3),
        "remote_over_local": round(best["remote"] / best["local"], 3),
    }


def memory(path: Path, size: Size) -> dict[str, Any]:
    """What a stream takes at most, in bytes beyond what the process had."""
    with served(path.parent, LINK) as url, open_atlas(f"{url}/{path.name}") as atlas:
        stream(atlas, size.block_cells)
        process, peak, stopped = psutil.Process(), [0], threading.Event()
        begun = process.memory_info().rss

        def watch() -> None:
            while not stopped.wait(0.002):
                peak[0] = max(peak[0], process.memory_info().rss)

        watcher = threading.Thread(target=watch)
        watcher.start()
        stream(atlas, size.block_cells)
        stopped.set()
        watcher.join()
        return {
            "what": "memory",
            "cells": atlas.n_cells,
            "block_bytes": atlas.estimate_block_bytes(size.block_cells),
            "taken_bytes": max(0, peak[0] - begun),
        }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="at a size for tests")
    size = TINY if parser.parse_args().tiny else FULL
    common = {
        "benchmark": "remote reading",
        **machine(),
        "obstore": obstore.__version__,
        "latency_s": LATENCY_S,
        "readers": N_READERS,
        "cells": size.n_cells,
        "genes": size.n_genes,
        "nonzeros_per_cell": size.per_cell,
        "block_cells": size.block_cells,
    }
    with tempfile.TemporaryDirectory() as folder:
        for profile in ("local", "network"):
            path = write_counts(Path(folder), size, profile)
            larger = write_counts(Path(folder), size, profile, times=2)
            for each in (
                against_ceiling(path, size, LINK),
                against_ceiling(path, size, None),
                against_local(path, size),
                memory(path, size),
                memory(larger, size),
            ):
                print(json.dumps({**common, "profile": profile, **each}), flush=True)


if __name__ == "__main__":
    main()
