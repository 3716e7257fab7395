"""Some of an atlas's genes, in the order asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.storage.counts import index_dtype
from tigon.storage.errors import InputError
from tigon.storage.sources.matrices.matrix import SparseRows

if TYPE_CHECKING:
    from tigon.storage.atlas import Atlas


@dataclass(frozen=True, eq=False)
class Genes:
    """Which genes are kept, and what each becomes.

    Attributes
    ----------
    positions
        Of the genes kept, in their new order, int64, shape (n_kept,).
    place
        New place of every gene of the atlas, or -1, int32, shape (n_genes,).
    """

    positions: NDArray[np.int64]
    place: NDArray[np.int32]

    def of(self, rows: SparseRows) -> SparseRows:
        """The rows with these genes alone, in ascending order of their new places.

        Notes
        -----
        A few passes over the entries. A new order that is not the atlas's costs a
        sort of what is kept.
        """
        # Positions are in range, and clipping them is quicker than looking.
        kept = np.flatnonzero(np.take(self.place >= 0, rows.indices, mode="clip"))
        indptr = np.searchsorted(kept, rows.indptr).astype(np.int64, copy=False)
        narrow = self.place.astype(index_dtype(len(self.positions)))
        indices = np.take(narrow, np.take(rows.indices, kept, mode="clip"), mode="clip")
        values = np.take(rows.values, kept, mode="clip")
        if (np.diff(self.positions) > 0).all():
            return SparseRows(indptr, indices, values)
        return _sorted(SparseRows(indptr, indices, values), len(self.positions))


def choose_genes(atlas: Atlas, genes: Sequence[str] | NDArray[Any]) -> Genes:
    """The genes that names or positions ask for.

    Parameters
    ----------
    atlas
        Which has them.
    genes
        Names, or positions (whole numbers), each once; or a mask, bool, shape
        (n_genes,).

    Raises
    ------
    InputError
        A gene is not in the atlas or asked for twice, or there is none.
    """
    asked = np.asarray(genes)
    if asked.ndim != 1:
        raise InputError(f"genes={genes!r}: it is a list of names or positions, or a mask")
    if not len(asked) or (asked.dtype == np.bool_ and not asked.any()):
        raise InputError("genes is empty: name at least one gene, or leave it out for all")
    positions = _positions(atlas, asked)
    values, counts = np.unique(positions, return_counts=True)
    if (counts > 1).any():
        name = atlas.var.index[values[counts.argmax()]]
        raise InputError(f"gene {name!r} is asked for {counts.max()} times: name it once")
    place = np.full(atlas.n_genes, -1, np.int32)
    place[positions] = np.arange(len(positions))
    return Genes(positions, place)


def _positions(atlas: Atlas, asked: NDArray[Any]) -> NDArray[np.int64]:
    if asked.dtype == np.bool_:
        if len(asked) != atlas.n_genes:
            raise InputError(f"the mask has {len(asked):,} genes: there are {atlas.n_genes:,}")
        return np.flatnonzero(asked)
    if asked.dtype.kind in "iu":
        wrong = (asked < 0) | (asked >= atlas.n_genes)
        if wrong.any():
            raise InputError(f"gene {asked[wrong][0]} is asked for: there are {atlas.n_genes:,}")
        return asked.astype(np.int64)
    import pandas as pd

    positions = atlas.var.index.get_indexer(pd.Index(asked))
    missing = asked[positions < 0]
    if len(missing):
        raise InputError(
            f"{len(missing):,} of {len(asked):,} genes are not in the atlas (first: "
            f"{str(missing[0])!r}): its names are those of atlas.var.index"
        )
    return np.asarray(positions, np.int64)


def _sorted(rows: SparseRows, n_genes: int) -> SparseRows:
    matrix = sparse.csr_array(
        (rows.values, rows.indices.astype(np.int64), rows.indptr), (len(rows.indptr) - 1, n_genes)
    )
    matrix.has_sorted_indices = False
    matrix.sort_indices()
    return SparseRows(rows.indptr, matrix.indices.astype(rows.indices.dtype), matrix.data)
