"""A mini-batch: some cells of an atlas, as compressed sparse rows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.storage.exact import refuse_rounding


@dataclass(frozen=True, slots=True, eq=False)
class MiniBatch:
    """Counts of some cells.

    Attributes
    ----------
    step
        Which of the epoch's mini-batches it is, from 0.
    cells
        Positions in the atlas, int64, shape (n_cells,).
    datasets
        Stratum of each cell, the dataset unless others were asked for, int32, shape
        (n_cells,).
    indptr
        int64, shape (n_cells + 1,); begins with 0.
    indices
        Positions among the genes chosen, uint16 or uint32, shape (nnz,); ascending
        and unique within a cell.
    values
        Counts, uint16, uint32 or (non-integer atlases) float32, shape (nnz,). Never
        cast narrow unsigned counts inside arithmetic: products of uint16 overflow
        silently. The methods below give float32.
    n_genes
        Number of genes chosen.

    Notes
    -----
    ``indptr``, ``indices`` and ``values`` are NumPy arrays, or CuPy arrays where the
    mini-batches were asked for on a CUDA device; nobody else writes to them.
    """

    step: int
    cells: NDArray[np.int64]
    datasets: NDArray[np.int32]
    indptr: NDArray[np.int64]
    indices: NDArray[np.unsignedinteger]
    values: NDArray[np.unsignedinteger | np.floating]
    n_genes: int

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.cells)

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.n_cells, self.n_genes

    def to_scipy(self) -> sparse.csr_array:
        """The counts as a float32 SciPy CSR array (cells x genes); copies.

        Raises
        ------
        InputError
            A count is above 16,777,216, and float32 would round it.
        TypeError
            The mini-batch is on a CUDA device.
        """
        if not isinstance(self.indptr, np.ndarray):
            raise TypeError("the mini-batch is on a CUDA device: use to_cupy() or to_torch()")
        self.check_exact()
        indices, values = self.indices.astype(np.int32), self.values.astype(np.float32)
        # SciPy would make the indices as wide as indptr is.
        indptr = self.indptr.astype(np.int32 if len(values) < 1 << 31 else np.int64)
        return sparse.csr_array((values, indices, indptr), shape=self.shape)

    def to_cupy(self) -> Any:
        """The counts as a float32 CuPy CSR matrix on the current CUDA device.

        What crosses to the device are the narrow arrays; they are widened there.
        """
        from tigon.storage.minibatches.device import to_cupy

        self.check_exact()
        return to_cupy(self)

    def to_torch(self, layout: Literal["csr", "dense"] = "csr", device: Any = None) -> Any:
        """The counts as a float32 torch tensor (cells x genes).

        Parameters
        ----------
        layout
            "csr" for a sparse CSR tensor with int64 indices, "dense" for a dense one
            of 4 x n_cells x n_genes bytes.
        device
            A torch device; where the mini-batch is by default. What crosses to it are
            the narrow arrays; they are widened there.
        """
        from tigon.storage.minibatches.torch import to_torch

        self.check_exact()
        return to_torch(self, layout, device)

    def check_exact(self) -> None:
        """Refuse to make float32 of counts that it would round.

        Raises
        ------
        InputError
            A count is above 16,777,216.
        """
        way_out = "use the arrays indptr, indices and values of the mini-batch as they are"
        refuse_rounding(self.values, way_out)
