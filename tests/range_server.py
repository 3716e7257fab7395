"""A web server of a folder that understands ranges, as object stores do."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    root: Path

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def _answer(self, *, with_body: bool) -> None:
        path = self.root / self.path.split("?")[0].lstrip("/")
        if not path.is_file():
            self._send(404, b"", "")
            return
        content = path.read_bytes()
        asked = self.headers.get("Range")
        if asked is None:
            self._send(200, content, "", with_body=with_body)
            return
        first, last = _range(asked, len(content))
        described = f"bytes {first}-{last}/{len(content)}"
        self._send(206, content[first : last + 1], described, with_body=with_body)

    def _send(self, status: int, body: bytes, described: str, *, with_body: bool = True) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        if described:
            self.send_header("Content-Range", described)
        self.end_headers()
        if with_body:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


def _range(asked: str, size: int) -> tuple[int, int]:
    first, last = asked.removeprefix("bytes=").split("-")
    if not first:
        return size - int(last), size - 1
    return int(first), min(int(last), size - 1) if last else size - 1


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve ``folder`` on this machine; gives its address."""
    handler = type("Handler", (_Handler,), {"root": folder})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
