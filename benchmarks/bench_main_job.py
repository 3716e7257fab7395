"""The main job on real data: scores, seconds and memory, beside PCA and Harmony.

One JSON line per data set and method. All are scored by one function from their
coordinates alone, by Euclidean distance: shared neighbours, Leiden over one grid
of resolutions, 15-neighbour label accuracy, 30-neighbour mixing.

>>> python benchmarks/bench_main_job.py kang_pbmc_stim.h5ad kang_ctrl_8donors.h5ad

Harmony is run where harmonypy is installed; it is not a dependency.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from baseline import harmonise, principal_components
from numpy.typing import NDArray
from record import machine
from scipy import sparse

import tigon
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.embedding.embedding import arrange
from tigon.scaling.embedding.scores import scores

Line = dict[str, Any]


def scored(
    points: NDArray[np.floating], adata: anndata.AnnData, options: argparse.Namespace
) -> Line:
    """Scores of coordinates against the labels."""
    points = np.ascontiguousarray(points, np.float32)
    cells = np.arange(len(points))
    among = arrange(cells, points, EmbedConfig(umap=False), 0, n_threads=2)
    batch = adata.obs[options.batch_key].astype("category").cat.codes.to_numpy(np.int32)
    labels = adata.obs[options.label_key].astype(str).to_numpy(np.str_)
    found = scores(points, among.graph, batch, among.clusters, labels, seed=0, n_threads=2)
    return {name: round(value, 4) for name, value in found.items()}


def tigon_line(path: Path, adata: anndata.AnnData, options: argparse.Namespace) -> Line:
    """The whole main job, as the command runs it."""
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        run = tigon.integrate(
            path,
            out=Path(folder) / "run.zarr",
            batch_key=options.batch_key,
            n_components=options.n_components,
            random_state=options.seed,
            n_threads=2,
        )
        seconds = time.perf_counter() - started
        points = np.asarray(run.obsm("X_inmf_aligned"))
        return {
            "method": "tigon",
            "seconds": round(seconds, 1),
            "stages_s": {name: round(s, 2) for name, s in run.timings_s.items()},
            "peak_mib": round(run.peak_memory_bytes / 2**20),
            "objective": run.objective,
        } | scored(points, adata, options)


def peer_lines(adata: anndata.AnnData, options: argparse.Namespace) -> Iterator[Line]:
    """Principal components, and Harmony on them."""
    started = time.perf_counter()
    components = principal_components(sparse.csr_array(adata.X))
    seconds = time.perf_counter() - started
    yield {"method": "pca", "seconds": round(seconds, 1)} | scored(components, adata, options)
    if find_spec("harmonypy") is not None:
        started = time.perf_counter()
        corrected = harmonise(components, adata.obs[options.batch_key].astype(str).to_numpy())
        seconds += time.perf_counter() - started
        about = {"method": "harmony", "version": version("harmonypy"), "seconds": round(seconds, 1)}
        yield about | scored(corrected, adata, options)


def main() -> None:
    """Run and print a line per data set and method."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paths", type=Path, nargs="+")
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="label")
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-peers", action="store_true")
    options = parser.parse_args()
    for path in options.paths:
        adata = anndata.read_h5ad(path)
        about = {"benchmark": "main_job", "data": path.name, "cells": adata.n_obs} | machine()
        print(json.dumps(about | tigon_line(path, adata, options)), flush=True)
        if adata.obs[options.batch_key].nunique() > 1 and not options.no_peers:
            for line in peer_lines(adata, options):
                print(json.dumps(about | line), flush=True)


if __name__ == "__main__":
    main()
