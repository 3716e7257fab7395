"""Chosen cells and genes of an atlas as an AnnData."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import DTypeLike

from tigon.storage import layout
from tigon.storage.errors import MemoryLimitError
from tigon.storage.progress import Progress, silent
from tigon.storage.sources.matrices.matrix import SparseRows
from tigon.storage.space import tell_mib
from tigon.storage.views.counts_view import CountsView, to_csr
from tigon.storage.views.growing import GrowingArray
from tigon.storage.views.lazy_array import to_dask, view_of

if TYPE_CHECKING:
    from anndata import AnnData
    from scipy import sparse

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
        X = read_matrix(atlas, view, _Limit.of(memory_limit), progress)
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


_PIECE_BYTES = 64 << 20
_MOST_PIECE_CELLS = 1 << 16
_CHOOSING_BYTES = 24
"""Of an entry while genes are chosen and put in another order."""


@dataclass(frozen=True, slots=True)
class _Limit:
    n_bytes: int
    is_asked_for: bool

    @classmethod
    def of(cls, memory_limit: int | None) -> _Limit:
        import psutil

        if memory_limit is not None:
            return cls(memory_limit, is_asked_for=True)
        return cls(psutil.virtual_memory().available, is_asked_for=False)

    def refusal(self, shape: tuple[int, int], n_bytes: float, about: str) -> MemoryLimitError:
        needed = f"{about}{tell_mib(round(n_bytes))}"
        whose = "the limit is" if self.is_asked_for else "what is free here is"
        return MemoryLimitError(
            f"counts of {shape[0]:,} cells x {shape[1]:,} genes take {needed} in memory: "
            f"{whose} {tell_mib(self.n_bytes)}; choose fewer cells or genes, set "
            "memory_limit, or read lazily with backed=True"
        )


def read_matrix(
    atlas: Atlas, view: CountsView, limit: _Limit, progress: Progress
) -> sparse.csr_matrix[Any]:
    """The counts in memory, read piece by piece.

    Notes
    -----
    One pass over the chosen cells. Memory: the result, up to an eighth more, and a
    piece of about 64 MiB with all genes. What exceeds the limit is refused before it
    is read where the number of counts can be foreseen, else as soon as it does.
    """
    n_cells, _ = view.shape
    entry_bytes = (view.dtype.itemsize + 4) * 9 / 8  # see GrowingArray
    step = _piece_cells(atlas)
    base = _piece_bytes(atlas, view, min(step, n_cells)) + 8 * (n_cells + 1)
    if view.genes is None and atlas.n_nonzeros is not None:
        expected = base + atlas.n_nonzeros * n_cells / atlas.n_cells * entry_bytes
        if expected > limit.n_bytes:
            raise limit.refusal(view.shape, expected, "" if view.cells is None else "about ")
    indptr = np.zeros(n_cells + 1, np.int64)
    indices, values = GrowingArray(np.dtype(np.int32)), GrowingArray(view.dtype)
    for start in range(0, n_cells, step):
        stop = min(start + step, n_cells)
        rows = view.read(start, stop)
        seen = (len(indices) + len(rows.indices)) * entry_bytes
        if base + seen > limit.n_bytes:
            raise limit.refusal(view.shape, base + seen * n_cells / stop, "about ")
        indptr[start + 1 : stop + 1] = len(indices) + rows.indptr[1:]
        indices.append(rows.indices)
        values.append(rows.values)
        progress("reading cells", stop, n_cells)
    return to_csr(SparseRows(indptr, indices.finish(), values.finish()), view.shape[1])


def _piece_cells(atlas: Atlas) -> int:
    n_cells = _MOST_PIECE_CELLS
    while n_cells > 1 and atlas.estimate_block_bytes(n_cells) > _PIECE_BYTES:
        n_cells //= 2
    return n_cells


def _piece_bytes(atlas: Atlas, view: CountsView, n_cells: int) -> int:
    """Bytes of a piece as it is read and as it is given."""
    given = view.dtype.itemsize if view.genes is None else view.dtype.itemsize + _CHOOSING_BYTES
    return atlas.estimate_block_bytes(n_cells) + given * atlas.most_entries(n_cells)
