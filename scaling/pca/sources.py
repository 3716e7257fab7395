"""Whatever a user has, as rows to decompose."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tigon.scaling.pca.rows import AtlasRows, DaskRows, MatrixRows, PackRows, Rows
from tigon.scaling.selecting import GeneSelection
from tigon.storage.atlas import Atlas
from tigon.storage.errors import InputError
from tigon.storage.opening import open_atlas
from tigon.storage.packs.pack import Pack
from tigon.storage.views.reopening import reference

_NUMBERS = (Real, np.ndarray, list, tuple)
"""What a matrix is made of that is no array."""


@contextmanager
def borrowed_source(source: Any) -> Iterator[Any]:
    """Whatever a user has, open for the length of a block.

    Parameters
    ----------
    source
        An atlas or a pack, which stay open; a path, a URL or a list of these, opened as an
        atlas; an AnnData, whose ``X`` is taken as it is; a matrix of SciPy or NumPy; a
        Dask array of chunks of rows.

    Raises
    ------
    InputError
        What should be opened cannot be.
    """
    if isinstance(source, list | tuple) and any(isinstance(each, _NUMBERS) for each in source):
        raise InputError(
            "a list of numbers cannot be decomposed: lists are of paths, URLs or AnnDatas; pass "
            "numpy.asarray of it"
        )
    if isinstance(source, str | Path | list | tuple):
        with open_atlas(source) as atlas:
            yield atlas
    else:
        yield source


def names_of(source: Any) -> NDArray[Any] | None:
    """Names of the genes of what is open, shape (m,) of str; None where they have none."""
    if isinstance(source, Atlas):
        return np.asarray(source.var.index, dtype=object)
    if _kind(source).startswith("anndata.") and hasattr(source, "var_names"):
        return np.asarray(source.var_names, dtype=object)
    return None


def rows_of(source: Any) -> Rows:
    """Rows of what :func:`borrowed_source` opened.

    Raises
    ------
    InputError
        It is none of what is named there, or of a shape that cannot be decomposed.
    """
    kind = _kind(source)
    if isinstance(source, Atlas):
        return atlas_rows(source)
    if isinstance(source, Pack):
        return PackRows(source, (source.n_cells, source.n_genes), source.n_bytes)
    if kind.startswith("anndata.") and hasattr(source, "X"):
        return _of_anndata(source)
    if kind.startswith("dask.array"):
        return DaskRows(_by_rows(source))
    if sparse.issparse(source) or isinstance(source, np.ndarray):
        matrix: Any = source
        if matrix.ndim != 2:
            raise InputError(f"the matrix has shape {matrix.shape}: cells by genes are needed")
        as_csr: Any = sparse.csr_array
        return MatrixRows(as_csr(matrix) if sparse.issparse(matrix) else matrix)
    raise InputError(
        f"a {kind} cannot be decomposed: an atlas, a pack, a path, an AnnData, a matrix of SciPy "
        "or NumPy or a Dask array of rows is needed"
        + ("; pass its to_numpy()" if kind.startswith("pandas.") else "")
    )


def atlas_rows(atlas: Atlas) -> AtlasRows:
    """All cells and genes of an atlas.

    Raises
    ------
    InputError
        A source with cells lacks some of the genes, which would be taken for zero there.
    """
    has_cells = np.bincount(atlas.source_codes, minlength=len(atlas.measured)) > 0
    n_absent = int((~atlas.measured[has_cells].all(axis=0)).sum())
    if n_absent:
        raise InputError(
            f"{n_absent:,} of {atlas.n_genes:,} genes are not measured by all sources, and would "
            "be taken for zero there: open them with join='inner', or use tigon.pca, which leaves "
            "such genes out"
        )
    everything = GeneSelection.of(np.arange(atlas.n_genes), atlas.n_genes)
    return AtlasRows(reference(atlas), everything, atlas.shape, bytes_of(atlas))


def bytes_of(atlas: Atlas) -> int:
    """Bytes that a pass over an atlas decodes: counts and the positions of their genes."""
    entry = atlas.values_dtype.itemsize + (2 if atlas.n_genes <= 1 << 16 else 4)
    known = atlas.n_nonzeros
    n_entries = atlas.most_entries(atlas.n_cells) if known is None else known
    return int(n_entries) * entry


def _kind(source: Any) -> str:
    return f"{type(source).__module__}.{type(source).__qualname__}"


def _of_anndata(adata: Any) -> Rows:
    if adata.X is None:
        raise InputError("the AnnData has no X: set it, for instance to one of its layers")
    if adata.isbacked:
        raise InputError(
            f"the AnnData is backed by {adata.filename}: pass that path, which is streamed as an "
            "atlas, or adata.to_memory()"
        )
    return rows_of(adata.X)


def _by_rows(array: Any) -> Any:
    if array.ndim != 2:
        raise InputError(f"the Dask array has shape {array.shape}: cells by genes are needed")
    if any(np.isnan(size) for sizes in array.chunks for size in sizes):
        raise InputError(
            "the Dask array has chunks of unknown sizes (nan): call its compute_chunk_sizes() first"
        )
    if len(array.chunks[1]) > 1:
        raise InputError(
            f"the Dask array has {len(array.chunks[1])} chunks along the genes: a chunk must hold "
            "whole rows; use array.rechunk((rows, -1))"
        )
    # Without its module loaded there cannot be any.
    distributed = sys.modules.get("distributed")
    if distributed is not None and distributed.futures_of(array):
        raise InputError(
            "the Dask array was persisted on a cluster: tasks here compute their own chunk, and "
            "cannot take it from there; pass the array as it was before persist()"
        )
    return array
