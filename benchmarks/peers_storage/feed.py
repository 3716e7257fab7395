"""Epochs of mini-batches from a peer: python feed.py NAME STORE BATCH STEPS OUT.

Runs in the peers' environment. The first epoch finds the store's files out of the page
cache, the second in it. Prints a JSON line for each, and saves the rows of every
mini-batch of the second in OUT. STEPS limits an epoch; 0 is for all of it. Every peer
yields CSR matrices, which are counted and let go of.
"""

from __future__ import annotations

import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

Batch = tuple[Any, Any]  # a CSR matrix, and its rows in the file that the store is made of
Epoch = Callable[[int], Iterator[Batch]]  # by seed


def annbatch(store: str, batch_size: int) -> Epoch:
    """Settings of annbatch's README: chunks of 32 cells, 256 of them in memory."""
    import anndata
    import zarr
    from annbatch import DatasetCollection, Loader

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})

    def load(group: Any) -> Any:
        return anndata.AnnData(
            X=anndata.io.sparse_dataset(group["X"]), obs=anndata.io.read_elem(group["obs"])[["row"]]
        )

    loader = Loader(
        batch_size=batch_size,
        chunk_size=32,
        preload_nchunks=256,
        shuffle=True,
        preload_to_gpu=False,
        rng=np.random.default_rng(0),
    ).use_collection(DatasetCollection(store), load_adata=load)
    return lambda seed: ((batch["X"], batch["obs"]["row"].to_numpy()) for batch in loader)


def scdataset(store: str, batch_size: int) -> Epoch:
    """Blocks of 16 cells; a fetch is 16,384 cells, as 256 batches of 64 are in its paper.

    What was fetched stays sparse, where scDataset's own transform makes it dense.
    """
    import anndata
    from scdataset import BlockShuffling, scDataset

    data = anndata.read_h5ad(store, backed="r")

    def epoch(seed: int) -> Iterator[Batch]:
        batches = scDataset(
            data,
            BlockShuffling(block_size=16),
            batch_size=batch_size,
            fetch_factor=max(1, 16384 // batch_size),
            fetch_transform=lambda fetched: fetched.to_memory(),
            seed=seed,
        )
        return ((batch.X, batch.obs["row"].to_numpy()) for batch in batches)

    return epoch


def h5ad(store: str, batch_size: int) -> Epoch:
    """Random cells of a backed AnnData, sorted within the batch."""
    import anndata

    data = anndata.read_h5ad(store, backed="r")

    def epoch(seed: int) -> Iterator[Batch]:
        order = np.random.default_rng(seed).permutation(data.n_obs)
        for start in range(0, data.n_obs, batch_size):
            rows = np.sort(order[start : start + batch_size])
            yield data[rows].to_memory().X, rows

    return epoch


def zarr(store: str, batch_size: int) -> Epoch:
    """Slices of Zarr arrays: runs of 64 cells in random order, shuffled 16,384 at a time."""
    import zarr as library
    from scipy import sparse

    X = library.open_group(store, mode="r")["X"]
    indptr, n_genes = X["indptr"][:], X.attrs["shape"][1]
    n_blocks = max(16384, batch_size) // 64

    def run(start: int) -> Any:
        ends = indptr[start : start + 65]
        chosen = slice(int(ends[0]), int(ends[-1]))
        arrays = X["data"][chosen], X["indices"][chosen], ends - ends[0]
        return sparse.csr_matrix(arrays, (len(ends) - 1, n_genes))

    def epoch(seed: int) -> Iterator[Batch]:
        rng = np.random.default_rng(seed)
        starts = rng.permutation(np.arange(0, len(indptr) - 1, 64))
        for first in range(0, len(starts), n_blocks):
            chosen = starts[first : first + n_blocks]
            window = sparse.vstack([run(start) for start in chosen], format="csr")
            rows = (chosen[:, None] + np.arange(64)).ravel()
            rows = rows[rows < len(indptr) - 1]
            order = rng.permutation(len(rows))
            for place in range(0, len(rows), batch_size):
                taken = order[place : place + batch_size]
                yield window[taken], rows[taken]

    return epoch


PEERS = {"annbatch": annbatch, "scdataset": scdataset, "h5ad": h5ad, "zarr": zarr}
LIBRARIES = {
    "annbatch": ["annbatch", "anndata", "zarr", "zarrs"],
    "scdataset": ["scdataset", "anndata", "h5py"],
    "h5ad": ["anndata", "h5py"],
    "zarr": ["zarr"],
}


def forget(store: str) -> None:
    """Have the store's files dropped from the page cache."""
    path = Path(store)
    for file in path.rglob("*") if path.is_dir() else [path]:
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def feed(epoch: Epoch, cache: str, store: str, steps: int, out: Path) -> dict[str, Any]:
    """One epoch, timed from its beginning to its last mini-batch."""
    rows, n_entries = [], 0
    if cache == "cold":
        forget(store)
    begin = time.perf_counter()
    for X, found in islice(epoch(0 if cache == "cold" else 1), steps or None):
        n_entries += int(X.indptr[-1])
        rows.append(np.asarray(found))
    seconds = time.perf_counter() - begin
    lengths = [len(each) for each in rows]
    np.savez(out, rows=np.concatenate(rows), lengths=lengths)
    return {"cache": cache, "seconds": seconds, "cells": sum(lengths), "nonzeros": n_entries}


def main() -> None:
    """Feed a cold epoch and a warm one."""
    name, store, batch_size, steps, out = sys.argv[1:]
    epoch = PEERS[name](store, int(batch_size))
    versions = {library: version(library) for library in LIBRARIES[name]}
    for cache in ("cold", "warm"):
        line = feed(epoch, cache, store, int(steps), Path(out))
        print(json.dumps({**line, "versions": versions}), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
