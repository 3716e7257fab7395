"""What genes that only some datasets measure are worth: dropped, in UINMF, or in W.

Genes of a labelled file are hidden at random: some are left in all datasets, each of the
others in one dataset (or in --in N of them). Then cells are embedded three ways, and once
with all genes as they were:

- dropped: iNMF over the genes that all datasets measure;
- UINMF: W over these genes, U_i over the others;
- in W: iNMF over all genes, each masked where it is not measured.

Accuracies are shares of cells whose label their 15 nearest cells guess, as
``tigon.scaling.embedding.scores`` counts them, after alignment: among all cells, and among
those of other datasets ("across"). With --batch, F of online UINMF is held against exact
batch UINMF run to its end, from random starts and from where online ended. With --planted,
the cells are drawn with known factors, and the cosines of their loadings are told besides.
Prints one JSON line per hiding and method, then the means.

    python benchmarks/bench_unshared.py starmap_mpfc_3slices.h5ad --label-keys label,cell_type
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata
import numpy as np
from bench_alignment import mapped
from numpy.typing import NDArray
from record import machine
from unshared_batch import Batch
from unshared_planted import cosines, planted_unshared

import tigon
from tigon.scaling.embedding.neighbors import neighbors
from tigon.scaling.embedding.scores import N_ACCURACY, knn_accuracy, label_codes
from tigon.scaling.embedding.space import to_space

METHODS = ("dropped", "UINMF", "in W")


@dataclass(frozen=True)
class Hiding:
    """Datasets with genes hidden.

    Attributes
    ----------
    parts
        One AnnData a dataset, with the column ``batch``.
    labels
        Labels of all cells by the column they are from, in the order of the parts.
    told
        What its lines say of it.
    true
        Planted loadings, (n, k), where they are known.
    """

    parts: list[anndata.AnnData]
    labels: dict[str, NDArray[np.str_]]
    told: dict[str, Any]
    true: NDArray[np.float64] | None = None

    @property
    def codes(self) -> NDArray[np.int32]:
        """Dataset of each cell."""
        sizes = [part.n_obs for part in self.parts]
        return np.repeat(np.arange(len(sizes), dtype=np.int32), sizes)


def hide(
    adata: anndata.AnnData,
    batch_key: str,
    label_keys: Sequence[str],
    n_shared: int,
    n_in: int,
    seed: int,
) -> Hiding:
    """Leave ``n_shared`` genes in all datasets, and each of the others in ``n_in``."""
    order = np.random.default_rng(seed).permutation(adata.n_vars)
    names = adata.obs[batch_key].astype(str).to_numpy()
    datasets = np.unique(names)
    parts = []
    for i, name in enumerate(datasets):
        rest = np.arange(adata.n_vars - n_shared)
        own = (i - rest) % len(datasets) < n_in
        genes = np.sort(np.concatenate([order[:n_shared], order[n_shared:][own]]))
        parts.append(adata[names == name, genes].copy())
    whole = anndata.concat(parts, join="outer").obs
    labels = {key: whole[key].astype(str).to_numpy(np.str_) for key in label_keys}
    told = {"hiding": seed, "n_shared": n_shared, "n_in": n_in}
    return Hiding(parts, labels, told)


def estimator(method: str, k: int, lam: float, seed: int) -> tigon.OnlineINMF:
    """The model of a method."""
    options: dict[str, Any] = dict(lam=lam, n_genes="all", random_state=seed, n_threads=2)
    if method == "UINMF":
        return tigon.UINMF(k, n_unshared="all", **options)
    return tigon.OnlineINMF(k, **options)


def lines(hiding: Hiding, k: int, lam: float, *, batch_starts: int) -> Iterator[dict[str, Any]]:
    """A line for each method, and for batch where it has starts."""
    seed = hiding.told["hiding"]
    for method in METHODS:
        atlas = tigon.open(hiding.parts, join="inner" if method == "dropped" else "outer")
        model = estimator(method, k, lam, seed)
        start = time.perf_counter()
        H = model.fit(atlas, batch_key="batch").transform(atlas)
        yield {
            **hiding.told,
            "method": method,
            "n_genes": len(model.genes_),
            "objective": model.objective_,
            "epochs": model.n_epochs_,
            "seconds": round(time.perf_counter() - start, 2),
            **scored(H, hiding, seed),
        }
        if method == "UINMF" and batch_starts:
            yield {
                **hiding.told,
                "method": "batch UINMF",
                **against_batch(hiding, model, batch_starts),
            }


def scored(H: NDArray[np.float32], hiding: Hiding, seed: int) -> dict[str, float]:
    """Accuracies after quantile maps, and the least and the mean cosine with planted ones."""
    codes = hiding.codes
    points = to_space(mapped(H, codes, seed))
    near = neighbors(points, N_ACCURACY, n_threads=2).indices
    elsewhere = nearest_elsewhere(points, codes)
    found: dict[str, float] = {}
    for key, names in hiding.labels.items():
        labels = label_codes(names)
        found[f"{key}_accuracy"] = round(knn_accuracy(near, labels), 4)
        found[f"{key}_accuracy_across"] = round(knn_accuracy(elsewhere, labels), 4)
    if hiding.true is not None:
        matched = cosines(H.astype(float), hiding.true)
        found |= {"least_cosine": round(matched.min(), 4), "mean_cosine": round(matched.mean(), 4)}
    return found


def nearest_elsewhere(points: NDArray[np.float32], codes: NDArray[np.int32]) -> NDArray[np.int32]:
    """The 15 nearest cells of other datasets, nearest first, shape (n, 15)."""
    near = np.zeros((len(points), N_ACCURACY), np.int32)
    for dataset in np.unique(codes):
        here, there = np.flatnonzero(codes == dataset), np.flatnonzero(codes != dataset)
        a, b = points[here].astype(float), points[there].astype(float)
        far = (b**2).sum(axis=1) - 2 * a @ b.T
        near[here] = there[np.argsort(far, axis=1, kind="stable")[:, :N_ACCURACY]]
    return near


def against_batch(hiding: Hiding, model: tigon.OnlineINMF, n_starts: int) -> dict[str, Any]:
    """F of batch UINMF at its end, and by how much F of online is above the best."""
    assert model.shared_ is not None
    X, names = [], list(model.V_)
    for part, name in zip(hiding.parts, names, strict=True):
        x = part.X.toarray().astype(float)
        x /= np.maximum(x.sum(axis=1, keepdims=True), 1)
        at = part.var_names.get_indexer(model.genes_)
        X.append(np.where(at >= 0, x[:, at], 0.0) * model.scale_[name])
    measured = np.array([model.measured_[name] for name in names])
    lam = np.array([model.lam_[name] for name in names])
    problem = X, measured, model.shared_, lam
    V = np.array([model.V_[name] for name in names], dtype=float)
    polished = Batch(*problem, model.W_.astype(float), V).run(1e-5)[-1]
    k = len(model.W_)
    starts = [Batch.drawn(*problem, k, seed).run(1e-5)[-1] for seed in range(n_starts)]
    best = min(polished, *starts)
    return {
        "from_online": polished,
        "from_random": starts,
        "online_above_from_online": round(model.objective_ / polished - 1, 6),
        "online_above_best": round(model.objective_ / best - 1, 6),
    }


def hidings(options: argparse.Namespace) -> Iterator[Hiding]:
    """Every hiding that is asked for."""
    for seed in range(options.hidings):
        if options.planted:
            case = planted_unshared(n=options.cells, k=options.k, d=options.planted, seed=seed)
            kinds = np.concatenate([part.obs["kind"].to_numpy(np.str_) for part in case.parts])
            told = {"hiding": seed, "n_shared": 30, "n_datasets": options.planted}
            yield Hiding(case.parts, {"kind": kinds}, {"data": "planted", **told}, case.H)
            continue
        adata = anndata.read_h5ad(options.file)
        keys = options.label_keys.split(",")
        hiding = hide(adata, options.batch_key, keys, options.shared, options.n_in, seed)
        hiding.told["data"] = options.file.stem
        yield hiding


def means(found: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Mean of each figure by method."""
    for method in METHODS:
        mine = [line for line in found if line["method"] == method]
        figures = [n for n in mine[0] if n.endswith(("accuracy", "across", "cosine"))]
        mean = {name: round(float(np.mean([line[name] for line in mine])), 4) for name in figures}
        yield {"summary": "mean", "n": len(mine), "method": method, **mean}


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--batch-key", default="batch")
    parser.add_argument("--label-keys", default="label")
    parser.add_argument("--shared", type=int, default=40, help="genes left in all datasets")
    parser.add_argument(
        "--in", dest="n_in", type=int, default=1, help="datasets of each other gene"
    )
    parser.add_argument("--hidings", type=int, default=5)
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--lam", type=float, default=5.0)
    parser.add_argument("--batch", type=int, default=0, help="random starts of exact batch UINMF")
    parser.add_argument("--planted", type=int, metavar="DATASETS", help="drawn cells, no file")
    parser.add_argument("--cells", type=int, default=600, help="of each planted dataset")
    options = parser.parse_args()
    if (options.file is None) == (options.planted is None):
        parser.error("name a file, or --planted")
    logging.getLogger("tigon").setLevel(logging.ERROR)  # that sources differ in genes is the point
    told, found = {"k": options.k, "lam": options.lam}, []
    for hiding in hidings(options):
        for line in lines(hiding, options.k, options.lam, batch_starts=options.batch):
            found.append(line)
            print(json.dumps({**line, **told, **machine()}), flush=True)
    for line in means(found):
        print(
            json.dumps(
                {**line, **{n: found[0].get(n) for n in ("data", "n_shared", "n_in")}, **told}
            )
        )


if __name__ == "__main__":
    main()
