"""Passes over a matrix that lies whole in the memory of one device, such as a GPU.

The kernels are chosen by the library of the arrays. Sums and scores come back as NumPy
arrays; what is done with them is done by the processor, as for matrices that are streamed.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.products import spmm
from tigon.kernels.sketches import GeneProducts, sketch, sparse_gram
from tigon.scaling.pca.passes import Normalisation, check_totals
from tigon.scaling.pca.sampling import SAMPLE_CELLS
from tigon.storage.progress import Progress, silent

Float64 = NDArray[np.float64]

_SCORED = 65_536
"""Cells whose scores come back at a time."""


class ResidentPasses:
    """As :class:`tigon.scaling.pca.passes.Passes`, of a CSR matrix that is held.

    Parameters
    ----------
    matrix
        Cells by genes: CSR of cupyx.scipy.sparse, or of SciPy.
    normalisation
        What is done to its entries: once, on a copy of them.
    progress
        Who is told.

    Attributes
    ----------
    shape
        Cells and genes.
    n_passes, bytes_read
        Products so far, and the bytes of entries that they read.
    """

    def __init__(
        self, matrix: Any, normalisation: Normalisation, progress: Progress = silent
    ) -> None:
        self._matrix = normalised(matrix, normalisation)
        self._progress = progress
        self.shape: tuple[int, int] = (int(matrix.shape[0]), int(matrix.shape[1]))
        self.n_passes, self.bytes_read = 0, 0

    def moments(self) -> GeneProducts:
        """Sums of the genes and of their squares; the product is of no matter."""
        return self.sketch(np.zeros((self.shape[1], 1)))

    def sketch(self, Q: Float64, **figures: float) -> GeneProducts:
        """Y^T (Y Q) of all cells, shape (m, l), and moments."""
        self._count(figures)
        return _on_host(sketch(self._matrix, np.asarray(Q, like=self._matrix.data)))

    def gram(self) -> GeneProducts:
        """Y^T Y of all cells, shape (m, m), and moments."""
        self._count({})
        return _on_host(sparse_gram(self._matrix))

    def scores(self, onto: Float64, offset: Float64) -> Iterator[NDArray[np.float32]]:
        """Rows of Y Q' - offset, float32, a stretch of cells after the other."""
        self._count({})
        there = np.asarray(onto, np.float32, like=self._matrix.data)
        for start in range(0, self.shape[0], _SCORED):
            product = spmm(self._matrix[start : start + _SCORED], there)
            yield (to_host(product) - offset).astype(np.float32)

    def sampled(self, rng: np.random.Generator) -> ResidentPasses:
        """Passes over some of the cells."""
        chosen = np.sort(rng.permutation(self.shape[0])[:SAMPLE_CELLS])
        rows = self._matrix[np.asarray(chosen, like=self._matrix.indptr)]
        return ResidentPasses(rows, Normalisation())

    def _count(self, figures: dict[str, float]) -> None:
        self.n_passes += 1
        self.bytes_read += int(self._matrix.data.nbytes + self._matrix.indices.nbytes)
        n_cells = self.shape[0]
        self._progress(f"sums over cells, pass {self.n_passes}", n_cells, n_cells, **figures)


def is_resident(source: Any) -> bool:
    """Whether it is a matrix that lies on a GPU."""
    return type(source).__module__.startswith("cupyx.")


def normalised(matrix: Any, normalisation: Normalisation) -> Any:
    """The matrix with its entries transformed, where it lies; itself if nothing is to be done.

    Raises
    ------
    InputError
        Entries below zero, as :meth:`tigon.scaling.pca.passes.Normalisation.transform` has it.
    """
    if normalisation.target_sum is None and not normalisation.log1p:
        return matrix
    values = matrix.data.astype(np.float64)
    normalisation.check_entries(values)
    if normalisation.target_sum is not None:
        totals = _totals(matrix, values)
        if len(values) and values.min() < 0:
            check_totals(totals, _totals(abs(matrix), values))
        scale = normalisation.target_sum / np.where(totals > 0, totals, np.inf)
        values *= np.repeat(scale, to_host(np.diff(matrix.indptr)).tolist())
    if normalisation.log1p:
        values = np.log1p(values)
    arrays = values.astype(np.float32), matrix.indices, matrix.indptr
    return type(matrix)(arrays, shape=matrix.shape)


def _totals(matrix: Any, like: Any) -> Any:
    """Sums of each cell, float64, shape (n,), where the matrix lies."""
    return np.asarray(matrix.sum(axis=1), like=like).ravel().astype(np.float64)


def to_host(array: Any) -> NDArray[Any]:
    """A NumPy array of one that lies anywhere."""
    found: NDArray[Any] = array.get() if hasattr(array, "get") else array
    return found


def _on_host(found: GeneProducts) -> GeneProducts:
    sums = (to_host(found.product), to_host(found.sums), to_host(found.squares))
    return GeneProducts(*sums, found.n_cells)
