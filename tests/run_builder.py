"""Made-up contents of a run: cell types seen in several datasets, in a known picture."""

from __future__ import annotations

import numpy as np
import pandas as pd

from tigon.scaling.embedding.space import to_space
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.factors import Factors

TIMINGS_S = {"statistics": 2.1, "pack": 3.4, "factorise": 21.9, "align": 2.2, "umap": 9.0}
SCORES = {"ari": 0.853, "nmi": 0.811, "knn_accuracy": 0.921, "mixing": 0.934}


def build_contents(
    n_cells: int = 3000,
    n_datasets: int = 3,
    n_genes: int = 60,
    n_components: int = 8,
    *,
    n_clusters: int = 8,
    n_unassigned: int = 0,
    labels: bool = True,
    dataset_names: list[str] | None = None,
    gene_names: list[str] | None = None,
    seed: int = 0,
) -> RunContents:
    """Contents with ``n_clusters`` types spread unequally over ``n_datasets`` datasets."""
    rng = np.random.default_rng(seed)
    names = dataset_names or [f"donor{i + 1}" for i in range(n_datasets)]
    genes = gene_names or [f"GENE{i + 1}" for i in range(n_genes)]
    k, m, d = n_components, len(genes), len(names)
    dataset = _codes(rng, n_cells, d)
    cluster = _codes(rng, n_cells, n_clusters)
    H = rng.gamma(0.3, 1.0, (n_cells, k)).astype(np.float32)
    H[np.arange(n_cells), cluster % k] += rng.gamma(6.0, 1.0, n_cells).astype(np.float32)
    H[:n_unassigned] = 0
    W = rng.gamma(0.3, 1.0, (k, m)).astype(np.float32)
    V = {name: rng.gamma(0.1, 0.5, (k, m)).astype(np.float32) for name in names}
    obs = _cells(rng, dataset, cluster, names, labels=labels, n_unassigned=n_unassigned)
    return RunContents(
        obs=obs,
        var=pd.DataFrame({"mean": rng.random(m)}, index=pd.Index(genes, dtype=object)),
        datasets=names,
        n_cells=np.bincount(dataset, minlength=d),
        model=Factors(
            W=W,
            V=V,
            A=np.stack([H[dataset == i].T.astype(float) @ H[dataset == i] for i in range(d)]),
            B=rng.gamma(1.0, 1.0, (d, m, k)),
            objective=123456.75,
            per_gene={"scale": rng.random((d, m)), "measured": np.ones((d, m), dtype=bool)},
        ),
        obsm={
            "X_inmf": H,
            "X_inmf_aligned": to_space(H),
            "X_umap": _picture(rng, dataset, cluster, n_clusters),
        },
        config=_config(k, labels=labels),
        versions={"tigon": "0.1.0", "numpy": np.__version__, "python": "3.11.7"},
        history=_history(rng, n_cells),
        timings_s=TIMINGS_S,
        scores=SCORES if labels else {},
        peak_memory_bytes=1_288_490_188,
        memory_limit_bytes=2 << 30,
        notices=["minibatch_size 5000 was clamped to 300: a tenth of the cells"],
        command="tigon integrate atlas.zarr --batch-key batch --n-components 8 --out run.zarr",
    )


def _codes(rng: np.random.Generator, n: int, n_kinds: int) -> np.ndarray:
    """A kind for each of ``n`` members, in unequal shares, each kind there at least once."""
    shares = 1 / np.arange(1, n_kinds + 1)
    codes = rng.choice(n_kinds, n, p=shares / shares.sum())
    codes[:n_kinds] = np.arange(n_kinds)
    return np.asarray(codes)


def _picture(
    rng: np.random.Generator, dataset: np.ndarray, cluster: np.ndarray, n_clusters: int
) -> np.ndarray:
    centres = rng.normal(0, 8, (n_clusters, 2))
    nudge = rng.normal(0, 0.2, (dataset.max() + 1, 2))
    spread = rng.gamma(4, 0.25, (n_clusters, 1))[cluster]
    noise = rng.normal(0, 1, (len(dataset), 2)) * spread
    return np.asarray(centres[cluster] + nudge[dataset] + noise, dtype=np.float32)


def _cells(
    rng: np.random.Generator,
    dataset: np.ndarray,
    cluster: np.ndarray,
    names: list[str],
    *,
    labels: bool,
    n_unassigned: int,
) -> pd.DataFrame:
    n = len(dataset)
    clusters = cluster.astype(str).astype(object)
    clusters[:n_unassigned] = "unassigned"
    total = rng.lognormal(7.5, 0.5, n).astype(np.int64)
    obs = pd.DataFrame(
        {
            "total_counts": total,
            "n_genes_by_counts": (total * 0.3).astype(np.int64),
            "tigon_dataset": pd.Categorical.from_codes(dataset, names),
            "tigon_cluster": pd.Categorical(clusters),
        },
        index=pd.Index([f"cell{i}" for i in range(n)], dtype=object),
    )
    if labels:
        obs["label"] = pd.Categorical([f"type {c}" for c in cluster])
    return obs


def _config(k: int, *, labels: bool) -> dict[str, object]:
    return {
        "batch_key": ["batch"],
        "label_key": "label" if labels else None,
        "solver": {"n_components": k, "lam": 5.0, "n_epochs": "auto", "minibatch_size": 300},
        "random_state": 0,
        "overwrite": False,
    }


def _history(rng: np.random.Generator, n_cells: int) -> dict[str, np.ndarray]:
    step = np.arange(1, 201)
    return {
        "step": step,
        "epoch": (step - 1) // 20 + 1,
        "n_seen": step * (n_cells // 20),
        "loss": 40 + 30 * np.exp(-step / 15) + rng.normal(0, 0.6, 200),
    }
