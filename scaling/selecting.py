"""From a block of the atlas to the kept cells and the selected genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tigon.storage.counts import index_dtype
from tigon.storage.packs.pack import PackBlock
from tigon.storage.packs.writer import take_rows

if TYPE_CHECKING:
    from tigon.storage.block import Block


@dataclass(frozen=True, slots=True)
class GeneSelection:
    """Where each gene of an atlas stands among the selected ones.

    Attributes
    ----------
    lookup
        int64, shape (n_genes of the atlas,); -1 for a gene that is not selected.
    n_selected
        Genes that the selection counts, found in the atlas or not.
    """

    lookup: NDArray[np.int64]
    n_selected: int

    @classmethod
    def of(cls, genes: NDArray[np.int64], n_genes: int) -> Self:
        """Select atlas genes ``genes`` (m,); a negative one is not in the atlas."""
        lookup = np.full(n_genes, -1, np.int64)
        found = genes >= 0
        lookup[genes[found]] = np.flatnonzero(found)
        return cls(lookup, len(genes))


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
    entries, indptr = take_rows(block.indptr, kept)
    genes = selection.lookup[block.indices[entries]]
    selected = genes >= 0
    before = np.concatenate([np.zeros(1, np.int64), np.cumsum(selected)])
    weights = np.zeros(len(kept))
    np.divide(1.0, totals[kept], out=weights, where=totals[kept] > 0)
    return PackBlock(
        positions=kept + block.start,
        datasets=datasets[kept],
        weights=weights.astype(np.float32),
        indptr=before[indptr],
        genes=genes[selected].astype(index_dtype(selection.n_selected)),
        counts=block.values[entries[selected]],
    )
