"""Sharing stores over HTTP: what is served, to whom, and what does not get out."""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import obstore
import pytest
from builders import make_adata, make_counts, write_zarr
from obstore.store import HTTPStore
from served import served

import tigon
from tigon.serving import find_stores, listen
from tigon.storage import open_atlas, write_atlas
from tigon.storage.errors import InputError

SECRET = b"not for others"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an atlas, and things that are nobody's business around it."""
    outside = tmp_path_factory.mktemp("outside")
    folder = outside / "shared"
    folder.mkdir()
    write_atlas(open_atlas(make_adata(make_counts(500, 30))), folder / "atlas.zarr").close()
    (folder / "nested").mkdir()
    write_zarr(make_adata(), folder / "nested" / "old.zarr", zarr_format=2)
    (outside / "secret").write_bytes(SECRET)
    (folder / "notes.txt").write_bytes(SECRET)
    for name in (".hidden", ".tigon-lock-atlas.zarr", "atlas.zarr/.secret", "atlas.zarr/obs/.lock"):
        (folder / name).write_bytes(SECRET)
    aside = folder / ".next.zarr.tigon-partial-host-1"
    aside.mkdir()
    (aside / "zarr.json").write_bytes(SECRET)
    (folder / "atlas.zarr" / "file-link").symlink_to(outside / "secret")
    (folder / "atlas.zarr" / "folder-link").symlink_to(outside)
    (folder / "atlas.zarr" / "relative-link").symlink_to("../../secret")
    (folder / "atlas.zarr" / "hidden-link").symlink_to(folder / ".hidden")
    (folder / "atlas.zarr" / "inner-link").symlink_to("zarr.json")
    (outside / "other.zarr").mkdir()
    (outside / "other.zarr" / "zarr.json").write_bytes(SECRET)
    (folder / "store-link.zarr").symlink_to(outside / "other.zarr")
    return folder


@pytest.fixture(scope="module")
def url(root: Path) -> Iterator[str]:
    with served(root) as url:
        yield url


def ask(url: str, target: bytes, method: bytes = b"GET", headers: bytes = b"") -> tuple[int, bytes]:
    """Send a request as it stands, with nothing made proper on the way."""
    parts = urlsplit(url)
    with socket.create_connection((str(parts.hostname), int(parts.port or 0))) as connection:
        lines = method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        connection.sendall(lines + headers + b"\r\n")
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def test_files_of_stores_are_served(url: str, root: Path) -> None:
    for name in (
        "atlas.zarr/zarr.json",
        "atlas.zarr/X/data/c/0",
        "atlas.zarr/inner-link",
        "nested/old.zarr/.zgroup",
        "nested/old.zarr/X/indptr/.zarray",
    ):
        assert ask(url, f"/{name}".encode()) == (200, (root / name).read_bytes())


@pytest.mark.parametrize(
    "target",
    [
        b"/../secret",
        b"/atlas.zarr/../../secret",
        b"/%2e%2e/secret",
        b"/atlas.zarr/%2e%2e/%2e%2e/secret",
        b"/atlas.zarr/..%2f..%2fsecret",
        b"/atlas.zarr/..%5c..%5csecret",
        b"/atlas.zarr/%252e%252e/%252e%252e/secret",
        b"/..%c0%af..%c0%afsecret",
        b"//secret",
        b"/%2f%2fsecret",
        b"/atlas.zarr/\x00/../../secret",
        b"/atlas.zarr/zarr.json%00",
        b"/%00",
        b"/atlas.zarr/file-link",
        b"/atlas.zarr/folder-link/secret",
        b"/atlas.zarr/folder-link/shared/notes.txt",
        b"/atlas.zarr/relative-link",
        b"/atlas.zarr/hidden-link",
        b"/store-link.zarr/zarr.json",
        b"/.hidden",
        b"/.tigon-lock-atlas.zarr",
        b"/.next.zarr.tigon-partial-host-1/zarr.json",
        b"/atlas.zarr/.secret",
        b"/atlas.zarr/obs/.lock",
        b"/atlas.zarr/obs/../../.hidden",
        b"/notes.txt",
        b"/atlas.zarr/../notes.txt",
        b"/",
        b"/atlas.zarr",
        b"/atlas.zarr/",
        b"/nested/",
        b"/atlas.zarr/" + b"x" * 5000,
        b"http://elsewhere/secret",
        b"secret",
        b"*",
    ],
)
def test_nothing_else_is(url: str, root: Path, target: bytes) -> None:
    absolute = str(root.parent / "secret").encode()
    for each in (target, target.replace(b"secret", absolute), target.replace(b"%2e", b"%2E")):
        status, body = ask(url, each)
        assert status in (400, 404), each
        assert SECRET not in body


def test_a_trailing_slash_names_no_file(url: str, root: Path) -> None:
    """Not the file either: a client that asks for a folder gets none."""
    status, body = ask(url, b"/atlas.zarr/X/")
    assert (status, b"zarr" in body) == (404, False)


@pytest.mark.parametrize("method", [b"PUT", b"POST", b"DELETE", b"PATCH", b"OPTIONS", b"PROPFIND"])
def test_nothing_is_written(url: str, root: Path, method: bytes) -> None:
    before = (root / "atlas.zarr/zarr.json").read_bytes()
    status, _ = ask(url, b"/atlas.zarr/zarr.json", method, b"Content-Length: 0\r\n")
    assert status == 405
    assert (root / "atlas.zarr/zarr.json").read_bytes() == before


def test_a_file_that_may_not_be_read_is_not_absent(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zarr takes what is absent for zeros."""
    assert ask(url, b"/atlas.zarr/zarr.json")[0] == 200
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert ask(url, b"/atlas.zarr/zarr.json")[0] == 403


def test_a_store_is_served_under_its_own_name(root: Path) -> None:
    assert find_stores(root / "atlas.zarr") == ["atlas.zarr"]
    with served(root / "atlas.zarr") as url:
        assert ask(url, b"/atlas.zarr/zarr.json")[0] == 200
        assert ask(url, b"/zarr.json")[0] == 404
        assert ask(url, b"/atlas.zarr/../nested/old.zarr/.zgroup")[0] == 404
        with tigon.open(f"{url}/atlas.zarr") as atlas:
            assert atlas.source_names == ["adata0"]


def test_stores_are_found_but_not_in_hidden_places_or_through_links(root: Path) -> None:
    assert find_stores(root) == ["atlas.zarr", "nested/old.zarr"]


def test_ranges_over_one_connection(url: str, root: Path) -> None:
    """Range, suffix, past the end, none, HEAD and revalidation, all on one kept connection."""
    content = (root / "atlas.zarr/X/indices/c/0").read_bytes()
    n = len(content)
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(str(parts.hostname), parts.port)

    def get(asked: str | None, method: str = "GET", **headers: str) -> tuple[int, bytes, Any]:
        if asked is not None:
            headers["Range"] = f"bytes={asked}"
        connection.request(method, "/atlas.zarr/X/indices/c/0", headers=headers)
        local = connection.sock.getsockname()
        answer = connection.getresponse()
        body = answer.read()
        seen.add(local)
        return answer.status, body, answer.headers

    seen: set[Any] = set()
    status, body, headers = get(None)
    assert (status, body, headers["Accept-Ranges"]) == (200, content, "bytes")
    status, body, headers = get("10-19")
    assert (status, body) == (206, content[10:20])
    assert headers["Content-Range"] == f"bytes 10-19/{n}"
    assert get("-7")[:2] == (206, content[-7:])
    assert get(f"5-{n + 100}")[:2] == (206, content[5:])
    assert get(f"{n}-")[0] == 416
    status, body, headers = get(None, "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(n))
    etag = headers["ETag"]
    assert get(None, **{"If-None-Match": etag})[:2] == (304, b"")
    assert get("0-3", **{"If-Match": etag})[:2] == (206, content[:4])
    assert get("0-3", **{"If-Match": '"another"'})[:2] == (412, b"")
    assert len(seen) == 1
    connection.close()


def test_obstore_reads_ranges(url: str, root: Path) -> None:
    store = HTTPStore.from_url(url, client_options={"allow_http": True})
    path = "atlas.zarr/X/indices/c/0"
    content = (root / path).read_bytes()
    assert obstore.head(store, path)["size"] == len(content)
    starts = list(range(0, len(content) - 8, 97))
    pieces = obstore.get_ranges(store, path, starts=starts, lengths=[8] * len(starts), coalesce=0)
    assert [bytes(piece) for piece in pieces] == [content[s : s + 8] for s in starts]
    tail = obstore.get(store, path, options={"range": {"suffix": 5}})
    assert bytes(tail.bytes()) == content[-5:]
    etag = obstore.head(store, path)["e_tag"]
    assert bytes(obstore.get(store, path, options={"if_match": etag}).bytes()) == content


def test_a_replaced_file_is_noticed(tmp_path: Path) -> None:
    store_folder = tmp_path / "a.zarr"
    store_folder.mkdir()
    (store_folder / "zarr.json").write_text("{}")
    (store_folder / "c").write_bytes(b"first")
    with served(tmp_path) as url:
        store = HTTPStore.from_url(url, client_options={"allow_http": True})
        etag = obstore.head(store, "a.zarr/c")["e_tag"]
        (store_folder / "c").write_bytes(b"second")
        with pytest.raises(obstore.exceptions.PreconditionError):
            obstore.get(store, "a.zarr/c", options={"if_match": etag})


def test_pages_from_elsewhere_read_only_when_allowed(root: Path, url: str) -> None:
    def allowed(url: str, method: str, **headers: str) -> tuple[int, str | None]:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(str(parts.hostname), parts.port)
        headers["Origin"] = "https://elsewhere.example"
        connection.request(method, "/atlas.zarr/zarr.json", headers=headers)
        answer = connection.getresponse()
        answer.read()
        connection.close()
        return answer.status, answer.headers["Access-Control-Allow-Origin"]

    assert allowed(url, "GET") == (200, None)
    preflight = {
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "range",
    }
    with served(root, cors=True) as open_url:
        assert allowed(open_url, "GET") == (200, "*")
        assert allowed(open_url, "OPTIONS", **preflight) == (200, "*")
        preflight["Access-Control-Request-Method"] = "PUT"
        assert allowed(open_url, "OPTIONS", **preflight)[0] == 400


def test_atlas_over_http_is_the_atlas(url: str, root: Path) -> None:
    with tigon.open(f"{url}/atlas.zarr") as remote, tigon.open(root / "atlas.zarr") as local:
        assert remote.shape == local.shape
        for start in range(0, local.n_cells, 123):
            stop = min(start + 123, local.n_cells)
            one, other = remote.read(start, stop), local.read(start, stop)
            np.testing.assert_array_equal(one.indptr, other.indptr)
            np.testing.assert_array_equal(one.indices, other.indices)
            np.testing.assert_array_equal(one.values, other.values)
        assert remote.obs.equals(local.obs)


def test_an_address_of_another_machine() -> None:
    with pytest.raises(InputError, match=r"cannot listen on 203.0.113.7, port 0 \("):
        listen("203.0.113.7", 0)


def test_a_port_that_is_taken() -> None:
    first = listen("127.0.0.1", 0)
    try:
        port = first.socket.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} .*choose another --port"):
            listen("127.0.0.1", port)
    finally:
        first.socket.close()


@pytest.mark.parametrize(("host", "private"), [("127.0.0.1", True), ("0.0.0.0", False)])
def test_whether_others_can_reach_it(host: str, private: bool) -> None:
    listener = listen(host, 0)
    listener.socket.close()
    assert listener.is_private is private
    assert "0.0.0.0" not in listener.url
