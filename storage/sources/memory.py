"""An AnnData that is in memory already."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from tigon.storage.errors import InputError
from tigon.storage.sources.matrices.csr import open_csr
from tigon.storage.sources.matrices.dense import DenseMatrix
from tigon.storage.sources.matrices.matrix import Matrix, check_numeric
from tigon.storage.sources.source import Choice, Source, check_tables, one_dataset

if TYPE_CHECKING:
    from anndata import AnnData


def open_memory(adata: AnnData, name: str, choice: Choice) -> Source:
    """Use ``adata`` in place; compressed columns are copied to rows.

    Raises
    ------
    InputError
        It has not the matrix asked for, or is of a kind that cannot be read.
    """
    if adata.isbacked:
        raise InputError(
            f"{name} is an AnnData backed by {adata.filename}: give the path of the file instead"
        )
    X, var = _choose(adata, name, choice)
    matrix = _matrix(X, name)
    obs = adata.obs
    check_tables(name, matrix.shape, obs, var)
    return Source(
        where=name,
        matrix=matrix,
        load_obs=lambda: obs,
        load_var=lambda: var,
        labels=one_dataset(name, *matrix.shape),
        hint=_hint(adata, choice),
    )


def _choose(adata: AnnData, name: str, choice: Choice) -> tuple[Any, pd.DataFrame]:
    if choice.raw:
        if adata.raw is None:
            raise InputError(f"{name} has no .raw: leave out raw=True")
        return adata.raw.X, adata.raw.var
    if choice.layer is None:
        if adata.X is None:
            raise InputError(f"{name} has no matrix X: name a layer ({_layers(adata)})")
        return adata.X, adata.var
    if choice.layer not in adata.layers:
        raise InputError(f"{name} has no layer {choice.layer!r}: its layers are {_layers(adata)}")
    return adata.layers[choice.layer], adata.var


def _layers(adata: AnnData) -> str:
    return ", ".join(_layer_names(adata)) or "none"


def _layer_names(adata: AnnData) -> list[str]:
    # From anndata 0.13 on, X is among the layers under the name None.
    return sorted(name for name in adata.layers if name is not None)


def _matrix(X: Any, name: str) -> Matrix:
    is_sparse: bool = sparse.issparse(X)
    if is_sparse:
        rows = sparse.csr_array(X)  # shares the arrays of compressed rows
        arrays = (rows.indptr, rows.indices, rows.data)
        return open_csr(name, rows.shape, arrays, nullcontext())
    if not isinstance(X, np.ndarray):
        raise InputError(
            f"{name} holds its matrix as {type(X).__name__}: Tigon reads NumPy arrays and SciPy "
            "sparse matrices; convert it"
        )
    check_numeric(X.dtype, name)
    return DenseMatrix(name, X, nullcontext())


def _hint(adata: AnnData, choice: Choice) -> str:
    elsewhere = [f"layer={layer!r}" for layer in _layer_names(adata)]
    if adata.raw is not None:
        elsewhere.append("raw=True")
    if choice.layer is not None or choice.raw or not elsewhere:
        return ""
    return f"X may be normalised, try {' or '.join(elsewhere)}"
