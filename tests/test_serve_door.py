"""`tigon serve` as people meet it: what it says, how it ends, and several readers at once."""

from __future__ import annotations

import hashlib
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from builders import make_adata, make_counts
from command_line import refused, start, tigon, works
from run_builder import build_contents
from scipy import sparse

import tigon as package
from tigon.storage import open_atlas, write_atlas
from tigon.storage.runs.write import write_run

BLOCK_CELLS = 700
HASH = f"""
import hashlib, sys
import tigon

def hashed(path):
    found = hashlib.sha256()
    with tigon.open(path) as atlas:
        for start in range(0, atlas.n_cells, {BLOCK_CELLS}):
            block = atlas.read(start, min(start + {BLOCK_CELLS}, atlas.n_cells))
            for array in (block.indptr, block.indices, block.values):
                found.update(array.tobytes())
    return found.hexdigest()
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("atlases")
    counts = sparse.random(6000, 300, 0.1, "csr", rng=np.random.default_rng(0))
    counts.data = np.ceil(counts.data * 40)
    atlas = open_atlas(make_adata(counts))
    write_atlas(atlas, folder / "my atlas.zarr", chunk_nonzeros=4096, shard_chunks=4).close()
    write_atlas(open_atlas(make_adata(make_counts())), folder / "small.zarr").close()
    write_run(folder / "run.zarr", build_contents(n_cells=50))
    return folder


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """The process, and what it says first."""
    process = start("serve", folder, "--port", "0", *options, folder=folder.parent)
    assert process.stdout is not None
    lines = [process.stdout.readline()]
    while "--json" not in options and not lines[-1].startswith("  tigon integrate"):
        lines.append(process.stdout.readline())
        assert lines[-1], process.communicate()[1]
    try:
        yield process, [line.rstrip("\n") for line in lines]
    finally:
        process.kill()
        process.communicate()


def test_it_tells_where_the_stores_are_and_stops_cleanly(folder: Path) -> None:
    with serving(folder) as (process, lines):
        assert lines[0] == f"serving {folder} (Ctrl-C ends it)"
        url = lines[1].strip().rpartition("/")[0]
        assert lines[1:] == [
            f"  {url}/my%20atlas.zarr",
            f"  {url}/run.zarr",
            f"  {url}/small.zarr",
            "for instance",
            f"  tigon integrate {url}/my%20atlas.zarr --out run.zarr",
        ]
        assert url.startswith("http://127.0.0.1:")
        told = works("info", f"{url}/my%20atlas.zarr").stdout
        assert "6,000" in told
        assert "on disk" not in told
        assert "digest" in told
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate()
        assert (process.returncode, rest, said) == (0, "stopped\n", "")


def test_json_and_a_warning_when_others_can_read(folder: Path) -> None:
    with serving(folder, "--json", "--host", "0.0.0.0") as (process, lines):
        facts = json.loads(lines[0])
        assert [url.rpartition("/")[2] for url in facts["stores"]] == [
            *("my%20atlas.zarr", "run.zarr", "small.zarr")
        ]
        assert "0.0.0.0" not in facts["url"]
        process.send_signal(signal.SIGINT)
        rest, said = process.communicate()
        assert (process.returncode, rest) == (0, "")
        assert said.startswith("note: anybody who can reach http://")


def test_what_cannot_be_served_is_refused(folder: Path, tmp_path: Path) -> None:
    assert "is not a folder" in refused(tmp_path, "serve", tmp_path / "absent")
    assert "holds no Zarr store" in refused(tmp_path, "serve", tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "address already in use" in refused(tmp_path, "serve", folder, "--port", str(port))
    assert tigon("serve", folder, "--port", "70000").exit_code == 2


def test_without_the_extra_it_says_what_to_install(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(package, "serving", raising=False)
    monkeypatch.delitem(sys.modules, "tigon.serving", raising=False)
    monkeypatch.setitem(sys.modules, "starlette.applications", None)
    assert "install tigon[serve]" in refused(tmp_path, "serve", folder)


def test_four_readers_at_once_get_the_bytes_of_the_disk(folder: Path) -> None:
    made: dict[str, object] = {}
    exec(HASH, made)
    expected = made["hashed"](folder / "my atlas.zarr")  # type: ignore[operator]
    assert len(expected) == len(hashlib.sha256().hexdigest())
    with serving(folder) as (_, lines):
        call = [sys.executable, "-c", f"{HASH}\nprint(hashed(sys.argv[1]))", lines[1].strip()]
        readers = [
            subprocess.Popen(call, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for _ in range(4)
        ]
        for reader in readers:
            out, err = reader.communicate()
            assert (reader.returncode, out.strip()) == (0, expected), err
