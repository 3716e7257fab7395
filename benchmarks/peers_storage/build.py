"""Writes a peer's own store of an .h5ad file: python build.py NAME SOURCE STORE.

Runs in the peers' environment; benchmarks/bench_storage.py says which that is.
"""

from __future__ import annotations

import sys
import warnings


def annbatch(source: str, store: str) -> None:
    """A preshuffled collection with annbatch's own defaults."""
    import zarr
    from annbatch import DatasetCollection

    zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    DatasetCollection(store).add_adatas([source], shuffle=True)


def zarr(source: str, store: str) -> None:
    """What anndata writes by default."""
    import anndata

    anndata.settings.zarr_write_format = 3
    anndata.read_h5ad(source).write_zarr(store)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    name, source, store = sys.argv[1:]
    {"annbatch": annbatch, "zarr": zarr}[name](source, store)
