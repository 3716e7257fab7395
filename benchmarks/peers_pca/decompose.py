"""A peer decomposes a matrix: decompose.py NAME FOLDER K N_THREADS.

Runs in the peers' environment; benchmarks/bench_pca.py says which that is. FOLDER holds the
normalised counts as ``data.npy``, ``indices.npy`` and ``indptr.npy`` (CSR, float32), and their
``shape.json``. Prints one JSON line: the seconds from the matrix, in memory or as a Dask array
of an AnnData-Zarr, to components and the scores of every cell, and the peak memory of this
process with what it decomposes. Saves the components (k x m) in ``NAME.npy``.
"""

from __future__ import annotations

import json
import os
import runpy
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

MEMORY = Path(__file__).parents[2] / "scaling" / "memory.py"
"""Read as a file: Tigon is not installed where this runs."""

CHUNK_CELLS = 20_000
"""Rows of a Dask chunk: with 100,000, as in scanpy's tutorial, the peak is higher."""


@dataclass(frozen=True)
class Peer:
    """Who decomposes.

    Attributes
    ----------
    package
        The name under which its version is known.
    hold
        Brings the matrix in a folder into the form that it takes; not timed.
    decompose
        What is timed: components (k x m) of that form and k, scores being made too.
    centred
        Whether it subtracts the means of the genes.
    """

    package: str
    hold: Callable[[Path], Any]
    decompose: Callable[[Any, int], Any]
    centred: bool = True


def hold_sparse(folder: Path) -> Any:
    """The CSR matrix, in memory."""
    from scipy import sparse

    data, indices, indptr = (np.load(folder / f"{n}.npy") for n in ("data", "indices", "indptr"))
    shape = tuple(json.loads((folder / "shape.json").read_text()))
    return sparse.csr_matrix((data, indices, indptr), shape)


def hold_anndata(folder: Path) -> Any:
    """An AnnData with the matrix in memory."""
    import anndata
    import scanpy  # noqa: F401 - before the clock starts

    return anndata.AnnData(hold_sparse(folder))


def hold_lazy(folder: Path) -> Any:
    """An AnnData whose matrix is a Dask array of CSR chunks of an AnnData-Zarr."""
    import anndata
    import scanpy  # noqa: F401 - before the clock starts
    import zarr

    place = folder / "anndata.zarr"
    if not place.exists():
        anndata.AnnData(hold_sparse(folder)).write_zarr(place)
    stored = zarr.open_group(place, mode="r")["X"]
    n_genes = stored.attrs["shape"][1]
    lazy = anndata.experimental.read_elem_lazy(stored, chunks=(CHUNK_CELLS, n_genes))
    return anndata.AnnData(lazy)


def scanpy_pca(adata: Any, k: int, svd_solver: str | None = None) -> Any:
    """sc.pp.pca; of a Dask array the scores are computed too."""
    import scanpy

    scanpy.pp.pca(adata, n_comps=k, svd_solver=svd_solver)
    np.asarray(adata.obsm["X_pca"])
    return adata.varm["PCs"].T


def scikit_learn_pca(X: Any, k: int) -> Any:
    """PCA with the solver that it chooses for sparse matrices, ARPACK."""
    from sklearn.decomposition import PCA

    pca = PCA(k, random_state=0)
    pca.fit_transform(X)
    return pca.components_


def truncated_svd(X: Any, k: int) -> Any:
    """TruncatedSVD as it comes: randomised, 5 iterations."""
    from sklearn.decomposition import TruncatedSVD

    svd = TruncatedSVD(k, random_state=0)
    svd.fit_transform(X)
    return svd.components_


def randomized_svd(X: Any, k: int) -> Any:
    """randomized_svd as it comes: 7 iterations for few components."""
    from sklearn.utils.extmath import randomized_svd

    U, sigma, V = randomized_svd(X, k, random_state=0)
    U *= sigma
    return V


def svd_compressed(adata: Any, k: int) -> Any:
    """svd_compressed of the Dask array, of dense chunks, which it needs, with 2 iterations."""
    import dask
    import dask.array as da

    dense = adata.X.map_blocks(
        lambda chunk: chunk.toarray(), dtype=np.float32, meta=np.empty((0, 0), np.float32)
    )
    u, sigma, v = da.linalg.svd_compressed(dense, k, n_power_iter=2, seed=0)
    _, components = dask.compute(u * sigma, v)
    return components


PEERS = {
    "scanpy arpack": Peer("scanpy", hold_anndata, partial(scanpy_pca, svd_solver="arpack")),
    "scanpy covariance_eigh": Peer(
        "scanpy", hold_anndata, partial(scanpy_pca, svd_solver="covariance_eigh")
    ),
    "scanpy on Dask": Peer("scanpy", hold_lazy, scanpy_pca),
    "scikit-learn PCA": Peer("scikit-learn", hold_sparse, scikit_learn_pca),
    "scikit-learn TruncatedSVD": Peer("scikit-learn", hold_sparse, truncated_svd, centred=False),
    "scikit-learn randomized_svd": Peer("scikit-learn", hold_sparse, randomized_svd, centred=False),
    "dask svd_compressed": Peer("dask", hold_lazy, svd_compressed, centred=False),
}


def run(name: str, folder: Path, k: int, n_threads: int) -> dict[str, Any]:
    """Decompose, and save the components."""
    peer = PEERS[name]
    held = peer.hold(folder)
    if peer.hold is hold_lazy:
        import dask

        dask.config.set(scheduler="threads", num_workers=n_threads)
    with runpy.run_path(str(MEMORY))["MemoryWatch"]() as memory:
        began, cpu_began = time.perf_counter(), time.process_time()
        components = peer.decompose(held, k)
        seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    np.save(folder / f"{name}.npy", np.asarray(components, np.float64))
    return {
        "peer_version": version(peer.package),
        "centred": peer.centred,
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes": memory.peak_bytes,
    }


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    name, folder, k, n_threads = sys.argv[1:]
    print(json.dumps(run(name, Path(folder), int(k), int(n_threads))), flush=True)
    os._exit(0)  # pools of threads are not waited for
