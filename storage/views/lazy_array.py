"""An atlas as a Dask array of sparse blocks."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from scipy import sparse

from tigon.storage.errors import InputError
from tigon.storage.minibatches.genes import Genes
from tigon.storage.views.blocks import block_sizes
from tigon.storage.views.counts_view import CountsView, view_dtype
from tigon.storage.views.reopening import Place, reference
from tigon.storage.views.selection import positions_of

if TYPE_CHECKING:
    import dask.array

    from tigon.storage.atlas import Atlas


def to_dask(
    atlas: Atlas,
    block_cells: int | None = None,
    *,
    cells: Any = None,
    genes: Any = None,
    dtype: DTypeLike | None = np.float32,
) -> dask.array.Array:
    """Counts as a Dask array whose blocks are SciPy CSR matrices; see ``Atlas.to_dask``."""
    da = _import_dask_array()
    if block_cells is not None and block_cells < 1:
        raise InputError(f"block_cells is {block_cells}: a block has at least one cell")
    view = view_of(atlas, cells, genes, dtype)
    n_chosen = None if view.cells is None else len(view.cells)
    chunks = (block_sizes(atlas, block_cells, n_chosen), (view.shape[1],))
    array: dask.array.Array = da.from_array(
        view,
        chunks=chunks,
        name=_name(view, chunks),
        asarray=False,
        fancy=False,
        # A whole atlas is a path; what was chosen is kept once, not in every task.
        inline_array=view.cells is None and view.genes is None,
        meta=sparse.csr_matrix((0, 0), dtype=view.dtype),
    )
    return array


def view_of(atlas: Atlas, cells: Any, genes: Any, dtype: DTypeLike | None) -> CountsView:
    """The counts that were chosen, not yet read.

    Raises
    ------
    InputError
        A cell or gene is not there or asked for twice, or the type is not one of counts.
    """
    chosen_cells = positions_of(cells, atlas.n_cells, lambda: atlas.obs_columns.index, "cell")
    chosen_genes = positions_of(genes, atlas.n_genes, lambda: atlas.var.index, "gene")
    return CountsView(
        atlas=reference(atlas),
        shape=(
            atlas.n_cells if chosen_cells is None else len(chosen_cells),
            atlas.n_genes if chosen_genes is None else len(chosen_genes),
        ),
        dtype=view_dtype(dtype, atlas.values_dtype),
        cells=chosen_cells,
        genes=None if chosen_genes is None else _genes_at(chosen_genes, atlas.n_genes),
    )


def _genes_at(positions: NDArray[np.int64], n_genes: int) -> Genes:
    place = np.full(n_genes, -1, np.int32)
    place[positions] = np.arange(len(positions), dtype=np.int32)
    return Genes(positions, place)


def _name(view: CountsView, chunks: Any) -> str:
    """The same for the same counts, so that Dask reads them once; else never the same."""
    from dask.base import tokenize

    if not isinstance(view.atlas, Place) or view.atlas.digest is None:
        return f"tigon-{uuid.uuid4().hex}"
    genes = None if view.genes is None else view.genes.positions
    place = (view.atlas.path, view.atlas.digest, view.shape)
    return f"tigon-{tokenize(place, view.dtype.str, view.cells, genes, chunks)}"


def _import_dask_array() -> Any:
    try:
        import dask.array
    except ImportError as error:
        raise InputError(
            f"Dask is not installed ({error.name}): it is an extra of Tigon; install tigon[dask]"
        ) from error
    return dask.array
