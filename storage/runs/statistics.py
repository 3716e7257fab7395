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

if TYPE_CHECKING:
    import zarr

    from tigon.storage.runs.contents import RunContents

GROUP = "uns/tigon/statistics"


def write_statistics(root: zarr.Group, contents: RunContents) -> None:
    """Write n_cells with its coordinates, and the names of the genes; a model adds its own."""
    group = root.create_group(GROUP, attributes=DICT)
    _write_names(group, "dataset", list(contents.datasets))
    _write_names(group, "gene", [str(gene) for gene in contents.var.index])
    write_statistic(group, "n_cells", contents.n_cells.astype(np.float64), ("dataset",))


def write_statistic(
    group: zarr.Group, name: str, values: NDArray[Any], dims: tuple[str, ...]
) -> None:
    """Write an array with the names of its dimensions."""
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
