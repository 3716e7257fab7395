"""A run as a labelled dataset of xarray, read when computed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tigon.storage.encoding import key
from tigon.storage.errors import InputError
from tigon.storage.runs.components import SCORES
from tigon.storage.runs.statistics import GROUP

if TYPE_CHECKING:
    import xarray

    from tigon.storage.runs.run import Run

_NAMES = {"X_inmf": "H", "X_inmf_aligned": "H_aligned"}


def to_xarray(run: Run) -> xarray.Dataset:
    """All that a run holds by cell, gene, factor or component, and dataset; see ``Run``."""
    xr = _import_xarray()
    statistics = xr.open_zarr(run.path, group=GROUP)
    tables = _table(run, "obs", "cell") | _table(run, "var", "gene")
    arrays, coordinates = (_of_factors if run.has_factors else _of_components)(run, xr)
    dataset: xarray.Dataset = xr.Dataset(
        {**arrays, **statistics.data_vars},
        coords={
            **tables,
            **coordinates,
            "dataset": np.array(run.datasets, dtype=object),
        },
        attrs={"path": str(run.path), "command": run.command},
    )
    return dataset


def _of_components(run: Run, xr: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays of a run of principal components, and coordinates of theirs."""
    arrays = {"PCs": _array(xr, run.group["varm/PCs"], ("gene", "component")).transpose()}
    for name in run.obsm_names:
        columns = "component" if name == SCORES else f"{name}_axis"
        arrays[name] = _array(xr, run.group[f"obsm/{name}"], ("cell", columns))
    found = run.components
    for name in ("singular_values", "variance_ratio"):
        arrays[name] = xr.Variable(("component",), getattr(found, name))
    return arrays, {"component": np.arange(found.n_components)}


def _of_factors(run: Run, xr: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arrays of a run of an integration, and coordinates of theirs."""
    factor = ("gene", "factor")
    arrays: dict[str, Any] = {"W": _array(xr, run.group["varm/W"], factor).transpose()}
    metagenes = [_array(xr, run.group[f"varm/V_{key(name)}"], factor) for name in run.datasets]
    arrays["V"] = xr.Variable.concat(metagenes, "dataset").transpose("dataset", "factor", "gene")
    kept = _kept_factors(run)
    for name in run.obsm_names:
        columns = "factor" if name in _NAMES else f"{name}_axis"
        if name == "X_inmf_aligned" and len(kept) < len(run.W):
            columns = "kept_factor"
        arrays[_NAMES.get(name, name)] = _array(xr, run.group[f"obsm/{name}"], ("cell", columns))
    arrays["objective"] = run.objective
    numbers = np.arange(len(run.W))
    some = {"kept_factor": kept} if len(kept) < len(run.W) else {}
    return arrays, {"factor": numbers, "factor_b": numbers, **some}


def _kept_factors(run: Run) -> NDArray[np.int64]:
    """Factors that the aligned loadings are of, int64."""
    return np.setdiff1d(np.arange(len(run.W)), np.asarray(run.config.get("drop_factors", ()), int))


def _array(xr: Any, array: Any, dims: tuple[str, ...]) -> Any:
    """A stored array, by shards where Dask is there to read them later; else read now."""
    if not has_dask():
        return xr.Variable(dims, array[...])
    import dask.array as da

    chunks = array.shards or array.chunks
    # Without a name of its own it would be named by its place, whatever lies there.
    return xr.Variable(dims, cast("Any", da).from_array(array, chunks=chunks, name=False))


def _table(run: Run, table: str, dim: str) -> dict[str, Any]:
    """The names of the rows as ``dim``, and the columns as ``obs_...`` or ``var_...``."""
    if not has_dask():
        frame = getattr(run, table)
        found = {f"{table}_{name}": (dim, frame[name].array) for name in frame.columns}
        return {dim: frame.index.to_numpy(object), **found}
    from anndata.experimental import read_elem_lazy

    columns = read_elem_lazy(cast("Any", run.group[table])).ds
    names = {name: f"{table}_{name}" for name in columns.data_vars}
    (index,) = columns.dims
    return dict(columns.rename({index: dim, **names}).variables)


def has_dask() -> bool:
    """Whether there is Dask to read things later."""
    return find_spec("dask") is not None


def _import_xarray() -> Any:
    try:
        import xarray
    except ImportError as error:
        raise InputError(
            f"xarray is not installed ({error.name}), which labels the arrays of a run: install it"
        ) from error
    return xarray
