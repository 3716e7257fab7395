"""Columns of a run's table of cells, streamed: the whole table may not fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tigon.storage.encoding import key
from tigon.storage.runs.run import StoredRows

if TYPE_CHECKING:
    import pandas as pd
    import zarr

    from tigon.storage.runs.run import Run


@dataclass(frozen=True, slots=True)
class Categories:
    """A column of names.

    Attributes
    ----------
    codes
        Number of each cell's name, shape (n,), -1 for none; streamed.
    names
        The names.
    """

    codes: StoredRows
    names: tuple[str, ...]


def numbers_of(run: Run, name: str) -> StoredRows | None:
    """A column of numbers, shape (n,), streamed; None where the run has none of that name."""
    node = _node(run, name)
    return StoredRows(node) if hasattr(node, "dtype") and node.dtype.kind in "fiu" else None


def categories_of(run: Run, name: str) -> Categories | None:
    """A column of names; None where the run has none of that name."""
    node = _node(run, name)
    if node is None or node.attrs.get("encoding-type") != "categorical":
        return None
    names = np.asarray(node["categories"][...])
    return Categories(StoredRows(node["codes"]), tuple(map(str, names)))


def column_of(run: Run, name: str) -> pd.Series[Any] | None:
    """A column of any type as the table of cells has it, read whole; None where there is none."""
    import pandas as pd
    from anndata.io import read_elem

    node = _node(run, name)
    return None if node is None else pd.Series(read_elem(node))


def column_names(run: Run) -> tuple[str, ...]:
    """Keys of the columns, in their order."""
    return tuple(cast("zarr.Group", run.group["obs"]).attrs["column-order"])  # type: ignore[arg-type]


def _node(run: Run, name: str) -> Any:
    table = cast("zarr.Group", run.group["obs"])
    return table.get(key(name))
