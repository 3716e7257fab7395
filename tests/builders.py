"""Small files of counts, in every format that Tigon reads."""

from __future__ import annotations

import gzip
import warnings
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pandas as pd
from scipy import sparse


def make_counts(n_cells: int = 60, n_genes: int = 25, seed: int = 0) -> sparse.csr_matrix:
    """Counts with empty cells and genes in between, float32."""
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.6, (n_cells, n_genes)).astype(np.float32)
    counts[rng.random(n_cells) < 0.1] = 0
    counts[:, rng.random(n_genes) < 0.1] = 0
    counts[0, 0] = 300
    return sparse.csr_matrix(counts)


def make_adata(
    X: Any = None, *, prefix: str = "", genes: list[str] | None = None, seed: int = 0
) -> anndata.AnnData:
    """An AnnData with a table of cells of mixed types."""
    X = make_counts(seed=seed) if X is None else X
    n_cells, n_genes = X.shape
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical([f"b{i % 3}" for i in range(n_cells)]),
            "depth": np.linspace(0, 1, n_cells),
            "n": np.arange(n_cells),
        },
        index=[f"{prefix}cell{i}" for i in range(n_cells)],
    )
    names = genes or [f"gene{j}" for j in range(n_genes)]
    var = pd.DataFrame({"gene_ids": [f"ENS{name}" for name in names]}, index=names)
    return anndata.AnnData(X, obs=obs, var=var)


def write_h5ad(adata: anndata.AnnData, path: Path) -> Path:
    adata.write_h5ad(path)
    return path


def write_zarr(adata: anndata.AnnData, path: Path, zarr_format: int = 3) -> Path:
    with warnings.catch_warnings():
        # Of anndata and zarr, about their own next defaults.
        warnings.simplefilter("ignore")
        before = anndata.settings.zarr_write_format
        anndata.settings.zarr_write_format = zarr_format
        try:
            adata.write_zarr(path)
        finally:
            anndata.settings.zarr_write_format = before
    return path


def write_tenx_h5(
    adata: anndata.AnnData, path: Path, *, version: int = 3, types: list[str] | None = None
) -> Path:
    """The counts as Cell Ranger writes them: columns of genes x cells."""
    X = sparse.csr_matrix(adata.X).astype(np.int32)
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix" if version == 3 else "GRCh38")
        group["barcodes"] = np.array(adata.obs_names, dtype="S")
        group["data"], group["indices"] = X.data, X.indices.astype(np.int64)
        group["indptr"], group["shape"] = X.indptr.astype(np.int64), np.array(X.shape[::-1])
        names = np.array(adata.var_names, dtype="S")
        ids = np.array(adata.var["gene_ids"], dtype="S")
        if version == 2:
            group["genes"], group["gene_names"] = ids, names
            return path
        features = group.create_group("features")
        features["id"], features["name"] = ids, names
        types = types or ["Gene Expression"] * len(names)
        features["feature_type"] = np.array(types, dtype="S")
        features["genome"] = np.array(["GRCh38"] * len(names), dtype="S")
    return path


def write_tenx_mtx(
    adata: anndata.AnnData,
    folder: Path,
    *,
    zipped: bool = True,
    old: bool = False,
    kind: str = "integer",
    seed: int = 0,
) -> Path:
    """A 10x directory; its entries are shuffled, which the format allows."""
    folder.mkdir()
    X = sparse.coo_matrix(adata.X)
    order = np.random.default_rng(seed).permutation(X.nnz)
    value = "{:d}" if kind == "integer" else "{:g}"
    lines = [
        f"%%MatrixMarket matrix coordinate {kind} general",
        '%metadata_json: {"software_version": "test"}',
        f"{X.shape[1]} {X.shape[0]} {X.nnz}",
    ]
    for entry in order:
        number = int(X.data[entry]) if kind == "integer" else float(X.data[entry])
        lines.append(f"{X.col[entry] + 1} {X.row[entry] + 1} {value.format(number)}")
    genes = [
        "\t".join([gene_id, name] + ([] if old else ["Gene Expression"]))
        for name, gene_id in zip(adata.var_names, adata.var["gene_ids"], strict=True)
    ]
    write_text(folder, "matrix.mtx", lines, zipped=zipped)
    write_text(folder, "genes.tsv" if old else "features.tsv", genes, zipped=zipped)
    write_text(folder, "barcodes.tsv", list(adata.obs_names), zipped=zipped)
    return folder


def write_text(folder: Path, name: str, lines: list[str], *, zipped: bool) -> None:
    text = "".join(f"{line}\n" for line in lines)
    if zipped:
        with gzip.open(folder / f"{name}.gz", "wt") as file:
            file.write(text)
    else:
        (folder / name).write_text(text)


def dense(X: Any) -> np.ndarray:
    """The matrix as a float64 array."""
    return np.asarray(X.todense() if sparse.issparse(X) else X, dtype=np.float64)
