"""10x Genomics matrices in HDF5, as Cell Ranger 2 and 3 (and later) write them.

They are compressed columns of genes x cells, which is compressed rows of
cells x genes, so they are read in place.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from tigon.storage.errors import InputError
from tigon.storage.sources.features import choose_genes
from tigon.storage.sources.hdf5 import open_hdf5
from tigon.storage.sources.matrices.csr import open_csr
from tigon.storage.sources.matrices.matrix import reading
from tigon.storage.sources.source import Choice, Source, check_tables, one_dataset

_PARTS = ("barcodes", "data", "indices", "indptr", "shape")


def is_tenx_h5(file: h5py.File) -> bool:
    """Whether the file holds a 10x matrix."""
    return bool(_matrix_groups(file))


def open_tenx_h5(path: Path, name: str, choice: Choice) -> Source:
    """Open ``path``; its matrix is read when asked for.

    Raises
    ------
    InputError
        It holds several genomes, or contradicts itself.
    """
    if choice.layer is not None or choice.raw:
        raise InputError(f"{path} is a 10x file, it has no layers and no .raw: leave these out")
    file = open_hdf5(path)
    try:
        return _open(file, path, name)
    except BaseException:
        file.close()
        raise


def _matrix_groups(file: h5py.File) -> list[str]:
    """``matrix`` since Cell Ranger 3, one group named after each genome before."""
    return [
        key
        for key, node in file.items()
        if isinstance(node, h5py.Group) and all(part in node for part in _PARTS)
    ]


def _open(file: h5py.File, path: Path, name: str) -> Source:
    groups = _matrix_groups(file)
    if len(groups) > 1:
        raise InputError(
            f"{path} holds several genomes ({', '.join(groups)}): one can be read; split the file"
        )
    group = file[groups[0]]
    where = str(path)
    with reading(where, 0, 0):
        n_features, n_cells = (int(size) for size in group["shape"][:])
        obs = pd.DataFrame(index=_strings(group["barcodes"]))
        features = _features(group)
    lock = threading.Lock()
    arrays = (group["indptr"], group["indices"], group["data"])
    matrix = open_csr(where, (n_cells, n_features), arrays, lock)
    check_tables(where, matrix.shape, obs, features)
    var, columns = choose_genes(features, where)
    return Source(
        where=where,
        matrix=matrix,
        load_obs=lambda: obs,
        load_var=lambda: var,
        labels=one_dataset(name, n_cells, len(var)),
        columns=columns,
        close=file.close,
    )


def _features(group: h5py.Group) -> pd.DataFrame:
    """The table of features, with the column names that scanpy uses."""
    if "features" not in group:
        return pd.DataFrame(
            {"gene_ids": _strings(group["genes"])}, index=_strings(group["gene_names"])
        )
    features = group["features"]
    columns = {"gene_ids": "id", "feature_types": "feature_type", "genome": "genome"}
    return pd.DataFrame(
        {column: _strings(features[key]) for column, key in columns.items() if key in features},
        index=_strings(features["name"]),
    )


def _strings(dataset: Any) -> np.ndarray[Any, np.dtype[np.object_]]:
    return np.asarray(dataset.asstr()[:], dtype=object)
