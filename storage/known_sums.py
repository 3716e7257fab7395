"""Sums over cells and genes that an atlas brings with it, see :mod:`tigon.storage.sums`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage import layout
from tigon.storage.errors import InputError, TigonError
from tigon.storage.sources.matrices.csr import CsrMatrix
from tigon.storage.sources.matrices.matrix import Array, Lock, reading

if TYPE_CHECKING:
    import zarr

_TYPES = {"first": np.float64, "second": np.float64, "cells": np.int32}
"""Of the sums by source and gene."""


@dataclass(frozen=True, slots=True)
class SumsByCell:
    """Of consecutive cells, each of shape (n,) unless it says otherwise.

    Attributes
    ----------
    totals
        Sum of the counts, float64.
    n_genes
        Genes with a count above zero, int64.
    of_kinds
        Sums of the counts in genes of each kind, float64, shape (n, COUNTED).
    """

    totals: NDArray[np.float64]
    n_genes: NDArray[np.int64]
    of_kinds: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class SumsBySource:
    """Of depth-normalised counts x, by source, each of shape (n, n_genes).

    Attributes
    ----------
    first, second
        Sums of x and of x^2, float64.
    cells
        Cells with a count above zero, int32.
    """

    first: NDArray[np.float64]
    second: NDArray[np.float64]
    cells: NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, slots=True)
class KnownSums:
    """The sums of an atlas, read when they are asked for.

    Attributes
    ----------
    largest
        Largest count.
    kinds
        Checksum of which gene is of which kind, see :func:`tigon.storage.gene_kinds.checksum_of`.
    sources
        Checksum of which cell is of which source, see
        :func:`tigon.storage.sums.checksum_of_sources`: a table of cells may have been changed.
    matrix
        The counts.
    by_cell
        Totals and sums over kinds of genes as they are stored, float64, shape (n_cells,) each.
    load_genes
        Reads sums of a name (``first``, ``second`` or ``cells``) of some sources, shape
        (n, n_genes).
    lock
        Held while they are read.
    """

    largest: float
    kinds: int
    sources: int
    matrix: CsrMatrix
    by_cell: Sequence[Array]
    load_genes: Callable[[str, Sequence[int]], NDArray[Any]]
    lock: Lock

    def of_cells(self, start: int, stop: int) -> SumsByCell:
        """Of cells ``start`` to ``stop``.

        Raises
        ------
        InputError
            A file of the atlas is missing or damaged.
        """
        with reading(self.matrix.where, start, stop), self.lock:
            totals, *of_kinds = (np.asarray(array[start:stop]) for array in self.by_cell)
        found = SumsByCell(totals, self.matrix.row_lengths(start, stop), np.column_stack(of_kinds))
        # A file that is lost reads as -1.
        if not all(a.shape == (stop - start,) and (a >= 0).all() for a in (totals, *of_kinds)):
            raise self._lost(f"sums of cells {start:,} to {stop:,}")
        return found

    def of_genes(self, sources: Sequence[int]) -> SumsBySource:
        """Of all genes in the cells of some sources, in the order given.

        Raises
        ------
        InputError
            A file of the atlas is missing or damaged.
        """
        try:
            with self.lock:
                first, second, cells = (self.load_genes(name, sources) for name in _TYPES)
        except (TigonError, MemoryError):
            raise
        except Exception as error:  # whatever a codec, a file system or a server comes up with
            raise self._lost("sums of genes") from error
        if min(sums.min(initial=0) for sums in (first, second, cells)) < 0:
            raise self._lost("sums of genes")
        return SumsBySource(first, second, cells)

    def _lost(self, what: str) -> InputError:
        return InputError(
            f"{self.matrix.where}: {what} are lost: a file of the atlas is missing or damaged; "
            "copy it again or ingest it again"
        )


def known_sums(
    X: zarr.Group, matrix: CsrMatrix, lock: Lock, open_array: Callable[[Any], Array]
) -> KnownSums | None:
    """The sums beside the counts ``X`` of an atlas; None where it has not all of them."""
    mark = X.attrs[layout.MARK]
    assert isinstance(mark, dict)
    if "sources" not in mark:
        return None

    def load_genes(name: str, sources: Sequence[int]) -> NDArray[Any]:
        stored: Any = X[f"{layout.GENE_SUMS}/{name}"]
        row_of = {source: row for row, source in enumerate(sources)}
        found = np.empty((len(sources), stored.shape[1]), _TYPES[name])
        for start in range(0, stored.shape[0], stored.chunks[0]):  # a chunk is of several sources
            for source, sums in enumerate(stored[start : start + stored.chunks[0]], start):
                if source in row_of:
                    found[row_of[source]] = sums
        return found

    return KnownSums(
        largest=float(mark["largest"]),
        kinds=int(mark["kinds"]),
        sources=int(mark["sources"]),
        matrix=matrix,
        by_cell=[open_array(X[name]) for name in (layout.TOTALS, *layout.KIND_SUMS.values())],
        load_genes=load_genes,
        lock=lock,
    )
