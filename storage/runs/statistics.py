"""The statistics group of a run, laid out for two readers at once.

anndata reads it as a plain dict of arrays (every element carries its encoding),
xarray as a dataset (every array carries its dimension names, and the arrays
named after a dimension are coordinates).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.encoding import ARRAY, DICT, STRINGS
from tigon.storage.runs.contents import RunContents

if TYPE_CHECKING:
    import zarr

GROUP = "uns/tigon/statistics"


def write_statistics(root: zarr.Group, contents: RunContents) -> None:
    """Write A, B, n_cells, lambda and the per-gene matrices with their coordinates."""
    group = root.create_group(GROUP, attributes=DICT)
    factors = np.arange(contents.n_components)
    _write_names(group, "dataset", list(contents.V))
    _write_names(group, "gene", [str(gene) for gene in contents.var.index])
    _write(group, "factor", factors, ("factor",))
    _write(group, "factor_b", factors, ("factor_b",))
    _write(group, "A", contents.A.astype(np.float64), ("dataset", "factor", "factor_b"))
    _write(group, "B", contents.B.astype(np.float64), ("dataset", "gene", "factor"))
    _write(group, "n_cells", contents.n_cells.astype(np.float64), ("dataset",))
    if contents.lam is not None:
        _write(group, "lam", contents.lam.astype(np.float64), ("dataset",))
    for name, matrix in contents.per_gene.items():
        _write(group, name, matrix, ("dataset", "gene"))


def _write(group: zarr.Group, name: str, values: NDArray[Any], dims: tuple[str, ...]) -> None:
    # One chunk per dataset, so that one of hundreds is read alone.
    chunks = (1, *values.shape[1:]) if values.ndim == 3 else values.shape
    array = group.create_array(
        name,
        shape=values.shape,
        dtype=values.dtype,
        chunks=chunks,
        dimension_names=dims,
        attributes=ARRAY,
    )
    array[...] = values


def _write_names(group: zarr.Group, dim: str, names: list[str]) -> None:
    array = group.create_array(
        dim, shape=(len(names),), dtype="string", dimension_names=(dim,), attributes=STRINGS
    )
    array[...] = np.array(names, dtype=object)
