"""The counts of a run's cells and genes, found again in the atlas it was made from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.storage.block import Block
from tigon.storage.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from tigon.storage.atlas import Atlas
    from tigon.storage.runs.run import Run

_CELLS = 8192


@dataclass(frozen=True, slots=True)
class RunCounts:
    """Reads an atlas's counts of a run's cells, in the order of the run.

    Attributes
    ----------
    atlas
        Where the counts are.
    cells
        Place in the atlas of each cell of the run, ascending, int64, shape (n,).
    genes
        Place in the atlas of each gene of the run, int64, shape (m,).
    """

    atlas: Atlas
    cells: NDArray[np.int64]
    genes: NDArray[np.int64]

    @classmethod
    def find(cls, run: Run, atlas: Atlas) -> Self:
        """Find the run's cells and genes in ``atlas`` by name.

        Raises
        ------
        InputError
            The atlas lacks some of them, or has the cells in another order.
        """
        cells = _positions("cells", atlas.obs.index, run.obs.index)
        if (np.diff(cells) < 0).any():
            raise InputError(
                "the atlas has the cells of the run in another order: they must be in the same; "
                "open what the run was made from"
            )
        return cls(atlas, cells, _positions("genes", atlas.var.index, run.var.index))

    def read(self, start: int, stop: int) -> Block:
        """Counts of cells ``start`` to ``stop`` of the run, over the genes of the atlas.

        Notes
        -----
        Values are float32. Holds these counts and those of 8192 cells of the atlas.
        """
        wanted = self.cells[start:stop]
        cuts = np.flatnonzero(np.diff(wanted // _CELLS)) + 1
        pieces = [self._take(cells) for cells in np.split(wanted, cuts)]
        rows = sparse.vstack(pieces, format="csr")
        return Block(
            start=start,
            indptr=rows.indptr.astype(np.int64),
            indices=rows.indices,
            values=rows.data,
            n_genes=self.atlas.n_genes,
        )

    def _take(self, cells: NDArray[np.int64]) -> sparse.csr_array:
        first = int(cells[0])
        return self.atlas.read(first, int(cells[-1]) + 1).to_scipy()[cells - first]


def _positions(what: str, there: pd.Index, wanted: pd.Index) -> NDArray[np.int64]:
    positions = there.get_indexer(wanted)
    absent = positions < 0
    if absent.any():
        raise InputError(
            f"{int(absent.sum()):,} of {len(wanted):,} {what} of the run are not in the atlas "
            f"(the first is {wanted[int(absent.argmax())]!r}): open what the run was made from, "
            "with the same options"
        )
    return np.asarray(positions, np.int64)
