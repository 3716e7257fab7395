"""What alignment and the space of the graph do to the scores, on labelled data.

For every file and seed, online iNMF is fitted, then scored without alignment, after quantile
maps and after centroids, and beside them Harmony: on principal components of logarithms, as
they are and of genes at unit variance, and on the unaligned points of the factors, which tells
what is the factors' part. The same cells, labels, neighbours and clusters for all. Prints one
JSON line per file, seed and method. Harmony is a library of its own (pip install harmonypy)
and left out where there is none.

With --spaces it scores unaligned and mapped loadings in three spaces instead: as they are,
their directions, and the square roots of their shares (the one that Tigon uses). With
--neighbours it times the exact search for neighbours against pynndescent.

    python benchmarks/bench_alignment.py kang_pbmc_stim.h5ad --seeds 5
    python benchmarks/bench_alignment.py kang_pbmc_stim.h5ad pbmc3k.h5ad --seeds 3 --spaces
    python benchmarks/bench_alignment.py --neighbours 50000
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any, get_args

import numpy as np
from baseline import harmonise, principal_components
from numpy.typing import NDArray
from record import machine

import tigon
from tigon.scaling.alignment.aligning import align
from tigon.scaling.alignment.config import AlignConfig, Method
from tigon.scaling.alignment.passes import Passes
from tigon.scaling.alignment.quantile_mapping import find_maps, mapped_loadings
from tigon.scaling.alignment.scales import scales
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.embedding.graph import shared_neighbors
from tigon.scaling.embedding.leiden import leiden
from tigon.scaling.embedding.neighbors import neighbors
from tigon.scaling.embedding.scores import scores
from tigon.scaling.embedding.space import to_space
from tigon.scaling.engine import ThreadEngine
from tigon.storage.progress import silent
from tigon.storage.rows import ArrayRows

Matrix = NDArray[np.float32]
Codes = NDArray[np.int32]


def directions(loadings: Matrix) -> Matrix:
    """Loadings of length 1."""
    length = np.linalg.norm(loadings, axis=1, keepdims=True)
    return (loadings / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)


SPACES = {"loadings": lambda H: H, "directions": directions, "root shares": to_space}


def aligned(H: Matrix, datasets: Codes, method: Method, seed: int) -> tuple[Matrix, dict[str, Any]]:
    """Points after alignment, and how many warnings it gives."""
    out = np.empty_like(H)

    def write(start: int, rows: Matrix) -> None:
        out[start : start + len(rows)] = rows

    n_datasets, config = int(datasets.max()) + 1, AlignConfig(align=method)
    with ThreadEngine(2) as engine:
        found = align(ArrayRows(H), datasets, n_datasets, config, seed, engine, write)
    return out, {"n_warnings": len(found.merged)}


def mapped(H: Matrix, datasets: Codes, seed: int) -> Matrix:
    """Loadings mapped by quantiles."""
    with ThreadEngine(2) as engine:
        passes = Passes(ArrayRows(H), datasets, np.bincount(datasets), engine, silent)
        scale = scales(passes)
        found = find_maps(passes, scale, AlignConfig(align="quantile"), seed)
        tiles = passes.run("mapping", mapped_loadings(passes, scale, found))
        return np.concatenate([rows for _, rows in tiles])


def scored(
    points: Matrix, datasets: Codes, labels: NDArray[np.str_], seed: int
) -> dict[str, float]:
    """Scores on points, with the graph and the resolution that Tigon ships."""
    config = EmbedConfig()
    graph = shared_neighbors(neighbors(points, config.n_neighbors).indices)
    clusters = leiden(graph.to_igraph(), config.resolution, seed=seed)
    return scores(points, graph, datasets, clusters, labels, seed=seed)


def lines(
    path: Path, batch_key: str, label_key: str, seed: int, n_components: int, *, spaces: bool
) -> Iterator[dict[str, Any]]:
    """Scores of every method, or of every space, for one fit."""
    import anndata

    adata = anndata.read_h5ad(path)
    n_genes = "all" if adata.n_vars < 2000 else 2000
    model = tigon.OnlineINMF(n_components, lam=5.0, n_genes=n_genes, random_state=seed)
    H = model.fit(adata, batch_key=batch_key).transform(adata, batch_key=batch_key)
    names = adata.obs[batch_key].astype(str).to_numpy()
    datasets = np.unique(names, return_inverse=True)[1].astype(np.int32)
    labels = adata.obs[label_key].astype(str).to_numpy(np.str_)
    what = {"benchmark": "alignment", "data": path.stem, "seed": seed}
    if spaces:
        for alignment, loadings in {
            "none": H / np.sqrt(np.square(H).mean(axis=0)),
            "quantile": mapped(H, datasets, seed),
        }.items():
            for space, to_points in SPACES.items():
                found = scored(to_points(loadings), datasets, labels, seed)
                yield {**what, "method": alignment, "space": space, **found}
        return
    for method in get_args(Method):
        points, facts = aligned(H, datasets, method, seed)
        yield {**what, "method": method, **scored(points, datasets, labels, seed), **facts}
    if importlib.util.find_spec("harmonypy") is None:
        print("harmonypy is not installed: no lines of Harmony", file=sys.stderr)
        return
    for method, components in {
        "harmony": principal_components(adata.X),
        "harmony, unit variance": principal_components(adata.X, unit_variance=True),
        "harmony, factors": aligned(H, datasets, "none", seed)[0].astype(np.float64),
    }.items():
        points = np.ascontiguousarray(harmonise(components, names, seed=seed), dtype=np.float32)
        facts = {"harmonypy": version("harmonypy")}
        yield {**what, "method": method, **scored(points, datasets, labels, seed), **facts}


def search_times(n: int) -> Iterator[dict[str, Any]]:
    """Seconds of an exact and of an approximate search, compilation included."""
    from pynndescent import NNDescent

    rng = np.random.default_rng(0)
    centres = rng.random((30, 20)) ** 4
    points = to_space((rng.gamma(2, 0.5, (n, 20)) * centres[rng.integers(0, 30, n)]).astype("f4"))
    searches = {
        "exact": lambda: neighbors(points, 20, n_threads=2).indices,
        "pynndescent": lambda: NNDescent(points, n_neighbors=21, random_state=0).neighbor_graph[0],
    }
    for name, search in searches.items():
        start = time.perf_counter()
        search()
        yield {"search": name, "n": n, "seconds": round(time.perf_counter() - start, 2)}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-key", default="label")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--spaces", action="store_true")
    parser.add_argument("--neighbours", type=int, metavar="N")
    options = parser.parse_args()
    if options.neighbours:
        for line in search_times(options.neighbours):
            print(json.dumps({**line, **machine()}), flush=True)
    for path in options.files:
        for seed in range(options.seeds):
            keys = options.batch_key, options.label_key
            for line in lines(path, *keys, seed, options.n_components, spaces=options.spaces):
                print(json.dumps({**line, **machine()}), flush=True)


if __name__ == "__main__":
    main()
