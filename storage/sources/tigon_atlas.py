"""Tigon's own atlas, opened without reading its tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from tigon.storage import layout as names
from tigon.storage.errors import InputError
from tigon.storage.known_sums import known_sums
from tigon.storage.sources.anndata_layout import Layout, check_is_anndata, read_table
from tigon.storage.sources.matrices.csr import CsrMatrix
from tigon.storage.sources.matrices.matrix import reading
from tigon.storage.sources.matrices.offsets import Offsets
from tigon.storage.sources.source import Labels, Source


def is_tigon_atlas(layout: Layout) -> bool:
    """Whether ``X`` carries Tigon's mark."""
    return "X" in layout.root and names.MARK in layout.root["X"].attrs


def open_tigon_atlas(layout: Layout) -> Source:
    """Open an atlas that ``write_atlas`` wrote.

    Raises
    ------
    InputError
        A newer Tigon wrote it, or a part is missing.
    """
    root, where = layout.root, layout.where
    X = root["X"]
    mark = X.attrs[names.MARK]
    if mark["format_version"] > names.FORMAT_VERSION:
        raise InputError(
            f"{where} is an atlas of format {mark['format_version']}: this Tigon reads up to "
            f"{names.FORMAT_VERSION}; update Tigon"
        )
    check_is_anndata(layout)
    with reading(where, 0, 0):
        matrix = _matrix(layout, X, mark["largest_row"])
        labels = _labels(root, where)
        sums = known_sums(X, matrix, layout.lock, layout.open_array)
    if labels.measured.shape != (len(labels.names), matrix.shape[1]):
        raise InputError(
            f"{where}: uns/{names.UNS}/{names.MEASURED} has shape {labels.measured.shape}, and X "
            f"is of {len(labels.names)} sources and {matrix.shape[1]:,} genes: the atlas was "
            "changed; ingest it again"
        )
    return Source(
        where=where,
        matrix=matrix,
        load_obs=lambda: read_table(layout, "obs"),
        load_var=lambda: read_table(layout, "var"),
        labels=labels,
        n_nonzeros=matrix.offsets.n_entries,
        sums=sums,
        close=layout.close,
    )


def _matrix(layout: Layout, X: Any, largest_row: int) -> CsrMatrix:
    n_cells, n_genes = X.attrs["shape"]
    return CsrMatrix(
        where=layout.where,
        shape=(int(n_cells), int(n_genes)),
        indptr=layout.open_array(X["indptr"]),
        indices=layout.open_array(X["indices"]),
        values=layout.open_array(X["data"]),
        offsets=Offsets(values=X[names.OFFSETS][:], largest_row=largest_row),
        lock=layout.lock,
    )


def _labels(root: Any, where: str) -> Labels:
    tigon = root[f"uns/{names.UNS}"]
    labels = Labels(
        names=[str(name) for name in tigon[names.SOURCE_NAMES][:]],
        codes=root[f"obs/{names.DATASET_COLUMN}/codes"][:].astype(np.int32),
        measured=tigon[names.MEASURED][:],
    )
    _check_not_lost(labels, where)
    return labels


def _check_not_lost(labels: Labels, where: str) -> None:
    """Refuse labels that no atlas has: Zarr reads a lost file as zeros."""
    codes, n_sources = labels.codes, len(labels.names)
    are_codes = bool((codes >= 0).all()) and codes.max(initial=0) < n_sources
    for lost, what in (
        (not all(labels.names), f"uns/{names.UNS}/{names.SOURCE_NAMES}"),
        (not labels.measured.any(), f"uns/{names.UNS}/{names.MEASURED}"),
        # A source without cells is refused when an atlas is written.
        (
            not are_codes or not np.bincount(codes, minlength=n_sources).all(),
            f"obs/{names.DATASET_COLUMN}/codes",
        ),
    ):
        if lost:
            raise InputError(
                f"{where}: {what} is lost: a file of the atlas is missing or damaged; copy it "
                "again or ingest it again"
            )
