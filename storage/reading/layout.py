"""How a one-dimensional Zarr array of version 3 lies in the objects of its store."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.reading.codecs import BadChunk, Chain, parse_chain

if TYPE_CHECKING:
    import zarr

_NOWHERE = np.uint64(2**64 - 1)  # in a shard's index: a chunk of the fill value, not stored


@dataclass(frozen=True)
class ArrayLayout:
    """Where the values of an array are.

    Attributes
    ----------
    name
        Path of the array in its store.
    dtype
        Type of the values, in the machine's byte order.
    length
        Number of values.
    chunk
        Values per chunk.
    shard_chunks
        Chunks per object.
    fill
        Value of chunks that are not stored.
    key_start
        Keys of the objects, up to their number.
    chain
        Codecs of a chunk.
    index_chain
        Codecs of a shard's index; None where an object is one bare chunk.
    index_bytes
        Bytes of an encoded index.
    index_first
        Whether the index is at the beginning of its shard rather than at the end.
    """

    name: str
    dtype: np.dtype[Any]
    length: int
    chunk: int
    shard_chunks: int
    fill: Any
    key_start: str
    chain: Chain
    index_chain: Chain | None
    index_bytes: int
    index_first: bool

    def key(self, shard: int) -> str:
        """Name of an object in the store."""
        return f"{self.key_start}{shard}"

    def unpack(self, body: NDArray[np.uint8]) -> NDArray[np.uint8] | None:
        """The encoded chunk in an object that holds one; None where it is not stored.

        Raises
        ------
        BadChunk
            The checksum of the shard's index does not hold.
        """
        if self.index_chain is None:
            return body
        if len(body) < self.index_bytes:
            raise BadChunk("the shard is cut short")
        index = body[: self.index_bytes] if self.index_first else body[-self.index_bytes :]
        start, stop = self.decode_index(index)[0].tolist()
        return body[start:stop] if start >= 0 else None

    def decode_index(self, encoded: NDArray[np.uint8]) -> NDArray[np.int64]:
        """First byte of each chunk of a shard and the one after its last, (-1, -1) if not stored.

        Raises
        ------
        BadChunk
            The checksum does not hold.
        """
        assert self.index_chain is not None
        numbers = np.empty(2 * self.shard_chunks, np.uint64)
        self.index_chain.decode(encoded, numbers)
        starts, sizes = numbers[::2], numbers[1::2]
        there = starts != _NOWHERE
        spans = np.full((self.shard_chunks, 2), -1, np.int64)
        spans[there, 0] = starts[there].astype(np.int64)
        spans[there, 1] = (starts[there] + sizes[there]).astype(np.int64)
        if (spans[there, 1] <= spans[there, 0]).any() or (spans[there, 0] < 0).any():
            raise BadChunk("the index of the shard names impossible places")
        return spans


def parse_layout(array: zarr.Array[Any]) -> ArrayLayout | None:
    """The layout of an array of Zarr; None where it is of a kind left to Zarr itself."""
    metadata: Mapping[str, Any] = array.metadata.to_dict()
    if metadata["zarr_format"] != 3 or len(metadata["shape"]) != 1 or not metadata["shape"][0]:
        return None
    if metadata["chunk_grid"]["name"] != "regular" or metadata.get("storage_transformers"):
        return None
    grid = int(metadata["chunk_grid"]["configuration"]["chunk_shape"][0])
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "buif":
        return None
    codecs = list(metadata["codecs"])
    sharding = codecs[0]["configuration"] if codecs[0]["name"] == "sharding_indexed" else None
    if sharding is not None and len(codecs) > 1:
        return None
    chunk = int(sharding["chunk_shape"][0]) if sharding else grid
    chain = parse_chain(sharding["codecs"] if sharding else codecs, dtype)
    index_codecs = sharding["index_codecs"] if sharding else []
    if not {codec["name"] for codec in index_codecs} <= {"bytes", "crc32c"}:
        return None  # of a size that is not known beforehand
    key_start = _key_start(array.path, metadata["chunk_key_encoding"])
    if chain is None or key_start is None:
        return None
    shard_chunks = grid // chunk
    return ArrayLayout(
        name=array.path,
        dtype=dtype.newbyteorder("="),
        length=int(metadata["shape"][0]),
        chunk=chunk,
        shard_chunks=shard_chunks,
        fill=dtype.type(array.metadata.fill_value),
        key_start=key_start,
        chain=chain,
        index_chain=parse_chain(index_codecs, np.dtype(np.uint64)),
        index_bytes=16 * shard_chunks + 4 * max(0, len(index_codecs) - 1),
        index_first=sharding is not None and sharding.get("index_location") == "start",
    )


def _key_start(path: str, encoding: Mapping[str, Any]) -> str | None:
    if encoding["name"] == "default":
        separator = encoding.get("configuration", {}).get("separator", "/")
        return f"{path}/c{separator}"
    return f"{path}/" if encoding["name"] == "v2" else None
