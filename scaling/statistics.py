"""The first pass: totals of cells and moments of genes, per dataset.

Depth-normalised counts are x = count / total of the cell. Per dataset and gene
the pass sums x and x^2 over the kept cells; per cell it keeps the total, the
number of detected genes and the mitochondrial and ribosomal shares. Blocks are cut at fixed
cell positions and folded in order, in float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.moments import CellSums, GeneSums, cell_sums, gene_sums
from tigon.scaling.cells import CellFilter
from tigon.scaling.datasets import Datasets, distinct_pairs
from tigon.storage.gene_kinds import COUNTED, MITOCHONDRIAL, RIBOSOMAL, kinds_of

if TYPE_CHECKING:
    from tigon.storage import Atlas
    from tigon.storage.block import Block

BLOCK_CELLS = 2048
"""Cells per task; fixed, so that sums do not depend on storage or threads."""

TOGETHER, TOGETHER_BYTES = 8, 32 * 2**20
"""Most tasks that travel together on a cluster, and most bytes of their results."""


def blocks_together(result_bytes: int) -> int:
    """Blocks whose results, of so many bytes each, come back together."""
    return max(1, min(TOGETHER, TOGETHER_BYTES // max(1, result_bytes)))


def together_bytes(result_bytes: int) -> int:
    """Of the results that come back together, each of so many bytes at most."""
    return max(result_bytes, min(TOGETHER * result_bytes, TOGETHER_BYTES))


def moments_bytes(n_datasets: int, n_genes: int) -> int:
    """Of the sums of a block over the genes, for so many datasets in it."""
    return 20 * n_datasets * n_genes


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the first pass finds.

    Attributes
    ----------
    totals
        Count total of each cell, float64, shape (n_cells,).
    n_detected
        Genes detected in each cell, int32, shape (n_cells,).
    mitochondrial
        Share of a cell's counts in mitochondrial genes, float32, shape (n_cells,).
    ribosomal
        The same of the genes of ribosomal proteins.
    kept
        Cells that pass the filters, bool, shape (n_cells,).
    inverse_totals
        Sum over kept cells of 1 / total, per dataset, float64, shape (n_datasets,).
    first, second
        Sums of x and x^2 over kept cells, float64, shape (n_datasets, n_genes).
    n_nonzeros
        Kept cells in which a gene is detected, int32, shape (n_datasets, n_genes).
    largest
        Largest count.
    integer
        Whether every count is an integer.
    """

    totals: NDArray[np.float64]
    n_detected: NDArray[np.int32]
    mitochondrial: NDArray[np.float32]
    ribosomal: NDArray[np.float32]
    kept: NDArray[np.bool_]
    inverse_totals: NDArray[np.float64]
    first: NDArray[np.float64]
    second: NDArray[np.float64]
    n_nonzeros: NDArray[np.int32]
    largest: float
    integer: bool

    @property
    def n_cells_detected(self) -> NDArray[np.int64]:
        """Kept cells in which a gene is detected, shape (n_genes,)."""
        total: NDArray[np.int64] = self.n_nonzeros.sum(axis=0, dtype=np.int64)
        return total

    def merged(self, old: Datasets, new: Datasets) -> Statistics:
        """The same with datasets renumbered (and some pooled or dropped) as in ``new``."""
        if new is old:
            return self
        first = np.zeros((len(new.names), self.first.shape[1]))
        second = np.zeros_like(first)
        n_nonzeros = np.zeros(first.shape, np.int32)
        inverse = np.zeros(len(new.names))
        for was, now in distinct_pairs(old.codes, new.codes):
            first[now] += self.first[was]
            second[now] += self.second[was]
            n_nonzeros[now] += self.n_nonzeros[was]
            inverse[now] += self.inverse_totals[was]
        values = {name: getattr(self, name) for name in self.__slots__}
        values |= {
            "first": first,
            "second": second,
            "n_nonzeros": n_nonzeros,
            "inverse_totals": inverse,
            "kept": self.kept & (new.codes >= 0),
        }
        return Statistics(**values)


@dataclass(frozen=True, slots=True)
class CountedCells:
    """What the totals of a block of cells add to the statistics.

    Attributes
    ----------
    start
        Its first cell.
    cells
        Sums of each of its n cells.
    kept
        Which of them are kept, bool, shape (n,).
    touched
        Datasets that they are of, int64, shape (t,).
    inverse_totals
        Sums over the kept ones, by these datasets.
    """

    start: int
    cells: CellSums
    kept: NDArray[np.bool_]
    touched: NDArray[np.int64]
    inverse_totals: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class BlockSums(CountedCells):
    """What a block of cells adds to the statistics, its counts included.

    Attributes
    ----------
    genes
        Sums over the kept cells, by the datasets that are touched.
    largest, integer
        As in :class:`Statistics`.
    """

    genes: GeneSums
    largest: float
    integer: bool


@dataclass(frozen=True, slots=True)
class BlockCounting:
    """How a block is counted, wherever its task runs.

    Attributes
    ----------
    codes
        Dataset of each cell of the atlas, int32, shape (n_cells,); -1 for one left out.
    cell_filter
        Which of the others to keep.
    kinds
        Kind of each gene, uint8, shape (n_genes,).
    """

    codes: NDArray[np.int32]
    cell_filter: CellFilter
    kinds: NDArray[np.uint8]

    @classmethod
    def of(cls, atlas: Atlas, datasets: Datasets, cell_filter: CellFilter) -> Self:
        """Of the cells and genes of an atlas."""
        return cls(datasets.codes, cell_filter, kinds_of(atlas.var_columns.index))

    def cell_sums(self, block: Block) -> CellSums:
        """Sums of each cell of a block."""
        return cell_sums(block.indptr, block.indices, block.values, self.kinds, COUNTED)

    def kept(self, start: int, cells: CellSums) -> NDArray[np.bool_]:
        """Which of the cells from ``start`` on are kept, shape (n,)."""
        codes = self.codes[start : start + len(cells.totals)]
        kept: NDArray[np.bool_] = (codes >= 0) & self.cell_filter.passes(cells)
        return kept

    def count_cells(self, start: int, cells: CellSums) -> CountedCells:
        """What the totals of the cells of a block add to the statistics."""
        kept = self.kept(start, cells)
        codes = self.codes[start : start + len(kept)]
        touched, local = np.unique(codes[kept], return_inverse=True)
        weights = _weights(cells)[kept]
        inverse = np.bincount(local, weights, minlength=len(touched)).astype(float)
        return CountedCells(start, cells, kept, touched.astype(np.int64), inverse)

    def count(self, block: Block) -> BlockSums:
        """What a block adds to the statistics."""
        found = self.count_cells(block.start, self.cell_sums(block))
        codes = self.codes[block.start : block.start + block.n_cells]
        rows = np.full(block.n_cells, -1, np.int64)
        rows[found.kept] = np.searchsorted(found.touched, codes[found.kept])
        shape, weights = (len(found.touched), block.n_genes), _weights(found.cells)
        values = block.values
        return BlockSums(
            found.start,
            found.cells,
            found.kept,
            found.touched,
            found.inverse_totals,
            genes=gene_sums(block.indptr, block.indices, values, weights, rows, shape),
            largest=float(values.max(initial=0)),
            integer=values.dtype.kind != "f" or bool((values % 1 == 0).all()),
        )

    @property
    def most_datasets(self) -> int:
        """Datasets that a block has at most."""
        starts = range(0, len(self.codes), BLOCK_CELLS)
        return max(len(np.unique(self.codes[start : start + BLOCK_CELLS])) for start in starts)


def _weights(cells: CellSums) -> NDArray[np.float64]:
    """One over each cell's total, and zero for an empty cell."""
    return np.divide(1.0, cells.totals, out=np.zeros(len(cells.totals)), where=cells.totals > 0)


class Folding:
    """Statistics of the blocks that were added, in their order.

    Parameters
    ----------
    n_cells, n_datasets, n_genes
        Of the atlas, and of its datasets.
    """

    def __init__(self, n_cells: int, n_datasets: int, n_genes: int) -> None:
        self._total = _empty(n_cells, n_datasets, n_genes)
        self._largest, self._integer = 0.0, True

    def add_cells(self, counted: CountedCells) -> None:
        """Add what follows from the totals of a block's cells."""
        total, cells = self._total, counted.cells
        here = slice(counted.start, counted.start + len(counted.kept))
        total["totals"][here] = cells.totals
        total["n_detected"][here] = cells.n_genes
        shares = cells.of_kinds / np.maximum(cells.totals, 1e-300)[:, None]
        total["mitochondrial"][here] = shares[:, MITOCHONDRIAL - 1]
        total["ribosomal"][here] = shares[:, RIBOSOMAL - 1]
        total["kept"][here] = counted.kept
        total["inverse_totals"][counted.touched] += counted.inverse_totals

    def add(self, sums: BlockSums) -> None:
        """Add a block."""
        self.add_cells(sums)
        self._total["first"][sums.touched] += sums.genes.first
        self._total["second"][sums.touched] += sums.genes.second
        self._total["n_nonzeros"][sums.touched] += sums.genes.n_nonzeros
        self._largest = max(self._largest, sums.largest)
        self._integer = self._integer and sums.integer

    def put_genes(
        self,
        first: NDArray[np.float64],
        second: NDArray[np.float64],
        n_nonzeros: NDArray[np.int32],
        largest: float,
    ) -> None:
        """Take sums of all cells over the genes, as in :class:`Statistics`; counts are whole."""
        self._total |= {"first": first, "second": second, "n_nonzeros": n_nonzeros}
        self._largest = largest

    def statistics(self) -> Statistics:
        """What was found."""
        return Statistics(**self._total, largest=self._largest, integer=self._integer)


def _empty(n_cells: int, n_datasets: int, n_genes: int) -> dict[str, NDArray[Any]]:
    return {
        "totals": np.zeros(n_cells),
        "n_detected": np.zeros(n_cells, np.int32),
        "mitochondrial": np.zeros(n_cells, np.float32),
        "ribosomal": np.zeros(n_cells, np.float32),
        "kept": np.zeros(n_cells, bool),
        "inverse_totals": np.zeros(n_datasets),
        "first": np.zeros((n_datasets, n_genes)),
        "second": np.zeros((n_datasets, n_genes)),
        "n_nonzeros": np.zeros((n_datasets, n_genes), np.int32),
    }
