"""Putting together the tables and figures that a run records."""

from __future__ import annotations

import logging
import platform
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pandas as pd

    from tigon.scaling.preparing import Prepared
    from tigon.storage import Atlas
    from tigon.storage.views.columns import Columns

_PACKAGES = (
    "tigon",
    "anndata",
    "igraph",
    "numba",
    "numpy",
    "scikit-learn",
    "scipy",
    "umap-learn",
    "zarr",
)

UNASSIGNED = "unassigned"

SHARED = "tigon_shared"
"""Column of ``var``: genes at which W may differ from zero, where not all are such."""

log = logging.getLogger("tigon")


def versions() -> dict[str, str]:
    """Versions that a result may depend on, and the type of processor."""
    return versions_of(*_PACKAGES)


def versions_of(*packages: str) -> dict[str, str]:
    """Versions of some packages and of Python, and the type of processor."""
    found = {name: version(name) for name in packages}
    return found | {"python": platform.python_version(), "processor": processor()}


def processor() -> str:
    """The model of the processor: results are bit-equal on one type of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return next(iter(models), "") or platform.processor() or platform.machine()


def rows_of_kept(
    kept: NDArray[np.bool_],
) -> Callable[[NDArray[np.int64]], NDArray[np.int64]]:
    """What turns positions of kept cells in the atlas into their rows among the kept ones."""
    if kept.all():
        return _same
    row = np.cumsum(kept, dtype=np.int32 if len(kept) < 2**31 else np.int64)

    def rows(positions: NDArray[np.int64]) -> NDArray[np.int64]:
        return row[positions].astype(np.int64) - 1

    return rows


def _same(positions: NDArray[np.int64]) -> NDArray[np.int64]:
    return positions


@dataclass(frozen=True, slots=True)
class KeptNames:
    """Names of the kept cells, read a stretch at a time: all of them take 80 bytes a cell.

    Attributes
    ----------
    columns
        The atlas's table of cells.
    kept
        Which of its cells are kept, bool, shape (n_cells,).
    """

    columns: Columns
    kept: NDArray[np.bool_]

    def __iter__(self) -> Iterator[pd.Index[Any]]:
        start = 0
        for names in self.columns.index_pieces():
            yield names[self.kept[start : start + len(names)]]
            start += len(names)


def cell_table(
    atlas: Atlas,
    prepared: Prepared,
    clusters: NDArray[np.int32] | None = None,
    landmarks: NDArray[np.int64] | None = None,
) -> pd.DataFrame:
    """``obs`` of a run: the atlas's columns of the kept cells and what was found.

    Its rows are numbered: their names are :class:`KeptNames`.

    Parameters
    ----------
    atlas, prepared
        The cells and what takes part.
    clusters
        Cluster of each kept cell, shape (n_kept,); negative for none. None where cells are not
        clustered.
    landmarks
        Which kept cells were clustered and laid out, the others being placed
        among them; a column says so where it is not all. None as for ``clusters``.
    """
    import pandas as pd

    found = prepared.statistics
    kept = slice(None) if found.kept.all() else np.flatnonzero(found.kept)
    columns = atlas.obs_columns
    obs = {name: pd.Series(columns.values(name)).iloc[kept].array for name in columns}
    codes = prepared.datasets.codes[kept]
    new: dict[str, Any] = {
        "total_counts": found.totals[kept],
        "n_genes_by_counts": found.n_detected[kept],
        "tigon_dataset": pd.Categorical.from_codes(codes, pd.Index(prepared.datasets.names)),
    }
    if clusters is not None:
        new["tigon_cluster"] = cluster_column(clusters)
    if found.mitochondrial.any():
        new["pct_counts_mt"] = 100 * found.mitochondrial[kept]
    if found.ribosomal.any():
        new["pct_counts_ribo"] = 100 * found.ribosomal[kept]
    if clusters is not None and landmarks is not None and len(landmarks) < (clusters >= 0).sum():
        new["tigon_landmark"] = is_landmark = np.zeros(len(codes), bool)
        is_landmark[landmarks] = True
    # Every atlas has a column tigon_dataset, of the sources.
    replaced = sorted(set(new).intersection(obs).difference(["tigon_dataset"]))
    if replaced:
        log.warning("columns of obs replaced by Tigon's own: %s", ", ".join(replaced))
    return pd.DataFrame(obs | new, copy=False)


def cluster_column(clusters: NDArray[np.int32]) -> pd.Categorical[str]:
    """Clusters, int32, shape (n,), as a column of names; negative ones are "unassigned"."""
    import pandas as pd

    names = [str(c) for c in range(int(clusters.max(initial=-1)) + 1)]
    if (clusters < 0).any():
        names.append(UNASSIGNED)
    codes = np.where(clusters < 0, len(names) - 1, clusters).astype(np.int32)
    return pd.Categorical.from_codes(codes, pd.Index(names))


def gene_table(atlas: Atlas, prepared: Prepared) -> pd.DataFrame:
    """``var`` of a run: the atlas's columns of the selected genes, and cells detected in.

    Where some are not shared, a column says which are.
    """
    # Not that of another run that the counts were exported from.
    var = atlas.var.iloc[prepared.genes].drop(columns=SHARED, errors="ignore")
    var["n_cells_by_counts"] = prepared.statistics.n_cells_detected[prepared.genes]
    if prepared.shared is not None:
        var[SHARED] = prepared.shared
    return var
