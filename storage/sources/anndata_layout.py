"""AnnData's layout of a file, the same in HDF5 and Zarr.

The matrix is read directly, only the tables of cells and genes by anndata.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from tigon.storage.errors import InputError
from tigon.storage.runs.run import MARKS
from tigon.storage.sources.matrices.csc import convert_csc
from tigon.storage.sources.matrices.csr import open_csr
from tigon.storage.sources.matrices.dense import DenseMatrix
from tigon.storage.sources.matrices.matrix import Array, Lock, Matrix, check_numeric, reading
from tigon.storage.sources.source import Choice, Source, check_tables, one_dataset


@dataclass(frozen=True, kw_only=True)
class Layout:
    """An open AnnData file.

    Attributes
    ----------
    root
        Its group, of h5py or Zarr.
    where
        The file, for messages.
    name
        Name of its cells' dataset.
    lock
        Held while it is read.
    close
        Closes it.
    open_array
        Gives an array of a sparse matrix, a node of the group, as it is to be read.
    """

    root: Any
    where: str
    name: str
    lock: Lock
    close: Callable[[], None]
    open_array: Callable[[Any], Array] = lambda node: cast("Array", node)


def open_layout(layout: Layout, choice: Choice) -> Source:
    """Open the chosen matrix and read the tables.

    Raises
    ------
    InputError
        The file has not the layout, or not the matrix asked for.
    """
    check_is_anndata(layout)
    node, genes = _choose(layout, choice)
    matrix, close = _open_matrix(layout, node, choice)
    try:
        obs = read_table(layout, "obs")
        var = read_table(layout, genes)
        check_tables(layout.where, matrix.shape, obs, var)
    except BaseException:
        close()
        raise
    return Source(
        where=layout.where,
        matrix=matrix,
        load_obs=lambda: obs,
        load_var=lambda: var,
        labels=one_dataset(layout.name, *matrix.shape),
        hint=_hint(layout, choice),
        close=close,
    )


def check_is_anndata(layout: Layout) -> None:
    """Refuse a file without tables of cells and genes."""
    missing = [name for name in ("obs", "var") if name not in layout.root]
    if missing:
        raise InputError(
            f"{layout.where} is not an AnnData file: it has no {' and no '.join(missing)}; "
            "write it with AnnData (adata.write_h5ad or adata.write_zarr)"
        )
    if hasattr(layout.root["obs"], "shape"):
        raise InputError(
            f"{layout.where} was written by an AnnData older than 0.7: its tables are of a kind "
            "no longer read; open it with anndata.read_h5ad and write it again"
        )


def read_table(layout: Layout, name: str) -> pd.DataFrame:
    """The table of cells or genes."""
    from anndata.io import read_elem

    with layout.lock:
        try:
            return cast("pd.DataFrame", read_elem(layout.root[name]))
        except Exception as error:  # whatever the codecs of the columns raise
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(
                f"{layout.where}: the table {name} cannot be read ({reason}): the file is damaged "
                "or cut short; copy or download it again"
            ) from error


def layer_names(layout: Layout) -> list[str]:
    """Names of the layers; none where the store cannot list them."""
    if "layers" not in layout.root:
        return []
    try:
        return sorted(cast("Iterable[str]", layout.root["layers"].keys()))
    except Exception:  # a web server lists no folders
        return []


def _choose(layout: Layout, choice: Choice) -> tuple[Any, str]:
    """The node of the chosen matrix, and the table of its genes."""
    root, where = layout.root, layout.where
    if choice.raw:
        if "raw" not in root or "X" not in root["raw"]:
            raise InputError(f"{where} has no .raw: leave out --raw{_or_layer(layout)}")
        return root["raw/X"], "raw/var"
    if choice.layer is not None:
        if "layers" not in root or choice.layer not in root["layers"]:
            there = ", ".join(layer_names(layout)) or "none"
            raise InputError(f"{where} has no layer {choice.layer!r}: its layers are {there}")
        return root["layers"][choice.layer], "var"
    if "X" not in root:
        if any(f"uns/tigon/{mark}" in root for mark in MARKS):
            raise InputError(
                f"{where} is a run, which holds no counts: name the atlas or the files that it "
                "was made from, or open it with tigon.Run.open"
            )
        raise InputError(f"{where} has no matrix X: {_matrices(layout) or 'nothing to read'}")
    return root["X"], "var"


def _or_layer(layout: Layout) -> str:
    names = layer_names(layout)
    return f", or choose a layer with --layer ({', '.join(names)})" if names else ""


def _open_matrix(layout: Layout, node: Any, choice: Choice) -> tuple[Matrix, Callable[[], None]]:
    """The matrix, and what closes the file together with it."""
    where, lock = layout.where, layout.lock
    with reading(where, 0, 0):
        kind = _kind(node)
    if kind == "array":
        check_numeric(node.dtype, where)
        return DenseMatrix(where, node, lock), layout.close
    shape = _shape(node)
    indptr, indices, data = (layout.open_array(node[key]) for key in ("indptr", "indices", "data"))
    arrays = (indptr, indices, data)
    if kind == "csr_matrix":
        return open_csr(where, shape, arrays, lock), layout.close
    if kind == "csc_matrix":
        matrix, scratch = convert_csc(where, shape, arrays, lock, choice.scratch)

        def close() -> None:
            layout.close()
            scratch.close()

        return matrix, close
    raise InputError(
        f"{where}: the matrix is stored as {kind!r}: Tigon reads csr_matrix, csc_matrix and array; "
        "write it as one of these"
    )


def _kind(node: Any) -> str:
    """AnnData's name of how a matrix is stored; files before AnnData 0.8 lack it for arrays."""
    if hasattr(node, "shape"):
        return "array"
    sparse_kind = node.attrs.get("h5sparse_format")  # AnnData before 0.7
    return f"{sparse_kind}_matrix" if sparse_kind else str(node.attrs.get("encoding-type"))


def _shape(node: Any) -> tuple[int, int]:
    shape = node.attrs["h5sparse_shape" if "h5sparse_shape" in node.attrs else "shape"]
    return int(shape[0]), int(shape[1])


def _matrices(layout: Layout) -> str:
    """Where else counts may be."""
    names = [f"--layer {name}" for name in layer_names(layout)]
    if "raw" in layout.root:
        names.append("--raw")
    return f"try {' or '.join(names)}" if names else ""


def _hint(layout: Layout, choice: Choice) -> str:
    elsewhere = _matrices(layout)
    if choice.layer is not None or choice.raw or not elsewhere:
        return elsewhere
    return f"X may be normalised, {elsewhere}"
