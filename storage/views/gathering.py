"""Counts of a view, gathered in memory piece by piece, within a limit."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tigon.storage.errors import MemoryLimitError
from tigon.storage.progress import Progress
from tigon.storage.reading.executing import BUDGET_BYTES
from tigon.storage.sources.matrices.matrix import SparseRows
from tigon.storage.space import check_limit, tell_mib
from tigon.storage.views.counts_view import CountsView, to_csr
from tigon.storage.views.growing import GrowingArray

if TYPE_CHECKING:
    from scipy import sparse

    from tigon.storage.atlas import Atlas

_PIECE_BYTES = 64 << 20
_MOST_PIECE_CELLS = 1 << 16

_CHOOSING_BYTES = 24
"""Of an entry while genes are chosen and put in another order."""

_RUN_BYTES = 4096
"""Of the plan to read a cell that stands alone."""

_SPARE = 1 + 1 / 16
"""Room that is taken for counts whose number is expected, but not known."""


def gather(
    atlas: Atlas, view: CountsView, memory_limit: int | None, progress: Progress
) -> sparse.csr_matrix[Any]:
    """The counts in memory.

    Parameters
    ----------
    atlas
        What the view is of.
    view
        Cells and genes.
    memory_limit
        Most bytes that this may take; None for what is free on the machine.
    progress
        Called after every piece.

    Raises
    ------
    MemoryLimitError
        They do not fit.

    Notes
    -----
    One pass over the chosen cells. Memory: the result, and up to an eighth more where
    the number of counts was not foreseen; a piece of about 64 MiB with all genes; and
    the chunks under way, up to 64 MiB. What exceeds the limit is refused before it is
    read where the number of counts can be foreseen, else as soon as it does.
    """
    n_cells, n_columns = view.shape
    cost = Cost.of(atlas, view)
    limit = _Limit.of(memory_limit)
    expected = expected_entries(atlas, view)
    if expected is not None and view.genes is None:
        limit.check(cost.total(expected), view, "" if view.cells is None else "about ")
    room = 0 if expected is None else round(expected * _SPARE)
    indptr = np.zeros(n_cells + 1, np.int64)
    indices = GrowingArray(np.dtype(np.int32), room)
    values = GrowingArray(view.dtype, room)
    for start in range(0, n_cells, cost.piece_cells):
        stop = min(start + cost.piece_cells, n_cells)
        rows = view.read(start, stop)
        n_seen = len(indices) + len(rows.indices)
        if cost.total(n_seen) > limit.n_bytes:
            limit.check(cost.total(n_seen * n_cells / stop), view, "about ")
        indptr[start + 1 : stop + 1] = len(indices) + rows.indptr[1:]
        indices.append(rows.indices)
        values.append(rows.values)
        progress("reading cells", stop, n_cells)
    rows = SparseRows(indptr, indices.finish(), values.finish())
    return to_csr(rows, n_columns, view.dtype)


def expected_entries(atlas: Atlas, view: CountsView) -> float | None:
    """Counts above zero, as many as the average cell and gene have; None if not known."""
    if atlas.n_nonzeros is None:
        return None
    return atlas.n_nonzeros * (view.shape[0] / atlas.n_cells) * (view.shape[1] / atlas.n_genes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """What gathering takes.

    Attributes
    ----------
    piece_cells
        Cells that are read at a time.
    fixed_bytes
        Of a piece and of row starts.
    entry_bytes
        Of a count in the result.
    """

    piece_cells: int
    fixed_bytes: int
    entry_bytes: int

    @classmethod
    def of(cls, atlas: Atlas, view: CountsView) -> Cost:
        """The cost of a view."""
        piece_cells = _MOST_PIECE_CELLS
        while piece_cells > 1 and atlas.estimate_block_bytes(piece_cells) > _PIECE_BYTES:
            piece_cells //= 2
        n_cells = min(piece_cells, view.shape[0])
        piece = atlas.estimate_block_bytes(n_cells)
        if view.genes is not None:
            piece += _CHOOSING_BYTES * atlas.most_entries(n_cells)
        if view.cells is not None:
            piece += _RUN_BYTES * n_cells
        itemsize = atlas.values_dtype.itemsize + 4
        under_way = min(BUDGET_BYTES, itemsize * atlas.most_entries(atlas.n_cells))
        return cls(
            piece_cells=piece_cells,
            fixed_bytes=piece + under_way + 8 * (view.shape[0] + 1),
            entry_bytes=view.dtype.itemsize + 4,
        )

    def total(self, n_entries: float) -> float:
        """Bytes at the peak, for so many counts."""
        return self.fixed_bytes + n_entries * self.entry_bytes * GrowingArray.MOST_ROOM


@dataclass(frozen=True, slots=True)
class _Limit:
    n_bytes: int
    is_asked_for: bool

    @classmethod
    def of(cls, memory_limit: int | None) -> _Limit:
        import psutil

        check_limit(memory_limit)
        if memory_limit is not None:
            return cls(memory_limit, is_asked_for=True)
        return cls(psutil.virtual_memory().available, is_asked_for=False)

    def check(self, n_bytes: float, view: CountsView, about: str) -> None:
        """Refuse what takes more."""
        if n_bytes <= self.n_bytes:
            return
        whose = "the limit is" if self.is_asked_for else "what is free here is"
        raise MemoryLimitError(
            f"counts of {view.shape[0]:,} cells x {view.shape[1]:,} genes take {about}"
            f"{tell_mib(round(n_bytes))} in memory: {whose} {tell_mib(self.n_bytes)}; choose fewer "
            "cells or genes, set memory_limit, or read lazily with backed=True"
        )
