"""Tigon: integration of single-cell atlases that do not fit in memory.

>>> import tigon
>>> run = tigon.integrate("atlas.zarr", batch_key="donor", out="run.zarr")  # doctest: +SKIP
>>> adata = run.to_anndata()  # doctest: +SKIP

Names are loaded when first used, so that importing Tigon costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tigon.choice import select
    from tigon.export_call import export_h5ad
    from tigon.factor_calls import drop_factors, factors
    from tigon.layout_calls import cluster, embed
    from tigon.main_job import integrate, plan
    from tigon.pca_job import pca
    from tigon.report import write_report
    from tigon.scaling.inmf.batch_estimator import INMF
    from tigon.scaling.inmf.estimator import OnlineINMF
    from tigon.scaling.inmf.unshared_estimator import UINMF
    from tigon.scaling.pca.estimator import PCA, TruncatedSVD
    from tigon.scenarios import project, update
    from tigon.storage.atlas import Atlas
    from tigon.storage.errors import (
        InputError,
        MemoryLimitError,
        NoSpaceError,
        OutputExistsError,
        TigonError,
    )
    from tigon.storage.ingest import write_atlas
    from tigon.storage.opening import open_atlas as open
    from tigon.storage.runs.run import Run

__version__ = "0.1.0"

_HOMES = {
    "Atlas": "tigon.storage.atlas",
    "INMF": "tigon.scaling.inmf.batch_estimator",
    "InputError": "tigon.storage.errors",
    "MemoryLimitError": "tigon.storage.errors",
    "NoSpaceError": "tigon.storage.errors",
    "OnlineINMF": "tigon.scaling.inmf.estimator",
    "OutputExistsError": "tigon.storage.errors",
    "PCA": "tigon.scaling.pca.estimator",
    "Run": "tigon.storage.runs.run",
    "TigonError": "tigon.storage.errors",
    "TruncatedSVD": "tigon.scaling.pca.estimator",
    "UINMF": "tigon.scaling.inmf.unshared_estimator",
    "cluster": "tigon.layout_calls",
    "drop_factors": "tigon.factor_calls",
    "embed": "tigon.layout_calls",
    "export_h5ad": "tigon.export_call",
    "factors": "tigon.factor_calls",
    "integrate": "tigon.main_job",
    "open": "tigon.storage",
    "pca": "tigon.pca_job",
    "plan": "tigon.main_job",
    "project": "tigon.scenarios",
    "select": "tigon.choice",
    "update": "tigon.scenarios",
    "write_atlas": "tigon.storage",
    "write_report": "tigon.report",
}
_ELSEWHERE = {"open": "open_atlas"}

__all__ = [
    "INMF",
    "PCA",
    "UINMF",
    "Atlas",
    "InputError",
    "MemoryLimitError",
    "NoSpaceError",
    "OnlineINMF",
    "OutputExistsError",
    "Run",
    "TigonError",
    "TruncatedSVD",
    "__version__",
    "cluster",
    "drop_factors",
    "embed",
    "export_h5ad",
    "factors",
    "integrate",
    "open",
    "pca",
    "plan",
    "project",
    "select",
    "update",
    "write_atlas",
    "write_report",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'tigon' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), _ELSEWHERE.get(name, name))
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
