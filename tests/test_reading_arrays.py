"""Arrays of Zarr in all the ways they may be stored: what Zarr reads is read here."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from builders import dense, make_adata, write_zarr
from zarr.codecs import (
    BloscCodec,
    BytesCodec,
    Crc32cCodec,
    GzipCodec,
    ShardingCodec,
    ZstdCodec,
)
from zarr.codecs.numcodecs import PCodec

from tigon.storage import open_atlas
from tigon.storage.errors import InputError
from tigon.storage.reading.local import LocalObjects
from tigon.storage.reading.store import ChunkedArray, ChunkStore, open_array, read_ranges

pytestmark = pytest.mark.filterwarnings("ignore:Numcodecs codecs are not in the Zarr")

CHAINS: dict[str, dict[str, Any]] = {
    "blosc": {"compressors": BloscCodec(cname="lz4", shuffle="shuffle")},
    "blosc and crc32c": {"compressors": [BloscCodec(cname="zstd"), Crc32cCodec()]},
    "zstd": {"compressors": ZstdCodec(level=1)},
    "gzip": {"compressors": GzipCodec(level=1)},
    "pcodec": {"serializer": "pcodec", "compressors": Crc32cCodec()},
    "none": {"compressors": None},
    "big endian": {"serializer": BytesCodec(endian="big"), "compressors": ZstdCodec()},
    "big endian blosc": {
        "serializer": BytesCodec(endian="big"),
        "compressors": BloscCodec(cname="lz4", shuffle="shuffle"),
    },
}
DTYPES = ["uint16", "int32", "float32", "int64"]
N = 1003


@pytest.fixture
def store(tmp_path: Path) -> Iterator[ChunkStore]:
    opened = ChunkStore(LocalObjects(tmp_path, str(tmp_path)))
    yield opened
    opened.close()


def make_array(folder: Path, chain: str, dtype: str, shards: int | None) -> zarr.Array[Any]:
    codecs = dict(CHAINS[chain])
    if codecs.get("serializer") == "pcodec":
        codecs["serializer"] = PCodec(level=4)
    group = zarr.open_group(str(folder), mode="a")
    sizes: dict[str, Any] = {"chunks": (100,), "shards": None if shards is None else (shards,)}
    array = group.create_array("x", shape=(N,), dtype=dtype, fill_value=3, **sizes, **codecs)
    values = np.random.default_rng(0).integers(0, 500, N).astype(dtype)
    values[300:500] = 3  # chunks of the fill value are not stored
    array[:] = values
    return array


def checked(array: zarr.Array[Any], store: ChunkStore) -> ChunkedArray:
    opened = open_array(store, array)
    assert opened is not None
    assert opened.shape == array.shape
    assert opened.dtype == array.dtype
    ranges = np.array([[0, N], [990, N], [100, 200], [150, 450], [7, 7]])
    (read,) = read_ranges([opened], ranges)
    np.testing.assert_array_equal(read, np.concatenate([array[a:b] for a, b in ranges]))
    assert read.dtype == np.dtype(array.dtype).newbyteorder("=")
    return opened


@pytest.mark.parametrize("shards", [None, 100, 400], ids=["bare", "one chunk", "shards"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("chain", CHAINS)
def test_chains(tmp_path: Path, store: ChunkStore, chain: str, dtype: str, shards: Any) -> None:
    checked(make_array(tmp_path, chain, dtype, shards), store)


def test_an_index_at_the_beginning(tmp_path: Path, store: ChunkStore) -> None:
    group = zarr.open_group(str(tmp_path), mode="a")
    sharding = ShardingCodec(
        chunk_shape=(100,), codecs=[BytesCodec(), ZstdCodec()], index_location="start"
    )
    array = group.create_array(
        "x", shape=(N,), dtype="uint16", chunks=(400,), serializer=sharding, compressors=None
    )
    array[:] = np.arange(N)
    checked(array, store)


def test_keys_of_version_2(tmp_path: Path, store: ChunkStore) -> None:
    group = zarr.open_group(str(tmp_path), mode="a")
    array = group.create_array(
        "x",
        shape=(N,),
        dtype="uint16",
        chunks=(100,),
        chunk_key_encoding={"name": "v2", "separator": "."},
    )
    array[:] = np.arange(N)
    checked(array, store)


@pytest.mark.parametrize("kind", ["version 2", "filters", "matrix", "complex"])
def test_what_is_left_to_zarr(tmp_path: Path, store: ChunkStore, kind: str) -> None:
    group = zarr.open_group(str(tmp_path), mode="a", zarr_format=2 if kind == "version 2" else 3)
    options: dict[str, Any] = {"shape": (10,), "dtype": "int32"}
    if kind == "filters":
        from zarr.codecs.numcodecs import Delta

        options["filters"] = Delta(dtype="int32")
    if kind == "matrix":
        options["shape"] = (10, 10)
    if kind == "complex":
        options["dtype"] = "complex64"
    assert open_array(store, group.create_array("x", **options)) is None


def test_a_whole_atlas_is_left_to_zarr_with_a_hint(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    adata = make_adata()
    path = write_zarr(adata, tmp_path / "a.zarr", zarr_format=2)
    with caplog.at_level(logging.INFO, logger="tigon"), open_atlas(path) as atlas:
        np.testing.assert_array_equal(
            atlas.read(0, atlas.n_cells).to_scipy().toarray(), dense(adata.X)
        )
        assert len(atlas.read_runs([(3, 9), (1, 2)]).indptr) == 8
    hints = [record.getMessage() for record in caplog.records]
    assert len([hint for hint in hints if "`tigon ingest`" in hint]) == 1


def test_a_file_cut_short(tmp_path: Path, store: ChunkStore) -> None:
    array = make_array(tmp_path, "blosc and crc32c", "uint16", 400)
    opened = open_array(store, array)
    assert opened is not None
    opened[0:10]
    shard = tmp_path / "x" / "c" / "0"
    shard.write_bytes(shard.read_bytes()[:50])
    with pytest.raises(InputError, match="x/c/0 changed while it was being read"):
        opened[0:10]


def test_a_step_is_refused(tmp_path: Path, store: ChunkStore) -> None:
    opened = open_array(store, make_array(tmp_path, "none", "uint16", None))
    assert opened is not None
    with pytest.raises(IndexError, match="step 2"):
        opened[0:10:2]
    assert len(opened[10:5]) == 0
