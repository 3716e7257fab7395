"""How the parts of a run are marked for anndata, and how names become keys."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

ANNDATA: dict[str, Any] = {"encoding-type": "anndata", "encoding-version": "0.1.0"}
ARRAY: dict[str, Any] = {"encoding-type": "array", "encoding-version": "0.2.0"}
CSR: dict[str, Any] = {"encoding-type": "csr_matrix", "encoding-version": "0.1.0"}
DICT: dict[str, Any] = {"encoding-type": "dict", "encoding-version": "0.1.0"}
TABLE: dict[str, Any] = {"encoding-type": "dataframe", "encoding-version": "0.2.0"}
STRINGS: dict[str, Any] = {"encoding-type": "string-array", "encoding-version": "0.2.0"}


def key(name: str) -> str:
    """``name`` as the key of a group, where "/" would open another group and NUL ends a path."""
    return name.replace("/", "%2F").replace("\0", "%00")


@contextmanager
def quiet_writers() -> Iterator[None]:
    """Silence what anndata, zarr and pandas announce about their own next defaults."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="zarr v3 autosharding")
        warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
        warnings.filterwarnings("ignore", message="The 'future.infer_string' option")
        yield


@contextmanager
def quiet_codecs() -> Iterator[None]:
    """Silence Zarr about codecs beyond its specification, where they were asked for by name."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Numcodecs codecs are not in the Zarr version 3")
        yield
