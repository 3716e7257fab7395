"""Chosen cells and genes of an atlas as an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from tigon.storage import layout
from tigon.storage.progress import Progress, silent
from tigon.storage.views.counts_view import CountsView
from tigon.storage.views.gathering import gather
from tigon.storage.views.lazy_array import to_dask, view_of

if TYPE_CHECKING:
    from anndata import AnnData

    from tigon.storage.atlas import Atlas


def to_anndata(
    atlas: Atlas,
    cells: Any = None,
    genes: Any = None,
    *,
    backed: bool = False,
    dtype: DTypeLike | None = np.float32,
    memory_limit: int | None = None,
    progress: Progress = silent,
) -> AnnData:
    """An AnnData of chosen cells and genes; see ``Atlas.to_anndata``."""
    import anndata

    view = view_of(atlas, cells, genes, dtype)
    X: Any
    if backed:
        X = to_dask(atlas, cells=cells, genes=genes, dtype=dtype)
    else:
        X = gather(atlas, view, memory_limit, progress)
    return anndata.AnnData(
        X=X,
        obs=atlas.obs.copy() if view.cells is None else atlas.obs_columns.rows(view.cells),
        var=atlas.var.copy()
        if view.genes is None
        else atlas.var_columns.rows(view.genes.positions),
        uns={layout.UNS: _sources(atlas, view)},
    )


def _sources(atlas: Atlas, view: CountsView) -> dict[str, Any]:
    """Which source measured which of the genes: a zero means nothing elsewhere."""
    columns = slice(None) if view.genes is None else view.genes.positions
    measured = atlas.measured[:, columns]
    return {layout.SOURCE_NAMES: np.array(atlas.source_names, object), layout.MEASURED: measured}
