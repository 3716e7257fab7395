"""A block: a run of consecutive cells, as compressed sparse rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.storage.exact import refuse_rounding


@dataclass(frozen=True, slots=True)
class Block:
    """Counts of the cells ``start`` to ``start + n_cells`` of an atlas.

    Attributes
    ----------
    start
        Position of the first cell in the atlas.
    indptr
        int64, shape (n_cells + 1,); begins with 0.
    indices
        Gene positions, uint16, uint32 or int32, shape (nnz,); ascending and
        unique within a cell.
    values
        Counts, uint16, uint32 or (non-integer atlases) float32, shape (nnz,).
        Never cast narrow unsigned counts inside arithmetic: products of uint16
        overflow silently.
    n_genes
        Number of genes of the atlas.
    """

    start: int
    indptr: NDArray[np.int64]
    indices: NDArray[np.unsignedinteger | np.signedinteger]
    values: NDArray[np.unsignedinteger | np.floating]
    n_genes: int

    @property
    def n_cells(self) -> int:
        """Number of cells in the block."""
        return len(self.indptr) - 1

    def to_scipy(self) -> sparse.csr_array:
        """The block as a float32 SciPy CSR array (cells x genes); copies.

        Raises
        ------
        InputError
            A count is above 16,777,216, and float32 would round it.
        """
        way_out = (
            "use the arrays indptr, indices and values of the block, or to_anndata(dtype=None)"
        )
        refuse_rounding(self.values, way_out)
        indices = self.indices.astype(np.int32)
        values = self.values.astype(np.float32)
        return sparse.csr_array((values, indices, self.indptr), shape=(self.n_cells, self.n_genes))
