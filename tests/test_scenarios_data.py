"""Arrivals and projections on Kang's eight donors, against a fit of all of them at once.

Figures when this was written: fed one donor at a time F ends 0.3 % above that of the fit of
all, in either order; labels of donors held out are right in 0.907 of the cells.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pytest

import tigon
from tigon.scaling.datasets import datasets_of
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.projecting import make_query, project_with_sums

pytestmark = pytest.mark.data

OPTIONS: dict[str, Any] = dict(n_genes="all", n_threads=2)


@pytest.fixture(scope="module")
def kang(shared_data: Path) -> anndata.AnnData:
    return anndata.read_h5ad(shared_data / "kang_ctrl_8donors.h5ad")


def donors(adata: anndata.AnnData) -> list[str]:
    return sorted(adata.obs["batch"].unique())


def judged(model: tigon.OnlineINMF, adata: anndata.AnnData) -> tuple[float, float]:
    """F over all cells, every one solved against the metagenes, and label accuracy."""
    with tigon.open(adata) as atlas, ThreadEngine(2) as engine:
        H = np.zeros((atlas.n_cells, model.n_components), np.float32)
        query = make_query(atlas, datasets_of(atlas, "batch"), model._known(), engine)
        found = project_with_sums(atlas, query, 1e-5, engine, H.__setitem__)
    return found.objective, label_accuracy(H, adata.obs["label"].astype(str).to_numpy())


def label_accuracy(H: np.ndarray, labels: np.ndarray) -> float:
    """Share of cells whose label the 15 nearest others guess, five folds."""
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    points = H / np.maximum(np.linalg.norm(H, axis=1, keepdims=True), 1e-12)
    found = cross_val_predict(KNeighborsClassifier(15), points, labels, cv=5)
    return float((found == labels).mean())


def one_by_one(adata: anndata.AnnData, order: list[str]) -> tigon.OnlineINMF:
    model = tigon.OnlineINMF(20, **OPTIONS)
    for donor in order:
        model.partial_fit(adata[adata.obs["batch"] == donor].copy(), batch_key="batch")
    return model


def test_donors_one_at_a_time_end_where_all_together_do(kang: anndata.AnnData) -> None:
    whole = tigon.OnlineINMF(20, **OPTIONS).fit(kang, batch_key="batch")
    F, accuracy = judged(whole, kang)
    assert abs(F - whole.objective_) <= 1e-9 * F
    found = []
    for order in (donors(kang), donors(kang)[::-1]):
        model = one_by_one(kang, order)
        assert set(model.V_) == set(donors(kang))
        F_here, accuracy_here = judged(model, kang)
        found.append(F_here)
        print(f"{order}: F {F_here / F - 1:+.4%}, labels {accuracy_here:.4f} of {accuracy:.4f}")
        assert F_here <= 1.01 * F
        # Seeds alone move it by as much: 0.9203 to 0.9248 over four fits of all, and over
        # four orders of arrival.
        assert abs(accuracy_here - accuracy) <= 0.005
    assert abs(found[0] - found[1]) <= 0.01 * min(found)


@pytest.mark.slow
def test_labels_of_donors_held_out(kang: anndata.AnnData, tmp_path: Path) -> None:
    right: dict[str, float] = {}
    sure: list[np.ndarray] = []
    for donor in donors(kang):
        run = tigon.integrate(
            kang[kang.obs["batch"] != donor].copy(),
            out=tmp_path / f"{donor}.zarr",
            batch_key="batch",
            n_epochs=5,
            umap=False,
            n_landmarks=1000,  # clusters are not asked about here
            report=False,
            n_threads=2,
        )
        query = kang[kang.obs["batch"] == donor].copy()
        found = tigon.project(run, query, tmp_path / f"{donor}.q.zarr", label_key="label").obs
        hit = found["tigon_label"].astype(str).to_numpy() == query.obs["label"].astype(str)
        right[donor] = float(hit.mean())
        sure.append(np.stack([hit, found["tigon_confidence"]]))
    print({donor: round(share, 4) for donor, share in right.items()}, np.mean([*right.values()]))
    assert np.mean(list(right.values())) >= 0.90
    hit, confidence = np.concatenate(sure, axis=1)
    # What is told with more confidence is right more often.
    by_tenth = [hit[(confidence > a) & (confidence <= a + 0.25)].mean() for a in (0.25, 0.5, 0.75)]
    assert by_tenth == sorted(by_tenth)
