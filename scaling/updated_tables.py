"""Tables of a run that cells were added to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.scaling.arranging import Arranged
from tigon.scaling.inmf.arriving import Arrival
from tigon.scaling.recalling import VERSION
from tigon.scaling.recording import cluster_column

if TYPE_CHECKING:
    from tigon.storage import Atlas

_OF_ALL = ("tigon_cluster", "tigon_landmark", VERSION)
"""Columns that are found anew for all cells."""


def new_cells(atlas: Atlas, arrival: Arrival) -> pd.DataFrame:
    """``obs`` of the cells that take part, with their totals and datasets."""
    cells = np.flatnonzero(arrival.datasets.codes >= 0)
    found = arrival.statistics
    names = pd.Index(arrival.datasets.names)
    added: dict[str, Any] = {
        "total_counts": found.totals[cells],
        "n_genes_by_counts": found.n_detected[cells],
        "tigon_dataset": pd.Categorical.from_codes(arrival.datasets.codes[cells], names),
    }
    if found.mitochondrial.any():
        added["pct_counts_mt"] = 100 * found.mitochondrial[cells]
    if found.ribosomal.any():
        added["pct_counts_ribo"] = 100 * found.ribosomal[cells]
    return atlas.obs.iloc[cells].assign(**added)


def all_cells(
    old: pd.DataFrame, new: pd.DataFrame | None, datasets: tuple[str, ...]
) -> pd.DataFrame:
    """Old cells, then new ones; a column that only some have is missing elsewhere.

    Parameters
    ----------
    old, new
        Tables of cells; None for no new ones.
    datasets
        Names of the datasets, in the order of their statistics.
    """
    parts = [
        part.drop(columns=list(_OF_ALL), errors="ignore") for part in (old, new) if part is not None
    ]
    shared = [name for name in parts[0] if all(name in part for part in parts)]
    table = pd.concat(parts)
    for name in shared:
        columns = [part[name] for part in parts]
        if all(isinstance(column.dtype, pd.CategoricalDtype) for column in columns):
            table[name] = _joined(columns)
    names = table["tigon_dataset"].astype(str)
    table["tigon_dataset"] = pd.Categorical(names, categories=list(datasets))
    return table


def _joined(columns: list[pd.Series[Any]]) -> pd.Categorical[Any]:
    plain = [column.cat.set_categories(column.cat.categories, ordered=False) for column in columns]
    return pd.api.types.union_categoricals(plain)


def finish_cells(
    table: pd.DataFrame, version: NDArray[np.int32], arranged: Arranged
) -> pd.DataFrame:
    """The table with the version, the cluster and, where not all are one, the landmarks."""
    return with_clusters(table.assign(**{VERSION: version}), arranged)


def with_clusters(table: pd.DataFrame, arranged: Arranged) -> pd.DataFrame:
    """The table with the cluster of each cell and, where not all are one, the landmarks."""
    clusters = arranged.clusters
    found: dict[str, Any] = {"tigon_cluster": cluster_column(clusters)}
    if len(arranged.landmarks) < (clusters >= 0).sum():
        found["tigon_landmark"] = np.isin(np.arange(len(table)), arranged.landmarks)
    return table.assign(**found)


def known_labels(table: pd.DataFrame, label_key: str | None) -> NDArray[np.str_] | None:
    """Known labels of all cells; "" where there is none. None without such a column."""
    if label_key is None or label_key not in table:
        return None
    column = table[label_key]
    return column.astype(object).where(column.notna(), "").astype(str).to_numpy(np.str_)


def with_detected(var: pd.DataFrame, arrival: Arrival | None) -> pd.DataFrame:
    """The table of genes with the new cells in which each is detected counted in."""
    if arrival is None:
        return var
    more = np.zeros(len(var), np.int64)
    more[arrival.columns] = arrival.statistics.n_cells_detected[arrival.genes]
    return var.assign(n_cells_by_counts=var["n_cells_by_counts"].to_numpy() + more)
