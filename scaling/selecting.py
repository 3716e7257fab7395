"""From a block of the atlas to the kept cells and the selected genes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.picking import pick_entries
from tigon.storage.counts import index_dtype
from tigon.storage.packs.blocks import PackBlock

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

    @property
    def is_everything(self) -> bool:
        """Whether each gene of the atlas stands where it stands there."""
        return bool((self.selected & (self.places == np.arange(len(self.places)))).all())


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
    indptr, genes, counts = selected_entries(block, selection, datasets >= 0)
    return PackBlock(
        positions=kept + block.start,
        datasets=datasets[kept],
        weights=cell_weights(totals[kept]),
        indptr=indptr,
        genes=genes,
        counts=counts,
    )


def selected_entries(
    block: Block, selection: GeneSelection, kept: NDArray[np.bool_]
) -> tuple[
    NDArray[np.int64],
    NDArray[np.unsignedinteger],
    NDArray[np.unsignedinteger | np.floating],
]:
    """Where the entries of the ``kept`` (n_cells,) cells begin and end, their genes and counts.

    Returns
    -------
    indptr, genes, counts
        As of a :class:`tigon.storage.packs.blocks.PackBlock`.
    """
    entries = block.indptr, block.indices, block.values
    return pick_entries(*entries, kept, selection.selected, selection.places)


def cell_weights(totals: NDArray[np.float64]) -> NDArray[np.float32]:
    """One over each cell's total count, 0 for an empty cell, shape (n,)."""
    weights = np.zeros(len(totals))
    np.divide(1.0, totals, out=weights, where=totals > 0)
    return weights.astype(np.float32)
