"""A stream from a faulty server goes on with the same bytes, or ends with a plain error."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from builders import make_adata, make_counts
from faulty_server import Fault, Server, serve

from tigon.storage import Atlas, open_atlas, write_atlas
from tigon.storage.block import Block
from tigon.storage.errors import InputError
from tigon.storage.reading import store
from tigon.storage.reading.fetching import FetchedAhead
from tigon.storage.reading.planning import Request
from tigon.storage.reading.policy import RequestPolicy
from tigon.storage.sources import zarr_store

QUICK = RequestPolicy(
    in_flight=4,
    connect_s=1,
    stall_s=0.2,
    request_s=1,
    retry_s=1.5,
    n_retries=4,
    backoff_s=0.005,
    longest_backoff_s=0.02,
    gap_bytes=0,
    request_bytes=2000,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served")
    adata = make_adata(make_counts(400, 50))
    write_atlas(open_atlas(adata), folder / "a.zarr", chunk_nonzeros=300, shard_chunks=5).close()
    return folder


@pytest.fixture
def server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(zarr_store, "POLICY", QUICK)
    with serve(folder) as running:
        yield running


@pytest.fixture(scope="module")
def on_disk(folder: Path) -> Block:
    with open_atlas(folder / "a.zarr") as atlas:
        return atlas.read(0, atlas.n_cells)


def opened(server: Server) -> Atlas:
    return open_atlas(f"{server.url}/a.zarr")


def assert_same(one: Block, other: Block) -> None:
    for name in ("indptr", "indices", "values"):
        expected, found = getattr(one, name), getattr(other, name)
        assert expected.dtype == found.dtype
        np.testing.assert_array_equal(expected, found)


@pytest.mark.parametrize("path", ["X/data/c/", "X/indices/c/1", "X/indptr/c/", "X/tigon_offsets"])
@pytest.mark.parametrize(
    "kind", ["503", "429", "500", "reset", "stall", "truncated", "short", "corrupted"]
)
def test_a_fault_that_passes_changes_nothing(
    server: Server, on_disk: Block, kind: str, path: str
) -> None:
    if path == "X/tigon_offsets" and kind in ("short", "corrupted"):
        pytest.skip("a small array without a checksum, read by Zarr")
    server.fault = Fault(kind, path, times=1 if kind == "corrupted" else 2)
    with opened(server) as atlas:
        assert_same(on_disk, atlas.read(0, atlas.n_cells))
    assert server.fault.times is not None
    assert server.fault.times <= 0


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("503", "503 Service Unavailable"),
        ("reset", "cannot be fetched"),
        ("stall", "cannot be fetched"),
        ("truncated", "cannot be fetched"),
        ("short", "cut short, however often it is asked"),
        ("403", "may not be read .*403.*credentials are missing or have expired"),
        ("401", "may not be read .*401.*credentials are missing or have expired"),
    ],
)
def test_a_fault_that_stays_is_told(server: Server, kind: str, told: str) -> None:
    with opened(server) as atlas:
        atlas.read(0, 10)
        server.fault = Fault(kind, "X/data/c/3")
        with pytest.raises(InputError, match=rf"a\.zarr: X/data/c/3 .*{told}"):
            atlas.read(0, atlas.n_cells)
        server.fault = None
        atlas.read(0, atlas.n_cells)  # what failed is not remembered


def test_a_corrupt_chunk_is_named(server: Server) -> None:
    with opened(server) as atlas:
        server.fault = Fault("corrupted", "X/indices/c/2", after=1)
        with pytest.raises(InputError, match=r"chunk \d+ of X/indices, in X/indices/c/2, is corr"):
            atlas.read(0, atlas.n_cells)


def test_a_corrupt_index_is_named(server: Server) -> None:
    server.fault = Fault("corrupted", "X/indices/c/2")
    with (
        opened(server) as atlas,
        pytest.raises(InputError, match="the index of the shard X/indices/c/2 is corrupt"),
    ):
        atlas.read(0, atlas.n_cells)


@pytest.mark.parametrize("knows_if_match", [True, False])
def test_an_object_that_changed_is_refused(
    server: Server, folder: Path, tmp_path: Path, *, knows_if_match: bool
) -> None:
    if knows_if_match:
        server.root = tmp_path
        (tmp_path / "a.zarr").symlink_to(folder / "a.zarr")
    with opened(server) as atlas:
        atlas.read(0, 10)
        if knows_if_match:
            copy = tmp_path / "copy"
            write_atlas(
                open_atlas(make_adata(make_counts(400, 50))),
                copy,
                chunk_nonzeros=300,
                shard_chunks=5,
            ).close()
            (tmp_path / "a.zarr").unlink()
            (tmp_path / "a.zarr").symlink_to(copy)
        else:
            server.fault = Fault("changed", "X/")
        with pytest.raises(InputError, match=r"X/(data|indices)/c/0 changed while it was being"):
            atlas.read(10, 20)


@pytest.mark.parametrize("name", ["data", "indices", "indptr"])
def test_a_missing_object_is_found(server: Server, name: str) -> None:
    server.fault = Fault("404", f"X/{name}/c/0")
    with opened(server) as atlas, pytest.raises(InputError, match=r"a\.zarr"):
        atlas.read(0, atlas.n_cells)


def test_an_object_that_vanishes_is_refused(server: Server) -> None:
    with opened(server) as atlas:
        atlas.read(0, 10)
        server.fault = Fault("404", "X/data/c/0")
        with pytest.raises(InputError, match="X/data/c/0 changed while it was being read"):
            atlas.read(10, 20)


def test_credentials_that_expire_midway(server: Server) -> None:
    server.fault = Fault("403", "X/", after=20)
    told = "credentials are missing or have expired; renew them and run again"
    with opened(server) as atlas, pytest.raises(InputError, match=told):
        list(map(atlas.read, range(0, 400, 20), range(20, 420, 20)))


def test_a_server_that_knows_no_ranges_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_store, "POLICY", QUICK)
    monkeypatch.setattr(SimpleHTTPRequestHandler, "log_message", lambda *_: None)
    handler = partial(SimpleHTTPRequestHandler, directory=str(folder))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as plain:
        thread = threading.Thread(target=plain.serve_forever, args=(0.05,))
        thread.start()
        try:
            with pytest.raises(InputError, match=r"gives whole files only.*`tigon serve`"):
                open_atlas(f"http://127.0.0.1:{plain.server_port}/a.zarr")
        finally:
            plain.shutdown()
            thread.join()


def test_nobody_at_the_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zarr_store, "POLICY", QUICK)
    with pytest.raises(InputError, match=r"cannot be fetched.*check the address, the network"):
        open_atlas("http://127.0.0.1:9/a.zarr")


def test_sources_are_only_read(server: Server) -> None:
    with opened(server) as atlas:
        atlas.read(0, atlas.n_cells)
        assert len(atlas.obs) == atlas.n_cells
    assert {asked.method for asked in server.log} <= {"GET", "HEAD"}


def test_several_readers_share_the_limit_of_requests(server: Server, on_disk: Block) -> None:
    server.latency_s = 0.005
    with opened(server) as atlas, ThreadPoolExecutor(6) as readers:
        blocks = readers.map(lambda _: atlas.read(0, atlas.n_cells), range(12))
        for block in blocks:
            assert_same(on_disk, block)
    assert 2 <= server.most_in_flight <= QUICK.in_flight


def test_closing_ends_the_threads(server: Server) -> None:
    before = set(threading.enumerate())
    with opened(server) as atlas, opened(server) as other:
        atlas.read(0, atlas.n_cells)
        atlas.close()
        other.read(0, other.n_cells)
    left = {t.name for t in set(threading.enumerate()) - before if t.name.startswith("tigon")}
    assert not left
    with pytest.raises(InputError, match="was closed: open it again"):
        other.read(0, 10)


def test_closing_in_the_midst_of_a_reading_gives_no_values_that_were_not_read(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zarr_store, "POLICY", replace(QUICK, in_flight=1))
    monkeypatch.setattr(store, "available_cpus", lambda: 1)  # closing waits for helpers
    with opened(server) as atlas, ThreadPoolExecutor(1) as reader:
        atlas.read(0, atlas.n_cells)  # knows every shard
        server.latency_s = 0.1
        n_before = len(server.log)
        reading = reader.submit(atlas.read_runs, [(0, 200), (200, 400)])
        while len(server.log) == n_before and not reading.done():
            threading.Event().wait(0.001)
        atlas.close()
        with pytest.raises(InputError, match="was closed: open it again"):
            reading.result()


def test_requests_that_a_pool_gives_up_are_errors() -> None:
    requests = [Request(0, str(i), 0, 1, (), None) for i in range(3)]
    gate = threading.Event()
    pool = ThreadPoolExecutor(1)

    def fetch() -> None:
        gate.wait()

    bodies = FetchedAhead(requests, [1] * 3, lambda _: pool.submit(fetch), budget_bytes=2)
    pool.shutdown(wait=False, cancel_futures=True)
    gate.set()
    with pytest.raises(CancelledError):
        list(iter(bodies.take, None))


def test_a_forked_process_is_told_to_open_its_own(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    with opened(server) as atlas:
        monkeypatch.setattr("tigon.storage.reading.remote.os.getpid", lambda: -1)
        with pytest.raises(InputError, match="open it in each process"):
            atlas.read(0, 10)
        monkeypatch.undo()
