"""AnnData in HDF5: ``.h5ad``."""

from __future__ import annotations

import threading
from pathlib import Path

from tigon.storage.sources.anndata_layout import Layout, open_layout
from tigon.storage.sources.hdf5 import open_hdf5
from tigon.storage.sources.source import Choice, Source


def open_h5ad(path: Path, name: str, choice: Choice) -> Source:
    """Open ``path``; its matrix is read when asked for."""
    file = open_hdf5(path)
    layout = Layout(root=file, where=str(path), name=name, lock=threading.Lock(), close=file.close)
    try:
        return open_layout(layout, choice)
    except BaseException:
        file.close()
        raise
