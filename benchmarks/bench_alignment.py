"""What alignment and the space of the graph do to the scores, on labelled data.

For every file and seed, online iNMF is fitted, then scored before and after
alignment (without and with the vote), each on three spaces: the loadings, their
directions, and the square roots of their shares (the one that Tigon uses).
Prints one JSON line per file, seed, alignment and space. With --neighbours it
times the exact search for neighbours against pynndescent instead.

    python benchmarks/bench_alignment.py kang_pbmc_stim.h5ad pbmc3k.h5ad --seeds 3
    python benchmarks/bench_alignment.py --neighbours 50000
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import machine

import tigon
from tigon.scaling.alignment.aligning import align
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.embedding.graph import shared_neighbors
from tigon.scaling.embedding.leiden import leiden
from tigon.scaling.embedding.neighbors import neighbors
from tigon.scaling.embedding.scores import scores
from tigon.scaling.embedding.space import to_space
from tigon.scaling.engine import ThreadEngine
from tigon.storage.rows import ArrayRows

Matrix = NDArray[np.float32]


def directions(loadings: Matrix) -> Matrix:
    """Loadings of length 1."""
    length = np.linalg.norm(loadings, axis=1, keepdims=True)
    return (loadings / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float32)


SPACES = {"loadings": lambda H: H, "directions": directions, "root shares": to_space}
ALIGNMENTS = {
    "none": None,
    "quantiles": AlignConfig(n_neighbors=1),
    "vote, quantiles": AlignConfig(),
    "vote, quantiles of the first dataset": AlignConfig(reference=0),
}


def aligned(
    H: Matrix, datasets: NDArray[np.int32], config: AlignConfig | None, seed: int
) -> Matrix:
    """Loadings after alignment; only scaled where there is none."""
    if config is None:
        return H / np.sqrt(np.square(H).mean(axis=0))
    out = np.empty_like(H)

    def write(start: int, rows: Matrix) -> None:
        out[start : start + len(rows)] = rows

    n_datasets = int(datasets.max()) + 1
    with ThreadEngine(2) as engine:
        align(ArrayRows(H), datasets, n_datasets, config, seed, engine, write)
    return out


def scored(
    points: Matrix, datasets: NDArray[np.int32], labels: NDArray[np.str_], seed: int
) -> dict[str, float]:
    """Scores on points, with the graph and the resolution that Tigon ships."""
    config = EmbedConfig()
    graph = shared_neighbors(neighbors(points, config.n_neighbors).indices)
    clusters = leiden(graph.to_igraph(), config.resolution, seed=seed)
    return scores(points, graph, datasets, clusters, labels, seed=seed)


def lines(path: Path, batch_key: str, label_key: str, seed: int) -> Iterator[dict[str, Any]]:
    """Scores of every alignment and space for one fit."""
    import anndata

    adata = anndata.read_h5ad(path)
    n_genes = "all" if adata.n_vars < 2000 else 2000
    model = tigon.OnlineINMF(n_components=20, lam=5.0, n_genes=n_genes, random_state=seed)
    H = model.fit(adata, batch_key=batch_key).transform(adata, batch_key=batch_key)
    names = adata.obs[batch_key].astype(str).to_numpy()
    datasets = np.unique(names, return_inverse=True)[1].astype(np.int32)
    labels = adata.obs[label_key].astype(str).to_numpy(np.str_)
    for alignment, config in ALIGNMENTS.items():
        loadings = aligned(H, datasets, config, seed)
        for space, to_points in SPACES.items():
            yield {
                "data": path.stem,
                "seed": seed,
                "alignment": alignment,
                "space": space,
                **scored(to_points(loadings), datasets, labels, seed),
            }


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
    parser.add_argument("--neighbours", type=int, metavar="N")
    options = parser.parse_args()
    if options.neighbours:
        for line in search_times(options.neighbours):
            print(json.dumps({**line, **machine()}), flush=True)
    for path in options.files:
        for seed in range(options.seeds):
            for line in lines(path, options.batch_key, options.label_key, seed):
                print(json.dumps({**line, **machine()}), flush=True)


if __name__ == "__main__":
    main()
