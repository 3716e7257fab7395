"""The main job on real data, through the command, as the README promises it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import anndata
import numpy as np
import pytest
from scipy import sparse

import tigon
from tigon.kernels import reference

pytestmark = pytest.mark.data

MIB = 2**20


def integrated(folder: Path, source: Path, *options: str) -> anndata.AnnData:
    """What ``tigon integrate`` leaves for scanpy to read; a process of its own."""
    out = folder / "run.zarr"
    command = [sys.executable, "-m", "tigon", "integrate", str(source), "--out", str(out)]
    found = subprocess.run(
        [*command, "--quiet", *options], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr
    assert (folder / "run.html").is_file()
    return anndata.read_zarr(out)


@pytest.fixture(scope="module")
def kang(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> anndata.AnnData:
    """Kang's two conditions with the settings of the README of the data."""
    folder = tmp_path_factory.mktemp("kang")
    return integrated(
        folder,
        shared_data / "kang_pbmc_stim.h5ad",
        *("--batch-key", "batch", "--label-key", "label", "--n-threads", "2"),
    )


def test_reported_objective_is_f_of_the_file(kang: anndata.AnnData, shared_data: Path) -> None:
    source = anndata.read_h5ad(shared_data / "kang_pbmc_stim.h5ad")
    totals = np.asarray(source.X.sum(axis=1)).ravel().astype(float)
    x = source[:, kang.var_names].X.toarray().astype(float) / totals[:, None]
    batch = source.obs["batch"].astype(str).to_numpy()
    F = 0.0
    for name in ("ctrl", "stim"):
        mine = x[batch == name]
        scaled = mine / np.maximum(np.sqrt((mine**2).sum(axis=0) / (len(mine) - 1)), 1e-300)
        H = kang.obsm["X_inmf"][batch == name].astype(float)
        W, V = kang.varm["W"].T.astype(float), kang.varm[f"V_{name}"].T.astype(float)
        F += reference.objective(sparse.csr_array(scaled), H, W, V, 5.0)
    assert abs(kang.uns["tigon"]["objective"] - F) <= 1e-5 * F


def test_kang_is_integrated_as_well_as_promised(kang: anndata.AnnData) -> None:
    scores = kang.uns["tigon"]["scores"]
    assert scores["mixing"] >= 0.90
    assert scores["best_ari"] >= 0.80
    assert scores["ari"] >= 0.60
    assert scores["knn_accuracy"] >= 0.90


def test_a_run_has_what_scanpy_looks_for(kang: anndata.AnnData, shared_data: Path) -> None:
    source = anndata.read_h5ad(shared_data / "kang_pbmc_stim.h5ad", backed="r")
    assert kang.shape == (2000, 2000)
    assert set(source.obs.columns) < set(kang.obs.columns)
    added = {"total_counts", "n_genes_by_counts", "tigon_dataset", "tigon_cluster"}
    assert added <= set(kang.obs.columns)
    assert set(kang.varm) == {"W", "V_ctrl", "V_stim"}
    for name, width in (("X_inmf", 20), ("X_inmf_aligned", 20), ("X_umap", 2)):
        assert kang.obsm[name].shape == (2000, width)
        assert np.isfinite(kang.obsm[name]).all()
    assert isinstance(kang.uns["tigon"]["objective"], float)


@pytest.mark.parametrize(
    ("name", "options", "n_datasets"),
    [
        ("kang_ctrl_8donors", ("--batch-key", "batch", "--label-key", "label"), 8),
        ("baron_mouse_pancreas", ("--batch-key", "batch", "--label-key", "label"), 2),
        ("pbmc3k", ("--batch-key", "batch", "--label-key", "label"), 1),
    ],
)
def test_other_data_run_through_the_same_command(
    shared_data: Path, tmp_path: Path, name: str, options: tuple[str, ...], n_datasets: int
) -> None:
    adata = integrated(tmp_path, shared_data / f"{name}.h5ad", *options, "--no-umap")
    assert len(adata.obs["tigon_dataset"].cat.categories) == n_datasets
    scores = adata.uns["tigon"]["scores"]
    assert scores["knn_accuracy"] >= 0.80
    assert scores["best_ari"] >= 0.50


def test_proteins_of_many_cells_stay_under_a_gibibyte(shared_data: Path, tmp_path: Path) -> None:
    adata = integrated(
        tmp_path,
        shared_data / "adtnorm_13studies_422k.h5ad",
        *("--batch-key", "batch", "--n-components", "5", "--memory-limit", "1GiB"),
        *("--n-epochs", "2", "--no-umap"),
    )
    assert adata.shape == (422_682, 9)
    assert adata.uns["tigon"]["peak_memory_bytes"] <= 1024 * MIB
    assert len(adata.uns["tigon"]["statistics"]["dataset"]) == 13


def label_accuracy(model: tigon.OnlineINMF, atlas: tigon.Atlas) -> float:
    """Share of cells whose 15 nearest neighbours agree on their label."""
    from sklearn.model_selection import cross_val_predict
    from sklearn.neighbors import KNeighborsClassifier

    H = model.transform(atlas)
    H /= np.maximum(np.linalg.norm(H, axis=1, keepdims=True), 1e-12)
    labels = atlas.obs["label"].astype(str).to_numpy()
    found = cross_val_predict(KNeighborsClassifier(15), H, labels, cv=5)
    return float((found == labels).mean())


def test_hidden_genes_cost_little_accuracy(shared_data: Path) -> None:
    adata = anndata.read_h5ad(shared_data / "kang_ctrl_8donors.h5ad")
    donors = sorted(adata.obs["batch"].unique())
    shown = np.random.default_rng(0).random(adata.n_vars) < 0.5
    parts = [
        adata[adata.obs["batch"] == donor, shown if i % 2 else slice(None)].copy()
        for i, donor in enumerate(donors)
    ]
    accuracy = []
    for atlas in (tigon.open(adata), tigon.open(parts, join="outer")):
        model = tigon.OnlineINMF(20, n_genes="all", n_threads=2)
        model.fit(atlas, batch_key="batch")
        accuracy.append(label_accuracy(model, atlas))
    assert accuracy[1] >= accuracy[0] - 0.05


@pytest.mark.parametrize(
    ("name", "suspects"),
    [
        ("kang_pbmc_stim", {"RPL3": "ribosomal", "HSPE1": "stress"}),
        ("baron_mouse_pancreas", {"Rpl38": "ribosomal"}),
        ("pbmc3k", {"RPS3A": "ribosomal"}),
    ],
)
def test_factors_of_cell_types_do_not_look_technical(
    shared_data: Path, tmp_path: Path, name: str, suspects: dict[str, str]
) -> None:
    run = tigon.integrate(
        shared_data / f"{name}.h5ad",
        out=tmp_path / "run.zarr",
        batch_key="batch",
        umap=False,
        report=False,
        n_threads=2,
    )
    table = tigon.factors(run)
    assert (table["technical"] != "").sum() == len(suspects)
    for gene, kind in suspects.items():
        (why,) = [
            why
            for genes, why in zip(table["genes"], table["technical"], strict=True)
            if gene in genes.split(", ")
        ]
        assert f"top genes are {kind} genes" in why
        if kind == "ribosomal":
            assert "its share follows the ribosomal share" in why
    quiet = table[table["technical"] == ""]
    assert quiet["r_depth"].abs().max() < 0.45
