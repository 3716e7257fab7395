"""Atlases behind real servers: the same bytes as from disk, in few requests."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import obstore
import pytest
from atlases import planted
from faulty_server import Server, serve
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

import tigon
from tigon.storage import Atlas, open_atlas, write_atlas
from tigon.storage.errors import InputError

QUICK: dict[str, Any] = dict(n_components=3, n_epochs=2, n_threads=2, umap=False, report=False)
N_CELLS, CHUNK, SHARD_CHUNKS = 600, 500, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    atlas = open_atlas(planted(n=N_CELLS, m=80, k=3).adata)
    write_atlas(
        atlas, folder / "atlas.zarr", chunk_nonzeros=CHUNK, shard_chunks=SHARD_CHUNKS
    ).close()
    return folder


@pytest.fixture(scope="module")
def from_disk(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    return job(str(folder / "atlas.zarr"), tmp_path_factory.mktemp("run"))


@pytest.fixture
def server(folder: Path) -> Iterator[Server]:
    with serve(folder) as running:
        yield running


@pytest.fixture
def bucket(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    """The atlas in a bucket of an S3 server, named as a user would, by the environment."""
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    try:
        host, port = moto.get_host_and_port()
        settings = {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
        }
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        yield _upload(folder, f"http://{host}:{port}")
    finally:
        moto.stop()


def _upload(folder: Path, endpoint: str) -> S3Store:
    import boto3

    client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1")
    client.create_bucket(Bucket="cells")
    client.close()
    store = S3Store("cells")
    for path in sorted((folder / "atlas.zarr").rglob("*")):
        if path.is_file():
            obstore.put(store, str(path.relative_to(folder)), path.read_bytes())
    return store


def job(source: str, folder: Path) -> dict[str, str]:
    """What the main job writes: the digest of every stored piece of every array."""
    tigon.integrate(source, out=folder / "run.zarr", **QUICK)
    pieces = (path for path in (folder / "run.zarr").rglob("*") if "c" in path.parts)
    digests = {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in pieces
        if path.is_file()
    }
    # How long it took, what it took, and where the counts were.
    told = ("/timings_s/", "/peak_memory_bytes/", "/opening/sources/")
    return {name: digest for name, digest in digests.items() if not any(t in name for t in told)}


def assert_same_read(one: Atlas, other: Atlas) -> None:
    for start in range(0, N_CELLS, 150):
        expected, found = one.read(start, start + 150), other.read(start, start + 150)
        for name in ("indptr", "indices", "values"):
            np.testing.assert_array_equal(getattr(expected, name), getattr(found, name))


def test_the_main_job_from_a_web_server(
    server: Server, from_disk: dict[str, str], tmp_path: Path
) -> None:
    assert job(f"{server.url}/atlas.zarr", tmp_path) == from_disk
    assert len(from_disk) > 20
    assert {asked.method for asked in server.log} <= {"GET", "HEAD"}


def test_the_main_job_from_an_object_store(
    bucket: S3Store, from_disk: dict[str, str], tmp_path: Path
) -> None:
    assert job("s3://cells/atlas.zarr", tmp_path) == from_disk


def test_the_object_store_is_only_read_and_missing_things_are_told(
    bucket: S3Store, folder: Path
) -> None:
    before = {each["path"]: each["e_tag"] for page in obstore.list(bucket) for each in page}
    with open_atlas(folder / "atlas.zarr") as disk, open_atlas("s3://cells/atlas.zarr") as atlas:
        assert_same_read(disk, atlas)
    assert before == {each["path"]: each["e_tag"] for page in obstore.list(bucket) for each in page}
    with pytest.raises(InputError, match=r"s3://cells/other\.zarr .* Zarr \(no group is there\)"):
        open_atlas("s3://cells/other.zarr")


def test_an_object_of_a_store_that_is_replaced_is_refused(bucket: S3Store) -> None:
    with open_atlas("s3://cells/atlas.zarr") as atlas:
        atlas.read(0, 10)
        key = "atlas.zarr/X/data/c/0"
        content = bytes(obstore.get(bucket, key).bytes())
        obstore.put(bucket, key, content[:100] + bytes(8) + content[108:])
        with pytest.raises(InputError, match="X/data/c/0 changed while it was being read"):
            atlas.read(10, 20)


READER = """
import hashlib, sys
from tigon.storage import open_atlas
digest = hashlib.sha256()
with open_atlas(sys.argv[1]) as atlas:
    for start in range(0, atlas.n_cells, 75):
        block = atlas.read(start, start + 75)
        for part in (block.indptr, block.indices, block.values):
            digest.update(part.tobytes())
print(digest.hexdigest())
"""


def test_four_clients_stream_one_copy_at_once(server: Server, folder: Path) -> None:
    server.latency_s = 0.002
    sources = [str(folder / "atlas.zarr")] + 4 * [f"{server.url}/atlas.zarr"]
    clients = [
        subprocess.Popen([sys.executable, "-c", READER, source], stdout=subprocess.PIPE)
        for source in sources
    ]
    digests = [client.communicate()[0] for client in clients]
    assert [client.returncode for client in clients] == [0] * 5
    assert len(set(digests)) == 1
    assert len(digests[0]) == 65


def test_requests_of_an_epoch(server: Server) -> None:
    with open_atlas(f"{server.url}/atlas.zarr") as atlas:
        n_nonzeros = atlas.n_nonzeros
        assert n_nonzeros is not None
        n_shards = -(-n_nonzeros // (CHUNK * SHARD_CHUNKS))
        assert n_shards > 5
        opening = len(server.log)
        assert opening <= 12
        atlas.read(0, N_CELLS)
        # Of both arrays the indexes and all chunks of a shard; the only piece of indptr.
        assert len(server.log) - opening == 2 * n_shards + 2 * n_shards + 1
        first = len(server.log)
        atlas.read(0, N_CELLS)
        assert len(server.log) - first == 2 * n_shards
        again = len(server.log)
        starts = range(0, N_CELLS, 60)
        for start in starts:
            atlas.read(start, start + 60)
        # Blocks that lie across the border of two shards need both.
        assert len(server.log) - again <= 2 * (n_shards - 1 + len(starts))
        assert all(asked.range for asked in server.of("/X/data/"))


def test_a_stream_that_is_read_ahead_asks_for_nothing_twice(server: Server) -> None:
    blocks = [(start, start + 60) for start in range(0, N_CELLS, 60)]
    with open_atlas(f"{server.url}/atlas.zarr") as atlas:
        for block in reversed(blocks):  # nothing is expected
            atlas.read(*block)
        before = len(server.log)
        for block in reversed(blocks):
            atlas.read(*block)
        needed = Counter(server.log[before:])
        server.latency_s = 0.005
        for n_readers in (1, 2, 4):
            before = len(server.log)
            with ThreadPoolExecutor(n_readers) as readers:
                list(readers.map(lambda block: atlas.read(*block), blocks))
            assert Counter(server.log[before:]) == needed


def test_scattered_cells_are_asked_for_together(server: Server) -> None:
    runs = [(start, start + 2) for start in range(590, 0, -30)]
    with open_atlas(f"{server.url}/atlas.zarr") as atlas:
        atlas.read(0, N_CELLS)
        before = len(server.log)
        together = atlas.read_runs(runs)
        n_together = len(server.log) - before
        one_by_one = [atlas.read(start, stop) for start, stop in runs]
        n_shards = len({asked.path for asked in server.of("/X/data/c/")})
    assert n_together <= 2 * n_shards
    assert len(server.log) - before - n_together >= 2 * len(runs)
    np.testing.assert_array_equal(together.values, np.concatenate([b.values for b in one_by_one]))
