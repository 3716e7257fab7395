"""Scores against labels, and what the alignment reaches on real data."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from sklearn.neighbors import KNeighborsClassifier

from tigon.scaling.embedding.graph import shared_neighbors
from tigon.scaling.embedding.neighbors import neighbors
from tigon.scaling.embedding.scores import RESOLUTIONS, label_codes, mixing, scores
from tigon.scaling.embedding.space import to_space


def cells(
    n: int = 500, *, seed: int = 0
) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.str_]]:
    """Points, datasets and labels; labels do not follow the points entirely."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 3, n)
    H = rng.gamma(1.0, 0.1, (n, 5))
    H[np.arange(n), types] += rng.gamma(4.0, 0.2, n)
    shown = np.where(rng.random(n) < 0.1, rng.integers(0, 3, n), types)
    labels = np.array(["B cells", "T cells", "NK"])[shown]
    return to_space(H.astype(np.float32)), rng.integers(0, 2, n).astype(np.int32), labels


def test_they_agree_with_scikit_learn() -> None:
    points, datasets, labels = cells()
    clusters = np.random.default_rng(1).integers(0, 4, len(points)).astype(np.int32)
    graph = shared_neighbors(neighbors(points, 20).indices)
    found = scores(points, graph, datasets, clusters, labels, seed=0)
    assert found["n_scored"] == len(points)
    assert found["ari"] == pytest.approx(adjusted_rand_score(labels, clusters))
    assert found["nmi"] == pytest.approx(normalized_mutual_info_score(labels, clusters))
    near = neighbors(points, 15).indices
    votes = [np.unique(labels[row], return_counts=True) for row in near]
    guessed = np.array([names[counts.argmax()] for names, counts in votes])
    assert found["knn_accuracy"] == pytest.approx((guessed == labels).mean())
    # Not leave-one-out, so a little better; it bounds ours from above.
    fitted = KNeighborsClassifier(16).fit(points, labels).score(points, labels)
    assert found["knn_accuracy"] <= fitted
    assert found["best_ari"] > 0.5
    assert found["best_resolution"] in RESOLUTIONS


def test_only_labelled_cells_count() -> None:
    points, datasets, labels = cells()
    graph = shared_neighbors(neighbors(points, 20).indices)
    clusters = np.zeros(len(points), dtype=np.int32)
    hidden = labels.astype(object)
    hidden[:100], hidden[100:200], hidden[200] = "unassigned", "nan", ""
    found = scores(points, graph, datasets, clusters, hidden.astype(str), seed=0)
    kept = slice(201, None)
    graph_kept = shared_neighbors(neighbors(points[kept], 20).indices)
    alone = scores(points[kept], graph_kept, datasets[kept], clusters[kept], labels[kept], seed=0)
    assert found["n_scored"] == len(points) - 201
    for name in ("ari", "nmi", "knn_accuracy", "mixing"):
        assert found[name] == alone[name]


def test_words_for_no_label() -> None:
    assert label_codes(["b", "Unassigned", "a", "NaN", "b", " "]).tolist() == [1, -1, 0, -1, 1, -1]


def test_without_labels_there_is_nothing_to_score() -> None:
    points, datasets, _ = cells(50)
    graph = shared_neighbors(neighbors(points, 20).indices)
    clusters = np.zeros(50, dtype=np.int32)
    assert scores(points, graph, datasets, clusters, ["nan"] * 50, seed=0) == {"n_scored": 0.0}


def test_mixing_of_chance_is_one_and_of_apart_is_zero() -> None:
    rng = np.random.default_rng(0)
    datasets = (rng.random(4000) < 0.2).astype(np.int32)
    near = rng.integers(0, 4000, (4000, 30)).astype(np.int32)
    # 120,000 draws of a share of .32: two standard errors are .009 of it.
    assert mixing(near, datasets) == pytest.approx(1.0, abs=0.02)
    own = np.array([rng.choice(np.flatnonzero(datasets == d), 30) for d in datasets])
    assert mixing(own, datasets) == 0
    assert np.isnan(mixing(near, np.zeros(4000, dtype=np.int32)))


@pytest.mark.data
@pytest.mark.parametrize("seed", [0, 1])
def test_kang_is_integrated(shared_data: Path, seed: int) -> None:
    """Interferon-treated and control cells mix, and the types stay apart."""
    import anndata

    import tigon
    from tigon.scaling.alignment.aligning import align
    from tigon.scaling.alignment.config import AlignConfig
    from tigon.scaling.embedding.config import EmbedConfig
    from tigon.scaling.embedding.embedding import embed
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage.rows import ArrayRows

    adata = anndata.read_h5ad(shared_data / "kang_pbmc_stim.h5ad")
    model = tigon.OnlineINMF(n_components=20, lam=5.0, n_genes=2000, random_state=seed)
    H = model.fit(adata, batch_key="batch").transform(adata, batch_key="batch")
    datasets = adata.obs["batch"].cat.codes.to_numpy().astype(np.int32)
    aligned = np.empty_like(H)

    def write(start: int, rows: NDArray[np.float32]) -> None:
        aligned[start : start + len(rows)] = rows

    with ThreadEngine(1) as engine:
        joint = align(ArrayRows(H), datasets, 2, AlignConfig(), seed, engine, write).joint_clusters
    config = EmbedConfig(umap=False)
    clusters, among, graph = embed(ArrayRows(aligned), datasets, joint >= 0, config, seed, write)
    labels = adata.obs["label"].astype(str).to_numpy(np.str_)
    found = scores(among.points, graph, datasets, clusters, labels, seed=seed)
    assert found["n_scored"] == 1584
    assert found["mixing"] >= 0.90
    assert found["knn_accuracy"] >= 0.90
    assert found["best_ari"] >= 0.80
    assert found["ari"] >= 0.60
