"""Kernels on the CPU, against SciPy and scikit-learn, one JSON line a result.

Everything runs in one process on the same number of threads, ours and the peer in turn;
the minimum of the repeats is reported, with the KKT residual beside every time. The
counts are Poisson with planted factors; the factors that cells are solved against, and
the loadings that a warm start begins with, come from online iNMF after some epochs: a
cell starts from what it was in the epoch before.

    python benchmarks/bench_kernels.py > benchmarks/results/kernels_cpu.jsonl
    python benchmarks/bench_kernels.py --tiny
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from record import machine
from resident import Resident, draw
from scipy.optimize import nnls as scipy_nnls
from threadpoolctl import threadpool_limits

from tigon.kernels import nnls, reference
from tigon.kernels.cpu.step import minibatch_step
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.rescaling import factor_sizes, rescale, rescale_steps
from tigon.scaling.inmf.state import Problem, begin_round, init_state
from tigon.scaling.inmf.steps import apply_step
from tigon.scaling.inmf.tasks import Minibatch, Solver, Version
from tigon.scaling.inmf.tiles import DatasetTile, metagenes_of


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Epochs are repeated for ``epochs_s`` at least: where processors are shared with others,
    these halve the speed of the nearer caches for seconds at a time.
    """

    n_cells: int = 5000
    n_genes: int = 2000
    components: tuple[int, ...] = (20, 40, 100)
    densities: tuple[float, ...] = (0.05, 0.10)
    n_repeats: int = 21
    n_epochs: int = 25
    resident_cells: int = 1_000_000
    peer_cells: int = 1000
    epochs_s: float = 40.0


DATASETS = {1: "one dataset", 2: "two datasets"}

SETTLING_S = 0.1
"""How long each run repeats itself before it is timed: threads of OpenBLAS spin for up to 30 ms."""

TINY = Size(300, 200, (5,), (0.1,), 2, 2, 1200, 50, 0.0)


def main() -> None:
    """Print a line per result."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="seconds instead of minutes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", choices=["nnls", "step", "epoch"], action="append")
    parser.add_argument("--n-components", type=int, action="append", help="20, 40 and 100")
    options = parser.parse_args()
    size = TINY if options.tiny else Size()
    if options.n_components:
        size = replace(size, components=tuple(options.n_components))
    about = {"benchmark": "kernels", **machine(), "threads": options.threads}
    about |= ceilings(options.threads, 200 if options.tiny else 2000)
    parts = {"nnls": least_squares, "step": steps, "epoch": epochs}
    for name in options.only or parts:
        for line in parts[name](size, options.threads, about["sgemm_gflops"]):
            print(json.dumps(about | line), flush=True)


def ceilings(n_threads: int, n: int) -> dict[str, float]:
    """What the machine can do: a matrix product, float32, and a copy, both directions counted."""
    a = np.ones((n, n), np.float32)
    with threadpool_limits(n_threads):
        product = fastest({"ours": lambda: a @ a}, 7)["ours"]
    source = np.ones(max(n * n * 8, 1000))
    target = np.empty_like(source)
    copy = fastest({"ours": lambda: np.copyto(target, source)}, 7)["ours"]
    return {
        "sgemm_gflops": round(2 * n**3 / product / 1e9, 1),
        "copy_gbytes_per_s": round(2 * source.nbytes / copy / 1e9, 1),
    }


def fastest(runs: dict[str, Callable[[], Any]], n_repeats: int) -> dict[str, float]:
    """Seconds of each run at its fastest, the runs taking turns; once before for compilation."""
    best = dict.fromkeys(runs, np.inf)
    for run in runs.values():
        run()
    for _ in range(n_repeats):
        for name, run in runs.items():
            # For a while before: the caches are its own then, and threads of the library that
            # ran before, which wait for more work by spinning, have gone to sleep.
            begun = time.perf_counter()
            while time.perf_counter() < begun + SETTLING_S:
                run()
            started = time.perf_counter()
            run()
            best[name] = min(best[name], time.perf_counter() - started)
    return best


class Resting:
    """Starts that stay in the mini-batches' own arrays."""

    @property
    def now(self) -> Resting:
        """Those of this epoch."""
        return self

    def write(self, start: int, H: NDArray[np.float32]) -> None:
        """They are where they belong already."""


class Fit:
    """Online iNMF on resident counts, some epochs in.

    Parameters
    ----------
    data, n_datasets, k
        What is factorised.
    engine
        Where it runs.
    """

    def __init__(self, data: Resident, n_datasets: int, k: int, engine: ThreadEngine) -> None:
        self.data, self.engine = data, engine
        self.config = INMFConfig(n_components=k, n_sweeps=1)
        self.problem: Problem = data.problem(n_datasets, self.config.lam)
        self.state = init_state(self.problem, k, np.random.SeedSequence(0))
        self.batches: list[list[DatasetTile]] = data.batches(n_datasets)
        self.n_steps, self.tables = 0, {}
        self.solver = Solver(None, Resting(), self.problem, self.config.tol)
        self.H = [np.zeros((data.batch_cells, k), np.float32) for _ in self.batches]

    def epoch(self) -> float:
        """One pass over all mini-batches; returns the loss."""
        if self.state.n_seen.any():
            begin_round(self.state)
        return sum(self.step(i) for i in range(len(self.batches)))

    def quality(self) -> dict[str, float]:
        """Sweeps and KKT residual of the cells of the first dataset in a mini-batch."""
        tile = self.batches[0][0].cells()
        table = metagenes_of(self.problem, self.state.W, self.state.V, 0)
        start = (self.H[0] / factor_sizes(self.state.W))[tile.rows]
        X = self.data.scaled(self.problem.scale[0], slice(0, self.data.batch_cells))[tile.rows]
        L = (self.state.W + self.state.V[0]).astype(float)
        R = reference.products(X, L)
        H, _ = minibatch_step(tile, table, self.config.tol, start)
        _, info = nnls(table.gram, R, start.astype(float), tol=self.config.tol)
        return {
            "mean_sweeps": round(float(info.sweeps.mean()), 2),
            "kkt_residual": float(reference.kkt_residual(table.gram, R, H.astype(float)).max()),
        }

    def step(self, i: int) -> float:
        """One mini-batch, as training takes it."""
        version = Version(self.state.W, dict(enumerate(self.state.V)))
        minibatch = Minibatch(0, self.batches[i], self.H[i])
        found = self.solver.solve([minibatch], version, self.engine.share, self.tables)
        step = self.state, self.problem, found.deltas, self.config.n_sweeps, self.engine
        self.tables = apply_step(*step, tabulate=range(len(self.state.V)))
        self.n_steps += 1
        if self.n_steps % rescale_steps(self.problem) == 0:
            rescale(self.state, self.problem, self.engine)
            self.tables = {}
        return found.loss


def least_squares(size: Size, n_threads: int, peak: float) -> Iterator[dict]:
    """Public ``nnls`` against a loop over ``scipy.optimize.nnls`` on the k x k system."""
    for k in size.components:
        for density in size.densities:
            G, R, H0 = _system(size, k, density, n_threads)
            U = np.linalg.cholesky(G).T
            b = np.linalg.solve(U.T, R.T).T[: size.peer_cells]
            G32, R32, start = (a.astype(np.float32) for a in (G, R, H0))
            ours: dict[str, Callable[[], Any]] = {
                "fast warm": lambda a=(G32, R32, start): nnls(*a, n_threads=n_threads),
                "fast cold": lambda a=(G32, R32): nnls(*a, n_threads=n_threads),
                "tight warm": lambda a=(G, R, H0): nnls(*a, mode="tight", n_threads=n_threads),
                "exact warm": lambda a=(G, R, H0): nnls(*a, mode="exact", n_threads=n_threads),
                "exact cold": lambda a=(G, R): nnls(*a, mode="exact", n_threads=n_threads),
            }
            peer = {"scipy": lambda U=U, b=b: [scipy_nnls(U, row) for row in b]}
            seconds = fastest(ours | peer, size.n_repeats)
            scipy_s = seconds.pop("scipy") * len(R) / len(b)
            for name, found in seconds.items():
                H, info = ours[name]()
                flops = 2.0 * k * k * float(info.sweeps.sum())
                yield {
                    "kernel": f"nnls {name}",
                    "k": k,
                    "density": density,
                    "n_cells": len(R),
                    "ms": round(found * 1e3, 3),
                    "scipy_timed_cells": len(b),
                    "scipy_ms": round(scipy_s * 1e3, 1),
                    "times_scipy": round(scipy_s / found, 1),
                    "kkt_residual": float(reference.kkt_residual(G, R, H.astype(float)).max()),
                    "mean_sweeps": round(float(info.sweeps.mean()), 2),
                    "gflops": round(flops / found / 1e9, 1) if "exact" not in name else None,
                    "fraction_of_sgemm": (
                        round(flops / found / 1e9 / peak, 3) if "exact" not in name else None
                    ),
                }


def _system(
    size: Size, k: int, density: float, n_threads: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """G and R of a mini-batch of a trained model, and its loadings of the epoch before."""
    data = draw(4 * size.n_cells, size.n_genes, density, k, size.n_cells)
    with ThreadEngine(n_threads) as engine:
        fit = Fit(data, 1, k, engine)
        for _ in range(size.n_epochs):
            fit.epoch()
        table = metagenes_of(fit.problem, fit.state.W, fit.state.V, 0)
    L = (fit.state.W + fit.state.V[0]).astype(float)
    X = data.scaled(fit.problem.scale[0], slice(0, size.n_cells))
    H = fit.H[0] / factor_sizes(fit.state.W)
    return table.gram, reference.products(X, L), H.astype(float)


def steps(size: Size, n_threads: int, peak: float) -> Iterator[dict]:
    """A whole mini-batch step against MiniBatchNMF.partial_fit, which knows one dataset."""
    from sklearn.decomposition import MiniBatchNMF

    for k in size.components:
        for density in size.densities:
            data = draw(4 * size.n_cells, size.n_genes, density, k, size.n_cells)
            with ThreadEngine(n_threads) as engine, threadpool_limits(n_threads):
                fits = {name: Fit(data, d, k, engine) for d, name in DATASETS.items()}
                for _ in range(size.n_epochs):
                    for fit in fits.values():
                        fit.epoch()
                scale = fits["one dataset"].problem.scale[0]
                X = data.scaled(scale, slice(0, size.n_cells)).astype(np.float32)
                peer = MiniBatchNMF(k, init="random", random_state=0).partial_fit(X)
                runs: dict[str, Callable[[], Any]] = {name: fit.epoch for name, fit in fits.items()}
                runs["peer"] = lambda peer=peer, X=X: peer.partial_fit(X)
                seconds = fastest(runs, size.n_repeats)
            for d, name in DATASETS.items():
                ours = seconds[name] / len(fits[name].batches)
                found = fits[name].quality()
                flops, n_bytes = _cost(data, k, d, found["mean_sweeps"])
                yield {
                    "kernel": f"mini-batch step, {name}",
                    "k": k,
                    "density": density,
                    "n_cells": size.n_cells,
                    "ms": round(ours * 1e3, 3),
                    "sklearn_ms": round(seconds["peer"] * 1e3, 1),
                    "times_sklearn": round(seconds["peer"] / ours, 1),
                    **found,
                    "gflops": round(flops / ours / 1e9, 1),
                    "fraction_of_sgemm": round(flops / ours / 1e9 / peak, 3),
                    "counted_mbytes": round(n_bytes / 1e6, 2),
                }


def epochs(size: Size, n_threads: int, peak: float) -> Iterator[dict]:
    """An epoch over a million cells in memory, mini-batches of 5,000."""
    density = size.densities[0]
    for k in size.components:
        n_base = 4 * size.n_cells
        data = draw(n_base, size.n_genes, density, k, size.n_cells)
        data = data.repeated(max(1, size.resident_cells // n_base))
        for d, name in DATASETS.items():
            with ThreadEngine(n_threads) as engine:
                fit = Fit(data, d, k, engine)
                first = time.perf_counter()
                losses = [fit.epoch()]
                first = time.perf_counter() - first
                seconds: list[float] = []
                while len(seconds) < size.n_repeats or sum(seconds) < size.epochs_s:
                    started = time.perf_counter()
                    losses.append(fit.epoch())
                    seconds.append(time.perf_counter() - started)
                found = fit.quality()
            flops, n_bytes = _cost(data, k, d, found["mean_sweeps"])
            n_batches = len(fit.batches)
            yield {
                "kernel": f"epoch of resident cells, {name}",
                "k": k,
                "density": round(data.density, 4),
                "n_cells": data.n_cells,
                "seconds": round(min(seconds), 3),
                "median_seconds": round(float(np.median(seconds)), 3),
                "n_epochs": len(seconds),
                "first_epoch_seconds": round(first, 3),
                "loss_per_cell": [
                    round(loss / data.n_cells, 4) for loss in losses[: 1 + size.n_repeats]
                ],
                **found,
                "gflops": round(n_batches * flops / min(seconds) / 1e9, 1),
                "fraction_of_sgemm": round(n_batches * flops / min(seconds) / 1e9 / peak, 3),
                "counted_gbytes": round(n_batches * n_bytes / 1e9, 2),
            }


def _cost(data: Resident, k: int, d: int, sweeps: float) -> tuple[float, float]:
    """Floating-point operations and bytes of a step, counted as in the design's floors."""
    m, n = data.n_genes, data.batch_cells
    nnz = data.density * m * n
    cells = 4 * nnz * k + 2 * n * k * k * sweeps + n * k * k
    genes = 2 * d * m * k * k + 2 * m * k * k * (1 + 4 * d)
    return cells + genes, 4 * nnz + 8 * n * k


if __name__ == "__main__":
    main()
