"""Principal components beside those of scanpy, scikit-learn and Dask: seconds, memory, accuracy.

    python benchmarks/bench_pca.py --cells 1000000 --folder /data/simulated --peers /path/to/python
    python benchmarks/bench_pca.py --cells 200000 --folder /data/simulated --all-genes

takes the simulated atlas of bench_scaling.py and writes its most variable genes as an atlas of
their own, leaving out so many of the most expressed that the share of counts above zero is at
most ``--density``. On it Tigon and every peer run in turn, each in a process of its own on the
same cores, from the cells to 50 components and the scores of every cell, float32, in memory.

Tigon reads the atlas from the disk, normalises and takes logarithms, all of it timed. Peers
get that work for nothing: normalised logarithms, float32, lie in memory before the clock
starts; those on Dask read them in chunks from the Zarr that anndata writes. The floor is what
reading and decoding the atlas once takes Tigon, and nothing else.

Memory is the largest proportional set size of the process tree, for peers with what they hold.
Accuracy is measured on everyone's components against the exact eigenvectors of the Gram matrix,
summed by SciPy and solved by LAPACK in float64: the share of the variance that the exact
components explain, and the smallest |cos| among the first 20 whose eigenvalues are more than
1 % from both neighbours. Those that do not centre are held against the matrix that is not.

With ``--all-genes`` only Tigon runs, on the atlas as it is, and tells what it can prove of itself:
residuals, and how much larger than the last a missed singular value may be.

The peers have an environment of their own: scanpy, scikit-learn, dask, anndata, zarr, psutil.
Without ``--peers`` only Tigon runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bench_scaling
import numpy as np
from numpy.typing import NDArray
from peers_pca.decompose import PEERS
from record import machine
from scipy import linalg, sparse

import tigon
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.genes import select_genes
from tigon.scaling.memory import MemoryWatch, use_one_heap
from tigon.scaling.pca.rows import even_cuts
from tigon.scaling.preparing import PrepareConfig, prepare

HERE = Path(__file__).parent
TARGET = 1e4
"""What the counts of a cell are scaled to."""

_BLOCK = 10_000
"""Cells that are handed over at a time."""

Line = dict[str, Any]
Float64 = NDArray[np.float64]


def main() -> None:
    """Make the atlases where they are not there yet, measure in turn, print."""
    chosen = options()
    # The same cores for all; processes that are started inherit it.
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: chosen.n_threads])
    if chosen.here:
        use_one_heap()
        print(json.dumps(measure(chosen)))
        return
    place = chosen.folder / f"{chosen.cells}-{chosen.genes}-{chosen.donors}.zarr"
    if not place.exists():
        bench_scaling.make_atlas(chosen, place)
    if not chosen.all_genes:
        place = variable_genes(chosen, place)
    chosen.atlas = place
    for line in lines(chosen):
        print(json.dumps(machine() | line), flush=True)


def options() -> argparse.Namespace:
    """What was asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=50_000)
    parser.add_argument("--genes", type=int, default=20_000, help="of the simulated atlas")
    parser.add_argument("--donors", type=int, default=8)
    parser.add_argument("--variable", type=int, default=2000, help="genes that are taken of them")
    parser.add_argument("--density", type=float, default=0.06, help="of these genes, at most")
    parser.add_argument("--all-genes", action="store_true", help="only Tigon, on all of them")
    parser.add_argument("--tiny", action="store_true", help="60 of 200 genes, 600 cells")
    parser.add_argument("--folder", type=Path, required=True, help="where atlases are kept")
    parser.add_argument("--n-components", type=int, default=50)
    parser.add_argument("--n-threads", type=int, default=2)
    parser.add_argument("--peers", help="Python of the peers' environment")
    parser.add_argument("--only", nargs="+", choices=PEERS, default=list(PEERS))
    parser.add_argument("--limit-s", type=float, help="after which a peer is stopped")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--atlas", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--here", choices=("auto", "gram", "krylov", "floor"))
    chosen = parser.parse_args()
    if chosen.tiny:
        chosen.cells, chosen.genes, chosen.donors, chosen.variable = 600, 200, 2, 60
        chosen.n_components = 5
    return chosen


def variable_genes(chosen: argparse.Namespace, place: Path) -> Path:
    """The atlas of the genes that vary most, written where it is not there yet."""
    out = place.with_name(f"{place.stem}-variable{chosen.variable}-{chosen.density:g}.zarr")
    if out.exists():
        return out
    with tigon.open(place) as atlas, ThreadEngine(chosen.n_threads) as engine:
        config = PrepareConfig(batch_key="donor", n_genes=chosen.variable)
        found = prepare(atlas, config, 1, engine)
        detected = found.statistics.n_cells_detected / atlas.n_cells
        for most in np.linspace(1, 0, 50, endpoint=False):
            both = found.statistics, found.datasets
            genes = select_genes(*both, chosen.variable, detected <= most)
            if detected[genes].mean() <= chosen.density:
                break
        with tigon.open(atlas.to_anndata(genes=genes)) as some:
            tigon.write_atlas(some, out)
    return out


def lines(chosen: argparse.Namespace) -> Iterator[Line]:
    """The floor, Tigon, and every peer beside the Tigon of its round."""
    peers = chosen.only if chosen.peers else ()
    handed = chosen.atlas.with_suffix(".peers")
    with tigon.open(chosen.atlas) as atlas:
        about = {
            "benchmark": "pca",
            "n_cells": atlas.n_cells,
            "n_genes": atlas.n_genes,
            "density": atlas.n_nonzeros / atlas.n_cells / atlas.n_genes,
            "n_components": chosen.n_components,
            "n_threads": chosen.n_threads,
        }
        if not chosen.all_genes and not (handed / "exact.npz").exists():
            hand_over(atlas, handed)
    exact = None if chosen.all_genes else Exact.read(handed, chosen.n_components)
    for _ in range(chosen.repeats):
        floor = ours(chosen, "floor")
        yield about | floor
        for solver in ("krylov",) if chosen.all_genes else ("auto", "krylov"):
            line = ours(chosen, solver)
            components = line.pop("components")
            line["to_floor_seconds"] = line["seconds"] / floor["seconds"]
            if exact:
                line |= exact.accuracy(np.array(components), centred=True)
            if solver == "auto":
                beside = line
            yield about | line
        for peer in peers:
            line = theirs(chosen, peer, handed)
            if "seconds" in line:
                found = np.load(handed / f"{peer}.npy")
                line |= exact.accuracy(found, centred=line.pop("centred"))
                for name in ("seconds", "cpu_seconds", "peak_bytes"):
                    line[f"to_tigon_{name}"] = line[name] / beside[name]
            yield about | line


def ours(chosen: argparse.Namespace, what: str) -> Line:
    """One run of Tigon in a process of its own."""
    command = [sys.executable, __file__, "--here", what, "--atlas", chosen.atlas]
    for name in ("folder", "n_components", "n_threads"):
        command += ["--" + name.replace("_", "-"), getattr(chosen, name)]
    return output(command, None)


def theirs(chosen: argparse.Namespace, peer: str, handed: Path) -> Line:
    """One run of a peer, or why there is none."""
    script = HERE / "peers_pca" / "decompose.py"
    command = [chosen.peers, script, peer, handed, chosen.n_components, chosen.n_threads]
    try:
        return {"method": peer} | output(command, chosen.limit_s)
    except subprocess.TimeoutExpired as error:
        return {"method": peer, "stopped_after_s": error.timeout}
    except subprocess.CalledProcessError as error:
        return {"method": peer, "ended_with": error.returncode}  # -9 where memory ran out


def output(command: list[Any], limit_s: float | None) -> Line:
    """The last line that a process printed; peers print lines of their own before."""
    ran = subprocess.run(
        list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True, timeout=limit_s
    )
    found: Line = json.loads(ran.stdout.splitlines()[-1])
    # What else the machine did: ratios hold under load, single figures do not.
    return found | {"load_average": round(os.getloadavg()[0], 1)}


def measure(chosen: argparse.Namespace) -> Line:
    """The part that runs as a process of its own: Tigon, or the floor."""
    tigon.PCA  # noqa: B018 - imported before the clock starts, as the peers are
    with tigon.open(chosen.atlas) as atlas, MemoryWatch() as memory:
        began, cpu_began = time.perf_counter(), time.process_time()
        found = (floor if chosen.here == "floor" else components)(atlas, chosen)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    taken = {"seconds": seconds, "cpu_seconds": cpu_seconds, "peak_bytes": memory.peak_bytes}
    return found | taken


def floor(atlas: tigon.Atlas, chosen: argparse.Namespace) -> Line:
    """Reading and decoding all cells once."""
    with ThreadEngine(chosen.n_threads) as engine:
        for _ in engine.ordered_map(lambda cut: atlas.read(*cut).n_cells, even_cuts(atlas.n_cells)):
            pass
    return {"method": "floor", "n_passes": 1}


def components(atlas: tigon.Atlas, chosen: argparse.Namespace) -> Line:
    """Tigon's components, and the scores of every cell."""
    model = tigon.PCA(
        chosen.n_components,
        solver=chosen.here,
        target_sum=TARGET,
        log1p=True,
        n_threads=chosen.n_threads,
    )
    began = time.perf_counter()
    model.fit(atlas)
    fitted = time.perf_counter()
    scores = model.transform(atlas)
    assert scores.shape == (atlas.n_cells, chosen.n_components)
    return {
        "method": f"tigon {model.solver_}",
        "n_passes": model.n_passes_ + 1,
        "fit_s": fitted - began,
        "scores_s": time.perf_counter() - fitted,
        "converged": model.converged_,
        "largest_residual": float(model.residuals_.max()),
        "completeness": model.completeness_,
        "explained": float(model.explained_variance_ratio_.sum()),
        "components": model.components_.tolist(),
    }


def hand_over(atlas: tigon.Atlas, folder: Path) -> None:
    """Write what peers decompose, and its exact Gram matrix and means."""
    folder.mkdir(exist_ok=True)
    gram, sums, parts = np.zeros((atlas.n_genes,) * 2), np.zeros(atlas.n_genes), []
    for start in range(0, atlas.n_cells, _BLOCK):
        X = normalised(atlas, start, min(start + _BLOCK, atlas.n_cells))
        wide = X.astype(np.float64)
        gram += (wide.T @ wide).toarray()
        sums += wide.sum(axis=0)
        parts.append(X)
    whole = sparse.vstack(parts, format="csr")
    np.save(folder / "data.npy", whole.data)
    for name in ("indices", "indptr"):  # int32 where they fit, as files have them
        positions = getattr(whole, name)
        np.save(folder / f"{name}.npy", positions.astype(np.int32 if whole.nnz < 2**31 else int))
    (folder / "shape.json").write_text(json.dumps(whole.shape))
    np.savez(folder / "exact.npz", gram=gram, sums=sums, n_cells=atlas.n_cells)


def normalised(atlas: tigon.Atlas, start: int, stop: int) -> sparse.csr_array:
    """log(1 + 10,000 x / total) of some cells, float32."""
    block = atlas.read(start, stop)
    counts = sparse.csr_array(
        (block.values.astype(np.float64), block.indices.astype(np.int32), block.indptr),
        (stop - start, atlas.n_genes),
    )
    counts.sum_duplicates()  # large counts are several entries
    totals = np.maximum(counts.sum(axis=1), 1)
    counts.data = np.log1p(counts.data * np.repeat(TARGET / totals, np.diff(counts.indptr)))
    return counts.astype(np.float32)


@dataclass(frozen=True)
class Exact:
    """Eigenvalues (k + 1) and eigenvectors (m x k), with the means of the genes or as they are."""

    gram: Float64
    centred: Float64
    n_components: int

    @classmethod
    def read(cls, folder: Path, n_components: int) -> Exact:
        """What :func:`hand_over` wrote."""
        with np.load(folder / "exact.npz") as found:
            gram, sums, n = found["gram"], found["sums"], int(found["n_cells"])
        return cls(gram, gram - np.outer(sums, sums) / n, n_components)

    def accuracy(self, components: Float64, *, centred: bool) -> Line:
        """Variance that components (k x m) explain of what is possible, and cosines."""
        C, k = self.centred if centred else self.gram, self.n_components
        m = len(C)
        values, vectors = linalg.eigh(C, subset_by_index=(m - k - 1, m - 1))
        values, vectors = values[::-1], vectors[:, ::-1]
        V = np.linalg.qr(components.T)[0]  # float32 components are not quite orthonormal
        gaps = 1 - values[1:] / values[:-1]
        apart = np.minimum(gaps, np.append(np.inf, gaps[:-1]))[:20] > 0.01
        lengths = np.linalg.norm(components, axis=1)
        cosines = np.abs((components * vectors[:, :k].T).sum(axis=1) / lengths)[:20]
        return {
            "centred": centred,
            "explained_of_exact": float(np.trace(V.T @ C @ V) / values[:k].sum()),
            "smallest_cos": float(cosines[apart].min()),
            "n_apart": int(apart.sum()),
        }


if __name__ == "__main__":
    main()
