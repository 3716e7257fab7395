"""The pack: selected genes only, cells shuffled, counts raw; streamed every epoch.

A folder of flat little-endian files, derived and disposable:

- ``cells.bin``: one record a cell, in pack order (``CELL``);
- ``indptr.bin``: int64, n_cells + 1;
- ``genes.bin``, ``counts.bin``: one entry a non-zero, in the dtypes that
  ``pack.json`` names, 4 bytes together where counts fit 16 bits;
- ``pack.json``: shapes and dtypes; written last.

Flat files rather than Zarr: a mini-batch is four contiguous reads at the speed
of the page cache, and nothing is decoded.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.errors import InputError

CELL = np.dtype([("position", "<i8"), ("dataset", "<i4"), ("weight", "<f4")])
"""Atlas position, dataset number and weight (one over the total count) of a cell."""


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
        Selected-gene positions, uint16 or uint32, shape (nnz,).
    counts
        Raw counts, uint16, uint32 or float32, shape (nnz,).
    """

    positions: NDArray[np.int64]
    datasets: NDArray[np.int32]
    weights: NDArray[np.float32]
    indptr: NDArray[np.int64]
    genes: NDArray[np.unsignedinteger]
    counts: NDArray[np.unsignedinteger | np.floating]


class Pack:
    """A finished pack, opened for reading.

    Parameters
    ----------
    folder
        Where :class:`tigon.storage.packs.writer.PackWriter` put it.

    Raises
    ------
    InputError
        The folder holds no finished pack.
    """

    def __init__(self, folder: Path) -> None:
        try:
            described = json.loads((folder / "pack.json").read_text())
        except (OSError, ValueError) as error:
            raise InputError(f"{folder} holds no finished pack ({error}): build it anew") from error
        self.folder = folder
        self.n_cells = int(described["n_cells"])
        self.n_genes = int(described["n_genes"])
        self._genes = np.dtype(described["genes"])
        self._counts = np.dtype(described["counts"])

    def read(self, start: int, stop: int) -> PackBlock:
        """Cells ``start`` to ``stop`` of the pack, in four reads."""
        cells = self._array("cells.bin", CELL, start, stop)
        indptr = self._array("indptr.bin", np.dtype("<i8"), start, stop + 1)
        first, last = int(indptr[0]), int(indptr[-1])
        genes = self._array("genes.bin", self._genes, first, last)
        # Kernels trust what they are given: a stray position would reach beyond their arrays.
        if (np.diff(indptr) < 0).any() or genes.max(initial=0) >= self.n_genes:
            raise InputError(
                f"{self.folder} is damaged (cells {start} to {stop} name genes beyond the "
                f"{self.n_genes} there are, or end before they begin): run again to rebuild it"
            )
        return PackBlock(
            cells["position"].copy(),
            cells["dataset"].copy(),
            cells["weight"].copy(),
            indptr - first,
            genes,
            self._array("counts.bin", self._counts, first, last),
        )

    def _array(self, name: str, dtype: np.dtype[Any], start: int, stop: int) -> NDArray[Any]:
        count = stop - start
        array = np.fromfile(self.folder / name, dtype, count=count, offset=start * dtype.itemsize)
        if len(array) != count:
            raise InputError(
                f"{self.folder / name} ends early (entry {start + len(array)} of {stop}): "
                "the pack was cut short; run again to rebuild it"
            )
        return array
