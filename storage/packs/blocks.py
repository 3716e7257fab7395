"""Consecutive cells of a pack in memory: as they are written, or with their entries put together.

A tile takes the counts of some cells several times over. Put together just before that, they
lie in the cache; those of a whole mini-batch would have gone to memory and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.packs.coding import Entries, decode

Tile = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any], NDArray[Any], NDArray[np.float32]]
"""Some cells as kernels take them: rows, and of these the arrays indptr, genes, counts, weights."""


@dataclass(frozen=True, slots=True)
class PackBlock:
    """Consecutive cells of a pack.

    Attributes
    ----------
    positions
        The cells' positions in the atlas, int64, shape (n,).
    datasets
        Their datasets, int32, shape (n,).
    weights
        One over each cell's total count, float32, shape (n,).
    indptr
        int64, shape (n + 1,); begins with 0.
    genes
        Selected-gene positions, uint16 or uint32, shape (nnz,); adjacent entries of
        one gene add up.
    counts
        Raw counts, uint16, uint32 or float32, shape (nnz,).
    """

    positions: NDArray[np.int64]
    datasets: NDArray[np.int32]
    weights: NDArray[np.float32]
    indptr: NDArray[np.int64]
    genes: NDArray[np.unsignedinteger]
    counts: NDArray[np.unsignedinteger | np.floating]

    def tile(self, rows: NDArray[np.int64]) -> Tile:
        """Some of the cells, shape (r,); nothing is copied."""
        return rows, self.indptr, self.genes, self.counts, self.weights


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """Consecutive cells as they are written.

    Attributes
    ----------
    positions, datasets, weights
        As of a :class:`PackBlock`.
    indptr
        int64, shape (n + 1,); begins with 0.
    gaps, counts
        Entries of :mod:`tigon.storage.packs.coding`: genes from the one before, unsigned, and
        raw counts or parts of them, unsigned or float32, shape (nnz,) each.
    n_genes
        Genes of the pack.
    place
        The pack, and which of its cells these are, for messages.
    """

    positions: NDArray[np.int64]
    datasets: NDArray[np.int32]
    weights: NDArray[np.float32]
    indptr: NDArray[np.int64]
    gaps: NDArray[np.unsignedinteger]
    counts: NDArray[np.unsignedinteger | np.floating]
    n_genes: int
    place: tuple[Path, str]

    def tile(self, rows: NDArray[np.int64]) -> Tile:
        """Some of the cells, shape (r,), with their entries put together.

        Raises
        ------
        InputError
            They are not what was written.
        """
        return np.arange(len(rows)), *self._entries(rows), self.weights[rows]

    def whole(self) -> PackBlock:
        """All cells with their entries put together.

        Raises
        ------
        InputError
            They are not what was written.
        """
        entries = self._entries(np.arange(len(self.datasets)))
        return PackBlock(self.positions, self.datasets, self.weights, *entries)

    def _entries(self, rows: NDArray[np.int64]) -> Entries:
        try:
            return decode(rows, self.indptr, self.gaps, self.counts, self.n_genes)
        except ValueError as error:
            raise damaged(*self.place, str(error)) from error


def damaged(pack: Path, cells: str, why: str) -> InputError:
    """What is said of cells that are not what was written."""
    return InputError(f"{pack} is damaged ({cells}: {why}): run again to rebuild it")
