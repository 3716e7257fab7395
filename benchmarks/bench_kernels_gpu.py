"""The kernels on one GPU: time, quality beside it, and the share of the floor that is reached.

Counts are drawn on the device: planted Poisson counts of --cells cells, 2,000 genes, --density
non-zero, in mini-batches of 5,000 cells. Prints one JSON line per figure.

    python benchmarks/bench_kernels_gpu.py --factors 20 40 100 > benchmarks/results/gpu.jsonl

Times are the smallest of --repeats by CUDA events, of launches captured in a graph unless said
otherwise. The floor is the larger of FLOPs / 60 TF/s (half in float64) and bytes / 4.3 TB/s,
with each operand moved once; `fraction` is floor / time. nmf-torch is compared where it is
installed: `pip install nmf-torch==0.1.1`.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import cupy
import numpy as np
from planted_counts_gpu import MINIBATCH, N_GENES, Counts, Planting

from tigon.kernels.gpu.epochs import ResidentEpochs
from tigon.kernels.gpu.least_squares import Descent, solve
from tigon.kernels.gpu.minibatch import DeviceTile, run_step
from tigon.kernels.gpu.online import OnlineState, OnlineSteps, Part
from tigon.kernels.gpu.products import products_into
from tigon.kernels.gpu.resident import TileStream
from tigon.kernels.gpu.sketches import add_sparse_gram, sketch_product
from tigon.kernels.tile import CellTile

LAM = 5.0
FLOPS = {"float32": 60e12, "float64": 30e12}
BANDWIDTH = 4.3e12


def about(commit: str) -> dict[str, Any]:
    """Where the figures were measured."""
    device = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
    return {
        "benchmark": "kernels_gpu",
        "commit": commit,
        "gpu": device["name"].decode(),
        "cupy": cupy.__version__,
        "cuda": cupy.cuda.runtime.runtimeGetVersion(),
        "driver": cupy.cuda.runtime.driverGetVersion(),
        "python": platform.python_version(),
    }


def floor_s(flops: float, n_bytes: float, dtype: str = "float32") -> float:
    """Seconds below which no kernel can be that does this arithmetic and moves these bytes."""
    return max(flops / FLOPS[dtype], n_bytes / BANDWIDTH)


def least_seconds(run: Callable[[], None], repeats: int, inner: int = 1) -> float:
    """Smallest time of ``run`` by CUDA events, ``inner`` of them captured in a graph."""
    stream = cupy.cuda.Stream(non_blocking=True)
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    found = []
    with stream:
        run()  # compiles, and loads what a capture may not
        stream.synchronize()
        stream.begin_capture()
        for _ in range(inner):
            run()
        graph = stream.end_capture()
        for _ in range(repeats + 2):
            start.record(stream)
            graph.launch(stream)
            stop.record(stream)
            stop.synchronize()
            found.append(cupy.cuda.get_elapsed_time(start, stop) / 1e3)
    return min(found[2:]) / inner


def launched_seconds(run: Callable[[], Any], repeats: int) -> float:
    """Smallest time of ``run`` by CUDA events, launched from the host."""
    start, stop = cupy.cuda.Event(), cupy.cuda.Event()
    found = []
    for _ in range(repeats + 2):
        start.record()
        run()
        stop.record()
        stop.synchronize()
        found.append(cupy.cuda.get_elapsed_time(start, stop) / 1e3)
    return min(found[2:])


class Fitting:
    """Online factorisation of the counts with k factors and d equal datasets."""

    def __init__(self, counts: Counts, k: int, d: int) -> None:
        self.counts, self.k, self.d = counts, k, d
        rng = np.random.default_rng(1)
        n = len(counts.tiles) * MINIBATCH // d
        self.state = OnlineState.start(
            rng.random((k, N_GENES), np.float32) * np.float32(2),
            rng.random((d, k, N_GENES), np.float32) * np.float32(0.1),
            np.repeat(cupy.asnumpy(counts.scale)[None], d, axis=0),
            np.ones((d, N_GENES), bool),
            np.full(d, n),
            LAM,
        )
        self.steps = OnlineSteps(self.state, MINIBATCH)
        self.parts = [self._cut(tile) for tile in counts.tiles]
        self.epochs = ResidentEpochs(self.steps, self.parts)

    def _cut(self, tile: CellTile) -> list[Part]:
        share = MINIBATCH // self.d
        return [
            Part(
                i,
                DeviceTile.of(
                    CellTile(tile.rows[i * share : (i + 1) * share], *tile.arrays[1:]),
                    self.counts.scale,
                ),
                cupy.zeros((share, self.k), np.float32),
            )
            for i in range(self.d)
        ]

    def final(self) -> float:
        """Loadings of all cells from the data alone; F with them."""
        figures = cupy.zeros(3)
        for i in range(self.d):
            metagenes = self.steps.metagenes(i)
            for parts in self.parts:
                part, memory = parts[i], self.steps.memory
                run_step(part.tile, metagenes, part.H, memory, figures, tol=1e-3, warm=False)
        return float(figures[1])


def nnls_lines(fit: Fitting, repeats: int) -> Iterator[dict[str, Any]]:
    """Loadings of one mini-batch, from those of the last epoch."""
    part = fit.parts[0][0]
    metagenes = fit.steps.metagenes(part.dataset)
    R, start, G = cupy.empty_like(part.H), part.H.copy(), metagenes.gram.copy()
    products_into(part.tile.cells, metagenes.scaled, R)
    yield _descent_line("fast", 1e-3, G, R, start, repeats)
    wide, wide_start = R.astype(np.float64), start.astype(np.float64)
    yield _descent_line("tight", 1e-6, G, wide, wide_start, repeats)
    yield _exact_line(G, wide, start, repeats)


def _descent_line(
    mode: str, tol: float, G: cupy.ndarray, R: cupy.ndarray, start: cupy.ndarray, repeats: int
) -> dict[str, Any]:
    (n, k), descent, H = R.shape, Descent(len(G), mode), start.copy()
    sweeps, residual = cupy.empty(n, np.int32), cupy.empty(n, R.dtype)

    def reset() -> None:
        stream, within_device = cupy.cuda.get_current_stream().ptr, 3
        cupy.cuda.runtime.memcpyAsync(H.data.ptr, start.data.ptr, H.nbytes, within_device, stream)

    def run() -> None:
        reset()
        descent(G, R, H, sweeps, residual, warm=True, tol=tol)

    seconds = least_seconds(run, repeats, 20) - least_seconds(reset, repeats, 20)
    mean = float(sweeps.mean())
    # Before the first sweep and for the proof the gradient is computed anew.
    flops = 2.0 * n * k * k * (mean + 2)
    return {
        "what": f"nnls {mode}, warm",
        "n_cells": n,
        "seconds": seconds,
        "kkt_residual": float(residual.max()),
        "mean_sweeps": mean,
        "max_sweeps": int(sweeps.max()),
        "flops": flops,
        "fraction": floor_s(flops, 4 * H.nbytes, H.dtype.name) / seconds,
    }


def _exact_line(
    G: cupy.ndarray, R: cupy.ndarray, start: cupy.ndarray, repeats: int
) -> dict[str, Any]:
    out: list[Any] = []

    def run() -> None:
        out[:] = solve(G, R, start, 1e-10, "exact")

    return {
        "what": "nnls exact, warm, launched",
        "n_cells": len(R),
        "seconds": launched_seconds(run, repeats),
        "kkt_residual": float(out[2].max()),
        "mean_pivots": float(out[1].mean()),
        "max_pivots": int(out[1].max()),
    }


def step_line(fit: Fitting, repeats: int) -> dict[str, Any]:
    """A whole mini-batch step, metagenes included; FLOPs as counted in docs/kernels."""
    parts, k, d = fit.parts[0], fit.k, fit.d
    nnz, n = fit.counts.nnz / len(fit.counts.tiles), MINIBATCH
    fit.steps.begin_epoch()
    seconds = least_seconds(lambda: fit.steps.step(parts), repeats)
    flops = 4 * nnz * k + n * k * k * (2 * 6 + 2) + 2 * N_GENES * k * k * (2 * d + 1 + 3 * d)
    n_bytes = 4 * nnz + 8 * nnz + 8 * n * k + 8 * N_GENES * k * (4 * d + 2)
    return {
        "what": "whole step",
        "seconds": seconds,
        "flops": flops,
        "bytes": n_bytes,
        "fraction": floor_s(flops, n_bytes) / seconds,
    }


def compile_for(counts: Counts, k: int, d: int) -> None:
    """Compile what epochs of k factors need, on two mini-batches."""
    fit = Fitting(counts.first(2), k, d)
    fit.epochs.run()
    fit.final()


def epoch_lines(fit: Fitting) -> Iterator[dict[str, Any]]:
    """Five epochs and the final loadings, from nothing; then one more epoch alone."""
    begin = time.perf_counter()
    figures = [fit.epochs.run() for _ in range(5)]
    loss = fit.final()
    total = time.perf_counter() - begin
    alone = []
    for _ in range(3):
        begin = time.perf_counter()
        fit.epochs.run()
        alone.append(time.perf_counter() - begin)
    yield {
        "what": "five epochs and final loadings, first launches and capture included",
        "seconds": total,
        "share_of_norm": [float(f[1] / f[0]) for f in figures],
        "objective": loss,
        "unfinished": float(figures[-1][2]),
    }
    yield {"what": "one epoch, resident", "seconds": min(alone)}


def stream_line(fit: Fitting, n_tiles: int = 20) -> dict[str, Any]:
    """Steps over mini-batches that lie in host memory, sorted by gene as they arrive."""
    tiles = [
        CellTile(*(cupy.asnumpy(array) for array in tile.arrays))
        for tile in fit.counts.tiles[:n_tiles]
    ]
    nnz = max(len(tile.genes) for tile in tiles)
    stream = TileStream(MINIBATCH, nnz, np.uint16, np.uint16)
    H = cupy.zeros((MINIBATCH, fit.k), np.float32)
    seconds = []
    for _ in range(3):
        begin = time.perf_counter()
        for tile, host in zip(stream(tiles), tiles, strict=True):
            ready = DeviceTile.of(tile, fit.counts.scale, len(host.genes))
            fit.steps.step([Part(0, ready, H)])
        cupy.cuda.Device().synchronize()
        seconds.append((time.perf_counter() - begin) / n_tiles)
    n_bytes = sum(array.nbytes for tile in tiles for array in tile.arrays) / n_tiles
    best = min(seconds)
    return {"what": "step, streamed", "seconds": best, "bytes_per_second": n_bytes / best}


def gene_lines(fit: Fitting, repeats: int) -> Iterator[dict[str, Any]]:
    """What principal components need of a mini-batch."""
    tile, scale = fit.parts[0][0].tile, fit.counts.scale
    Q = cupy.asarray(np.random.default_rng(0).normal(size=(N_GENES, 60)), np.float32)
    out = cupy.zeros((N_GENES, N_GENES))
    n = len(tile.squared)
    for what, run in (
        ("sketch of 60 columns, launched", lambda: sketch_product(tile, Q, scale)),
        ("X^T X, launched", lambda: add_sparse_gram(out, tile, scale)),
    ):
        yield {"what": what, "n_cells": n, "seconds": launched_seconds(run, repeats)}


def peer_lines(counts: Counts, k: int, n_tiles: int) -> Iterator[dict[str, Any]]:
    """nmf-torch's online mode on the same GPU and cells, and ours until F is as low."""
    import nmf

    few = counts.first(n_tiles)
    dense = np.zeros((n_tiles * MINIBATCH, N_GENES), np.float32)
    for number, tile in enumerate(few.tiles):
        rows = np.repeat(np.arange(MINIBATCH), np.diff(cupy.asnumpy(tile.indptr)))
        values = cupy.asnumpy(tile.counts) * cupy.asnumpy(tile.weights)[rows]
        dense[number * MINIBATCH + rows, cupy.asnumpy(tile.genes)] = values
    dense *= cupy.asnumpy(few.scale).astype(np.float32)
    begin = time.perf_counter()
    _, W, V, _ = nmf.integrative_nmf(
        [dense], n_components=k, lam=LAM, mode="online", use_gpu=True, random_state=0
    )
    theirs = time.perf_counter() - begin
    W, V = np.asarray(W), np.asarray(V[0])
    W, V = (W, V) if W.shape[0] == k else (W.T, V.T)
    judge = Fitting(few, k, 1)
    judge.state.W[...], judge.state.V[0] = cupy.asarray(W), cupy.asarray(V)
    objective = judge.final()
    ours = Fitting(few, k, 1)
    begin = time.perf_counter()
    n_epochs, reached = 0, np.inf
    while reached > objective and n_epochs < 40:
        ours.epochs.run()
        n_epochs += 1
        reached = ours.final()
    seconds = time.perf_counter() - begin
    yield {"what": "nmf-torch online, 1 dataset", "seconds": theirs, "objective": objective}
    yield {
        "what": "ours until F is as low, F evaluated after every epoch",
        "seconds": seconds,
        "n_epochs": n_epochs,
        "objective": reached,
        "times_faster": theirs / seconds,
    }


def main() -> None:
    """Run, and print a line per figure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--factors", type=int, nargs="+", default=[20, 40, 100])
    parser.add_argument("--cells", type=int, default=1_000_000)
    parser.add_argument("--density", type=float, default=0.05)
    parser.add_argument("--datasets", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--peer-minibatches", type=int, default=20)
    parser.add_argument("--commit", default="unknown")
    options = parser.parse_args()
    where = about(options.commit) | {"density": options.density, "datasets": options.datasets}
    counts = Planting(options.density).draw(options.cells)
    where |= {"n_cells": options.cells, "n_genes": N_GENES, "nnz": counts.nnz}
    for k in options.factors:
        compile_for(counts, k, options.datasets)
        fit = Fitting(counts, k, options.datasets)
        for lines in (
            epoch_lines(fit),
            nnls_lines(fit, options.repeats),
            [step_line(fit, options.repeats)],
            gene_lines(fit, options.repeats),
            [stream_line(fit)] if options.datasets == 1 else [],
            peer_lines(counts, k, options.peer_minibatches) if find_spec("nmf") else [],
        ):
            for line in lines:
                print(json.dumps(where | {"k": k} | line), flush=True)


if __name__ == "__main__":
    main()
