"""From a block of the atlas to the kept cells and the selected genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tigon.storage.counts import index_dtype
from tigon.storage.packs.pack import PackBlock

if TYPE_CHECKING:
    from tigon.storage.block import Block


@dataclass(frozen=True, slots=True)
class GeneSelection:
    """Where each gene of an atlas stands among the selected ones.

    Attributes
    ----------
    selected
        Whether a gene of the atlas is selected, bool, shape (n_genes of the atlas,).
    places
        Where it stands then, uint16 or uint32, same shape; 0 where it is not.
    """

    selected: NDArray[np.bool_]
    places: NDArray[np.unsignedinteger]

    @classmethod
    def of(cls, genes: NDArray[np.int64], n_genes: int) -> Self:
        """Select atlas genes ``genes`` (m,); a negative one is not in the atlas."""
        found = genes >= 0
        selected = np.zeros(n_genes, bool)
        selected[genes[found]] = True
        places = np.zeros(n_genes, index_dtype(len(genes)))
        places[genes[found]] = np.flatnonzero(found)
        return cls(selected, places)


def select(
    block: Block,
    selection: GeneSelection,
    codes: NDArray[np.int32],
    totals: NDArray[np.float64],
) -> PackBlock:
    """Kept cells and selected genes of a block.

    Parameters
    ----------
    block
        All genes of some cells.
    selection
        Which genes.
    codes
        Dataset of every cell of the atlas, shape (n_cells,); -1 leaves it out.
    totals
        Total counts of the block's cells, shape (at least block.n_cells,).

    Returns
    -------
    PackBlock
        With atlas positions; genes in selected order keep ascending within a
        cell when the selection ascends.
    """
    datasets = codes[block.start : block.start + block.n_cells]
    kept = np.flatnonzero(datasets >= 0)
    selected = selection.selected.take(block.indices)
    if len(kept) < block.n_cells:
        selected &= np.repeat(datasets >= 0, np.diff(block.indptr))
    entries = np.flatnonzero(selected)
    # Cells that are left out have no entries now: those of the others follow each other.
    starts = np.searchsorted(entries, block.indptr)
    weights = np.zeros(len(kept))
    np.divide(1.0, totals[kept], out=weights, where=totals[kept] > 0)
    return PackBlock(
        positions=kept + block.start,
        datasets=datasets[kept],
        weights=weights.astype(np.float32),
        indptr=np.append(starts[kept], len(entries)),
        genes=selection.places.take(block.indices.take(entries)),
        counts=block.values.take(entries),
    )
