"""AnnData in HDF5: ``.h5ad``."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

from tigon.storage.sources.anndata_layout import Layout, open_layout
from tigon.storage.sources.hdf5 import open_hdf5
from tigon.storage.sources.hdf5_chunks import open_array
from tigon.storage.sources.source import Choice, Source


def open_h5ad(path: Path, name: str, choice: Choice) -> Source:
    """Open ``path``; its matrix is read when asked for."""
    file = open_hdf5(path)
    layout = Layout(
        root=file,
        where=str(path),
        name=name,
        lock=nullcontext(),  # h5py has a lock of its own, for as short as need be
        close=file.close,
        open_array=open_array,
    )
    try:
        return open_layout(layout, choice)
    except BaseException:
        file.close()
        raise
