"""Appending to a sharded, checksummed Zarr array, whole shards at a time."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from tigon.storage.publish import remove

if TYPE_CHECKING:
    import zarr


class ShardedArray:
    """A one-dimensional array that grows; holds one shard in memory.

    Parameters
    ----------
    group
        Where to create the array; its store must be a local folder.
    name
        Key of the array.
    dtype
        Type of its values.
    chunk
        Values per chunk: what is compressed, checked and read at once.
    shard_chunks
        Chunks per shard: what is written at once.
    lost
        What a chunk reads as when its file is lost: a value that readers refuse.
    """

    def __init__(
        self,
        group: zarr.Group,
        name: str,
        dtype: np.dtype[Any],
        chunk: int,
        shard_chunks: int,
        *,
        lost: int = 0,
    ) -> None:
        self._group, self._name, self._lost = group, name, lost
        self._chunk, self._shard = chunk, chunk * shard_chunks
        self._buffer = np.empty(self._shard, dtype)
        self._n_buffered = self._n_written = 0
        self._array = self._create()

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = self._buffer.dtype
        return dtype

    def append(self, values: NDArray[Any]) -> None:
        """Add values at the end."""
        while len(values):
            taken = values[: self._shard - self._n_buffered]
            self._buffer[self._n_buffered : self._n_buffered + len(taken)] = taken
            self._n_buffered += len(taken)
            values = values[len(taken) :]
            if self._n_buffered == self._shard:
                self._flush()

    def finish(self) -> int:
        """Write what is left; returns the length."""
        if self._n_buffered:
            self._flush()
        return self._n_written

    def widen(self, dtype: np.dtype[Any]) -> None:
        """Go on in a wider type; what is written already is copied, shard by shard."""
        import zarr

        store = cast("Any", self._group.store)
        folder = Path(store.root, self._group.path, self._name)
        narrow_folder = folder.with_name(f"{folder.name}.narrow")
        folder.rename(narrow_folder)
        narrow = zarr.open_array(str(narrow_folder), mode="r")
        buffered = self._buffer[: self._n_buffered].copy()
        n_written, self._n_written, self._n_buffered = self._n_written, 0, 0
        self._buffer = np.empty(self._shard, dtype)
        self._array = self._create()
        for start in range(0, n_written, self._shard):
            self.append(cast("NDArray[Any]", narrow[start : start + self._shard]))
        self.append(buffered)
        remove(narrow_folder)

    def _create(self) -> zarr.Array[Any]:
        from zarr.codecs import BloscCodec, Crc32cCodec

        return self._group.create_array(
            self._name,
            shape=(0,),
            dtype=self.dtype,
            chunks=(self._chunk,),
            shards=(self._shard,),
            compressors=(BloscCodec(cname="lz4", clevel=5, shuffle="shuffle"), Crc32cCodec()),
            # Chunks of nothing but this value are written too, so one not there is lost.
            fill_value=self._lost,
            config={"write_empty_chunks": True},
        )

    def _flush(self) -> None:
        stop = self._n_written + self._n_buffered
        self._array.resize((stop,))
        self._array[self._n_written : stop] = self._buffer[: self._n_buffered]
        self._n_written, self._n_buffered = stop, 0
