"""Gzip-compressed arrays in HDF5, decompressed outside the library's lock.

The HDF5 library decompresses one chunk at a time for the whole process. Taking
chunks from it as they are stored leaves it the reading alone, and several threads
decompress at once.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from tigon.storage.sources.matrices.matrix import Array

_LARGEST_CHUNK_BYTES = 4 << 20
"""Larger chunks would be decompressed again for every block that they reach into."""


@dataclass(frozen=True)
class GzipArray:
    """A one-dimensional array of gzip chunks, read by slices.

    Attributes
    ----------
    dataset
        Where it is stored.
    """

    dataset: Any

    @property
    def shape(self) -> tuple[int, ...]:
        """Length, as a tuple."""
        shape: tuple[int, ...] = self.dataset.shape
        return shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = self.dataset.dtype
        return dtype

    def __getitem__(self, selection: slice) -> NDArray[Any]:
        start, stop, _ = selection.indices(self.shape[0])
        out = np.empty(max(0, stop - start), self.dtype)
        size = self.dataset.chunks[0]
        for first in range(start // size * size, stop, size):
            here = slice(max(start, first), min(stop, first + size))
            out[here.start - start : here.stop - start] = self._chunk(first, here)
        return out

    def _chunk(self, first: int, here: slice) -> NDArray[Any]:
        """The values ``here`` of the chunk that begins at ``first``."""
        try:
            skipped, stored = self.dataset.id.read_direct_chunk((first,))
        except (OSError, RuntimeError):  # a chunk that was never written, among others
            return np.asarray(self.dataset[here])
        if skipped:  # by its writer: the chunk is not compressed as the others are
            return np.asarray(self.dataset[here])
        n_bytes = self.dataset.chunks[0] * self.dtype.itemsize
        content = np.frombuffer(zlib.decompress(stored, bufsize=n_bytes), np.uint8)
        if len(content) != n_bytes:
            raise ValueError(f"a chunk of {len(content):,} bytes, not {n_bytes:,}")
        if self.dataset.shuffle:
            content = content.reshape(self.dtype.itemsize, -1).T.reshape(-1)
        return content.view(self.dtype)[here.start - first : here.stop - first]


def open_array(dataset: Any) -> Array:
    """An array as it is read quickest: through :class:`GzipArray` where that is possible."""
    if not isinstance(dataset, h5py.Dataset) or dataset.chunks is None or dataset.ndim != 1:
        return dataset  # type: ignore[no-any-return]
    filters = dataset.id.get_create_plist()
    names = [filters.get_filter(number)[0] for number in range(filters.get_nfilters())]
    gzip = names in ([h5py.h5z.FILTER_DEFLATE], [h5py.h5z.FILTER_SHUFFLE, h5py.h5z.FILTER_DEFLATE])
    small = dataset.chunks[0] * dataset.dtype.itemsize <= _LARGEST_CHUNK_BYTES
    plain = dataset.dtype.kind in "iuf"
    return GzipArray(dataset) if gzip and small and plain else dataset
