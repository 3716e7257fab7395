"""Cells by genes as the kernels read them: from a CSR matrix, or a tile as it is.

Every check looks once at the entries of the cells in question, not at the whole
block that they lie in.
"""

from __future__ import annotations

from dataclasses import replace
from importlib import import_module
from typing import Any

import numpy as np
from scipy import sparse

from tigon.kernels.checking import (
    Array,
    check_finite,
    check_gram,
    check_matrix,
    check_same_library,
)
from tigon.kernels.tile import CellTile, Metagenes

_KINDS = {
    "rows": ("int64",),
    "indptr": ("int64",),
    "genes": ("uint16", "uint32"),
    "counts": ("uint16", "uint32", "float32", "float64"),
    "weights": ("float32",),
}
"""Types that the kernels read."""

_AS_THEY_ARE = ("uint16", "uint32", "float32")
_EXACT_IN_FLOAT32 = ("bool", "int8", "uint8", "int16")


def as_tile(X: Any, n_genes: int | None = None, *, merged: bool = False) -> tuple[CellTile, int]:
    """Cells as a tile that was checked, and the number of genes m.

    Parameters
    ----------
    X
        CSR matrix or array of scipy.sparse or cupyx.scipy.sparse, shape (n, m), or a
        :class:`tigon.kernels.tile.CellTile`.
    n_genes
        Genes m, where known from elsewhere; a tile does not say it.
    merged
        Whether entries of one gene in a cell must follow each other, genes ascending. A
        matrix is put in order (on a copy), a tile is refused.

    Returns
    -------
    tile
        Of a matrix: its own arrays where the kernels read their types, with weights 1.
        Integers of other types become float32 or float64, whichever holds them exactly;
        on a GPU all becomes float32.
    n_genes
        m.

    Raises
    ------
    TypeError
        Neither of both, not in CSR form, or entries that are not real numbers.
    ValueError
        Arrays that do not fit each other, rows or genes out of range, entries that are
        not finite.
    """
    if isinstance(X, CellTile):
        check_same_library(**{name: getattr(X, name) for name in _KINDS})
        if n_genes is None:
            raise ValueError(
                "X is a CellTile, which does not say how many genes there are: pass n_genes"
            )
        _check_any_gene(n_genes)
        check_tile(X, n_genes)
        if merged:
            _check_order(X)
        return X, n_genes
    _check_csr(X, n_genes)
    m = int(X.shape[1])
    _check_any_gene(m)
    _check_entries(X.indptr, X.indices, X.data, X.shape[0], m)
    if merged and not X.has_canonical_format:
        X = _in_order(X)
    return _tile_of(X), m


def library_of(X: Any) -> str:
    """``"numpy"`` or ``"cupy"``: where the arrays of a matrix or a tile lie.

    Raises
    ------
    TypeError
        It is neither.
    """
    if isinstance(X, CellTile):
        return check_same_library(counts=X.counts)
    if sparse.issparse(X):
        return "numpy"
    if type(X).__module__.startswith("cupyx."):
        return "cupy"
    raise TypeError(
        f"X is a {type(X).__module__}.{type(X).__qualname__}: a CSR matrix of scipy.sparse or "
        "cupyx.scipy.sparse or a CellTile is needed; convert it with scipy.sparse.csr_array"
    )


def entries_of(tile: CellTile) -> slice:
    """Where the entries of a tile's first to last cell lie in its block."""
    if len(tile.rows) == 0:
        return slice(0, 0)
    first, last = int(tile.rows.min()), int(tile.rows.max())
    return slice(int(tile.indptr[first]), int(tile.indptr[last + 1]))


def check_tile(tile: CellTile, n_genes: int) -> None:
    """A tile whose arrays fit each other and ``n_genes``.

    Raises
    ------
    TypeError
        Arrays of types that the kernels do not read.
    ValueError
        Shapes that do not fit, rows or genes out of range, entries that are not finite.
    """
    for name, kinds in _KINDS.items():
        array = getattr(tile, name)
        if array.dtype.name not in kinds or not array.dtype.isnative:
            raise TypeError(f"{name} has dtype {array.dtype}: {' or '.join(kinds)} is needed")
        if array.ndim != 1:
            raise ValueError(f"{name} has shape {array.shape}: one dimension is needed")
    n_block = len(tile.weights)
    if len(tile.indptr) != n_block + 1:
        raise ValueError(
            f"indptr has {len(tile.indptr)} entries for {n_block} weights: one more than "
            "there are cells in the block is needed"
        )
    check_finite("weights", tile.weights)
    if len(tile.rows) == 0:
        return
    first, last = int(tile.rows.min()), int(tile.rows.max())
    if first < 0 or last >= n_block:
        raise ValueError(
            f"rows reach from {first} to {last}: the block has cells 0 to {n_block - 1}"
        )
    _check_entries(
        tile.indptr[first : last + 2], tile.genes, tile.counts, last + 1 - first, n_genes
    )


def check_metagenes(metagenes: Metagenes, library: Any) -> None:
    """Metagenes whose arrays fit each other.

    Raises
    ------
    TypeError, ValueError
        Wrong types or shapes, no gene or factor, entries that are not finite, or a Gram
        matrix that is none.
    """
    check_gram(metagenes.gram, library, "gram")
    k = len(metagenes.gram)
    check_matrix("scaled", metagenes.scaled, (None, k))
    m = len(metagenes.scaled)
    if m == 0:
        raise ValueError(f"scaled has shape (0, {k}): at least one gene is needed")
    if metagenes.scale.shape != (m,):
        raise ValueError(f"scale has shape {metagenes.scale.shape}: ({m},) is needed")
    check_finite("scale", metagenes.scale)


def _check_any_gene(n_genes: int) -> None:
    if n_genes < 1:
        raise ValueError(f"there are {n_genes} genes: at least one is needed")


def _check_csr(X: Any, n_genes: int | None) -> None:
    if X.format != "csr":
        raise TypeError(f"X is in {X.format} form: csr is needed; convert it with X.tocsr()")
    if X.dtype.kind not in "fiub":
        raise TypeError(f"X has dtype {X.dtype}: real numbers are needed; convert it to float32")
    if len(X.shape) != 2:
        raise ValueError(f"X has shape {X.shape}: two dimensions are needed")
    if n_genes is not None and X.shape[1] != n_genes:
        raise ValueError(f"X has shape {X.shape}: (any, {n_genes}) is needed")


def _check_entries(indptr: Array, genes: Array, counts: Array, n: int, n_genes: int) -> None:
    """Entries of n cells that follow each other, indptr being theirs alone."""
    if len(genes) != len(counts):
        raise ValueError(
            f"{len(genes)} genes stand beside {len(counts)} counts: one of each is needed for "
            "every entry"
        )
    if len(indptr) != n + 1:
        raise ValueError(f"indptr has {len(indptr)} entries: {n + 1} are needed for {n} cells")
    start, stop = int(indptr[0]), int(indptr[-1])
    if start < 0 or stop > len(genes) or bool((indptr[1:] < indptr[:-1]).any()):
        raise ValueError(
            f"indptr runs from {start} to {stop}: it must ascend and stay within the "
            f"{len(genes)} entries"
        )
    if start == stop:
        return
    lowest, highest = int(genes[start:stop].min()), int(genes[start:stop].max())
    if lowest < 0 or highest >= n_genes:
        raise ValueError(
            f"genes reach from {lowest} to {highest}: there are genes 0 to {n_genes - 1}"
        )
    check_finite("counts", counts[start:stop])


def _check_order(tile: CellTile) -> None:
    """Genes that ascend within the cells of a tile, equal ones allowed."""
    span = entries_of(tile)
    genes = tile.genes[span]
    falls = np.flatnonzero(genes[1:] < genes[:-1]) + 1 + span.start
    n_bad = int((~np.isin(falls, tile.indptr)).sum())
    if n_bad:
        raise ValueError(
            f"genes of a cell do not ascend ({n_bad} times): sort the entries of every cell by gene"
        )


def _in_order(X: Any) -> Any:
    """Genes ascending, entries of one gene added up in float64 (on a GPU: float32)."""
    wide = np.float64 if library_of(X) == "numpy" else np.float32
    ordered = type(X)((X.data.astype(wide), X.indices.copy(), X.indptr.copy()), shape=X.shape)
    ordered.sum_duplicates()
    return ordered


def _tile_of(X: Any) -> CellTile:
    n = X.shape[0]
    name = library_of(X)
    library, counts = import_module(name), X.data
    if counts.dtype.name not in _AS_THEY_ARE:
        narrow = name == "cupy" or counts.dtype.name in _EXACT_IN_FLOAT32
        counts = counts.astype(np.float32 if narrow else np.float64)
    return CellTile(
        library.arange(n, dtype=np.int64),
        library.ascontiguousarray(X.indptr, np.int64),
        _without_sign(library.ascontiguousarray(X.indices)),
        library.ascontiguousarray(counts),
        library.ones(n, np.float32),
    )


def _without_sign(genes: Array) -> Array:
    """The same positions, none negative, as the kernels read them; a view where it can be."""
    return genes.view(np.uint32) if genes.dtype == np.int32 else genes.astype(np.uint32)


def contiguous_tile(tile: CellTile) -> CellTile:
    """The same tile in arrays without gaps, as the kernels read them; a view where it is."""
    names = tuple(_KINDS)
    return replace(tile, **{name: np.ascontiguousarray(getattr(tile, name)) for name in names})
