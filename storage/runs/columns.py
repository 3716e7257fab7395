"""Columns of a run's table of cells, streamed: the whole table may not fit in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from tigon.storage.encoding import key
from tigon.storage.runs.run import StoredRows

if TYPE_CHECKING:
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


def _node(run: Run, name: str) -> Any:
    table = cast("zarr.Group", run.group["obs"])
    return table.get(key(name))
