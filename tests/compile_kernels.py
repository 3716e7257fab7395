"""Compile the kernels that most tests need, once, before all their processes would do it at once.

What is compiled is kept beside the kernels, those of UMAP beside theirs.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from atlases import planted

import tigon
from tigon.kernels import nnls
from tigon.scaling.embedding.layout import umap_layout
from tigon.scaling.embedding.neighbors import neighbors


def factors() -> None:
    """Jobs and estimators of factors, of several widths."""
    adata = planted(n=300, m=60, k=3).adata
    for k in (3, 5, 20):
        tigon.OnlineINMF(k, n_epochs=1, n_genes="all").fit(adata, batch_key="batch")
    with tempfile.TemporaryDirectory() as folder:
        options = dict(n_components=3, n_epochs=1, umap=False, report=False)
        out = Path(folder, "run.zarr")
        run = tigon.integrate(adata, out=out, batch_key="batch", **options)
        tigon.project(run, adata, Path(folder, "projected.zarr"), batch_key="batch")


def others() -> None:
    """Components, least squares, and layouts."""
    points = np.random.default_rng(0).random((300, 3), np.float32)
    umap_layout(points, neighbors(points, 15), seed=0, n_epochs=2)
    for mode in ("fast", "tight", "exact"):
        nnls(np.eye(3), points.astype(np.float64), mode=mode)
    with tempfile.TemporaryDirectory() as folder:
        adata = planted(n=300, m=60, k=3).adata
        tigon.pca(adata, out=Path(folder, "pca.zarr"), n_components=3, report=False)


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        for done in [pool.submit(factors), pool.submit(others)]:
            done.result()
