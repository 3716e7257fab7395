"""Appending to a sharded, checksummed Zarr array, chunk by chunk.

Chunks are compressed on a pool of threads and appended, in order, to the file of
their shard, which ends with the index of its chunks: the layout of Zarr's
``sharding_indexed`` codec with its index at the end. Zarr writes the metadata,
last, and the same bytes would come of Zarr's own writer, which holds a shard
whole and compresses it while nothing else is done.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import google_crc32c
import numcodecs  # type: ignore[import-untyped]
import numpy as np
from numpy.typing import NDArray

from tigon.storage.encoding import quiet_codecs
from tigon.storage.layout import Codec
from tigon.storage.publish import remove

if TYPE_CHECKING:
    import zarr

_ABSENT = (1 << 64) - 1
"""Place and length of a chunk that a shard does not have."""


class ShardedArray:
    """A one-dimensional array that grows; holds a few chunks in memory.

    Parameters
    ----------
    group
        Where to create the array; its store must be a local folder.
    name
        Key of the array.
    dtype
        Type of its values.
    chunks
        Values per chunk, what is compressed, checked and read at once; and chunks per
        shard, what is one file.
    codec
        How a chunk is compressed.
    pool
        Where that is done.
    lost
        What a chunk reads as when its file is lost: a value that readers refuse.
    most_waiting
        Chunks that may wait to be written.
    """

    _n_buffered: int
    _n_full: int
    _n_shards: int

    def __init__(
        self,
        group: zarr.Group,
        name: str,
        dtype: np.dtype[Any],
        chunks: tuple[int, int],
        codec: Codec,
        pool: Executor,
        *,
        lost: int = 0,
        most_waiting: int = 4,
    ) -> None:
        self._group, self._name = group, name
        self._chunk, self._shard_chunks = chunks
        self._codec, self._pool, self._lost = codec, pool, lost
        self._encoder = numcodecs.get_codec(dict(codec))
        self._most_waiting = most_waiting
        self._begin(dtype)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        dtype: np.dtype[Any] = self._buffer.dtype
        return dtype

    def append(self, values: NDArray[Any]) -> None:
        """Add values at the end."""
        while len(values):
            taken = values[: self._chunk - self._n_buffered]
            self._buffer[self._n_buffered : self._n_buffered + len(taken)] = taken
            self._n_buffered += len(taken)
            values = values[len(taken) :]
            if self._n_buffered == self._chunk:
                self._submit()

    def finish(self) -> int:
        """Write what is left, and the metadata; returns the length."""
        length = self._n_full * self._chunk + self._n_buffered
        if self._n_buffered:
            # Zarr's chunks are all of one length.
            self._buffer[self._n_buffered :] = self._lost_value()
            self._submit()
        while self._waiting:
            self._write_next()
        if self._index:
            self._end_shard()
        self._create(length)
        return length

    def widen(self, dtype: np.dtype[Any]) -> None:
        """Go on in a wider type; what is written already is copied, shard by shard."""
        import zarr

        buffered = self._buffer[: self._n_buffered].copy()
        self._n_buffered = 0  # what is full is copied, the rest comes after it
        n_written = self.finish()
        narrow_folder = self._folder.with_name(f"{self._name}.narrow")
        self._folder.rename(narrow_folder)
        with quiet_codecs():
            narrow = zarr.open_array(str(narrow_folder), mode="r")
        self._begin(dtype)
        shard = self._chunk * self._shard_chunks
        for start in range(0, n_written, shard):
            self.append(cast("NDArray[Any]", narrow[start : min(start + shard, n_written)]))
        self.append(buffered)
        remove(narrow_folder)

    def _begin(self, dtype: np.dtype[Any]) -> None:
        """Start over with no values."""
        self._buffer: NDArray[Any] = np.empty(self._chunk, dtype)
        self._n_buffered = self._n_full = self._n_shards = 0
        self._waiting: deque[Future[bytes]] = deque()
        self._index: list[tuple[int, int]] = []

    @property
    def _folder(self) -> Path:
        store = cast("Any", self._group.store)
        return Path(store.root, self._group.path, self._name)

    def _submit(self) -> None:
        """Have the full buffer compressed, and go on with another."""
        self._waiting.append(self._pool.submit(self._encode, self._buffer))
        self._buffer = np.empty_like(self._buffer)
        self._n_full, self._n_buffered = self._n_full + 1, 0
        while len(self._waiting) > self._most_waiting:
            self._write_next()

    def _encode(self, chunk: NDArray[Any]) -> bytes:
        return _checksummed(bytes(self._encoder.encode(chunk)))

    def _write_next(self) -> None:
        chunk = self._waiting.popleft().result()
        start = sum(self._index[-1]) if self._index else 0
        self._append_to_shard(chunk)
        self._index.append((start, len(chunk)))
        if len(self._index) == self._shard_chunks:
            self._end_shard()

    def _end_shard(self) -> None:
        absent = [(_ABSENT, _ABSENT)] * (self._shard_chunks - len(self._index))
        self._append_to_shard(_checksummed(np.array(self._index + absent, "<u8").tobytes()))
        self._n_shards, self._index = self._n_shards + 1, []

    def _append_to_shard(self, content: bytes) -> None:
        folder = self._folder / "c"
        if not self._index and not self._n_shards:
            folder.mkdir(parents=True, exist_ok=True)
        with (folder / str(self._n_shards)).open("ab") as file:
            file.write(content)

    def _lost_value(self) -> Any:
        return np.array(self._lost).astype(self.dtype)

    def _create(self, length: int) -> zarr.Array[Any]:
        serializer, compressors = _zarr_codecs(self._codec)
        with quiet_codecs():
            return self._group.create_array(
                self._name,
                shape=(length,),
                dtype=self.dtype,
                chunks=(self._chunk,),
                shards=(self._chunk * self._shard_chunks,),
                serializer=serializer,
                compressors=compressors,
                fill_value=self._lost_value().item(),
            )


def _checksummed(content: bytes) -> bytes:
    return content + int(google_crc32c.value(content)).to_bytes(4, "little")


def _zarr_codecs(codec: Codec) -> tuple[Any, list[Any]]:
    """What Zarr calls the steps from an array to a checksummed chunk."""
    from zarr.codecs import BloscCodec, Crc32cCodec

    if codec["id"] == "blosc":
        blosc = BloscCodec(cname=codec["cname"], clevel=codec["clevel"], shuffle="shuffle")
        return "auto", [blosc, Crc32cCodec()]
    settings = {name: value for name, value in codec.items() if name != "id"}
    return {"name": f"numcodecs.{codec['id']}", "configuration": settings}, [Crc32cCodec()]
