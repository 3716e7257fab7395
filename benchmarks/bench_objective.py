"""The objective F that online iNMF reaches, against nmf-torch's online mode.

Both factorise the same genes with the same scaling, k and lambda; F is then
computed by one function from each one's W and V, with loadings solved exactly
for both, so that neither is favoured by how it ends. Prints one JSON line per
method and seed, then the medians.

    python benchmarks/bench_objective.py kang_pbmc_stim.h5ad --batch-key batch

nmf-torch is not a dependency: `pip install nmf-torch==0.1.1`; where it is absent
Tigon is run alone.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from peers_scaling.factorise import nmf_torch
from record import machine

import tigon
from tigon.kernels import reference


def prepared(path: Path, batch_key: str, model: tigon.OnlineINMF) -> dict[str, NDArray[np.float32]]:
    """Scaled dense matrices by dataset, exactly as the model saw them."""
    import anndata

    adata = anndata.read_h5ad(path)
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    counts = adata[:, list(model.genes_)].X.toarray()
    names = adata.obs[batch_key].astype(str).to_numpy()
    x = counts / np.maximum(totals, 1)[:, None]
    return {name: (x[names == name] * model.scale_[name]).astype(np.float32) for name in model.V_}


def objective(
    X: dict[str, NDArray[np.float32]],
    W: NDArray[np.float32],
    V: dict[str, NDArray[np.float32]],
    lam: float,
) -> float:
    """F with exactly solved loadings, in float64."""
    total = 0.0
    for name, x in X.items():
        w, v, data = W.astype(float), V[name].astype(float), x.astype(float)
        G = reference.gram(w + v, v, lam)
        H = reference.nnls(G, data @ (w + v).T, tol=1e-8)
        total += float(((data - H @ (w + v)) ** 2).sum() + lam * ((H @ v) ** 2).sum())
    return total


def lines(path: Path, batch_key: str, seeds: range, k: int, lam: float) -> Iterator[dict]:
    """One result per method and seed."""
    for seed in seeds:
        model = tigon.OnlineINMF(k, lam=lam, random_state=seed, n_threads=2)
        started = time.perf_counter()
        model.fit(path, batch_key=batch_key)
        seconds = time.perf_counter() - started
        X = prepared(path, batch_key, model)
        yield {
            "method": "tigon online",
            "version": tigon.__version__,
            "seed": seed,
            "objective": objective(X, model.W_, model.V_, lam),
            "reported": model.objective_,
            "n_epochs": model.n_epochs_,
            "seconds": round(seconds, 2),
        }
        if find_spec("nmf") is not None:
            yield _nmf_torch(X, seed, k, lam)


def _nmf_torch(X: dict[str, NDArray[np.float32]], seed: int, k: int, lam: float) -> dict:
    started = time.perf_counter()
    W, V = nmf_torch(list(X.values()), k, lam, n_threads=2, seed=seed)
    seconds = time.perf_counter() - started
    return {
        "method": "nmf-torch online",
        "version": version("nmf-torch"),
        "seed": seed,
        "objective": objective(X, W, dict(zip(X, V, strict=True)), lam),
        "seconds": round(seconds, 2),
    }


def main() -> None:
    """Run, print a line per result, and the medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("path", type=Path)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--n-components", type=int, default=20)
    parser.add_argument("--lam", type=float, default=5.0)
    options = parser.parse_args()
    about = {"benchmark": "objective", "data": options.path.name, **machine()}
    found: dict[str, list[float]] = {}
    for line in lines(
        options.path, options.batch_key, range(options.seeds), options.n_components, options.lam
    ):
        found.setdefault(line["method"], []).append(line["objective"])
        print(json.dumps(about | line), flush=True)
    for method, values in found.items():
        print(json.dumps(about | {"method": method, "median_objective": statistics.median(values)}))


if __name__ == "__main__":
    main()
