"""A web server of a folder that understands ranges, slow and faulty as asked.

In a test: ``with serve(folder) as server``. As a program, for benchmarks, which must not
share a process with it: ``python faulty_server.py FOLDER --latency 0.02``.
"""

from __future__ import annotations

import argparse
import json
import socket
import struct
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

ASKED = "/-/asked"
"""Where a server tells which requests it had: method, path and range of each."""


class Asked(NamedTuple):
    """One request: its method, path and range as the header has it."""

    method: str
    path: str
    range: str | None


@dataclass
class Fault:
    """What happens to some requests.

    ``kind`` is the number of a status ("503"), or one of: reset (before the answer), stall
    (no answer), truncated (the body breaks off), short (a well-formed answer of half the
    range), corrupted (a byte flipped), changed (another ETag, whatever If-Match says).
    """

    kind: str
    path: str = ""
    times: int | None = None
    after: int = 0

    def strikes(self, asked: Asked) -> bool:
        if asked.method != "GET" or self.path not in asked.path:
            return False
        if self.after > 0:
            self.after -= 1
            return False
        if self.times is None:
            return True
        self.times -= 1
        return self.times >= 0


@dataclass
class Server:
    """A running server; its fields may be changed while it runs."""

    root: Path
    url: str = ""
    latency_s: float = 0.0
    bytes_per_s: float | None = None
    fault: Fault | None = None
    log: list[Asked] = field(default_factory=list)
    most_in_flight: int = 0
    n_in_flight: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    released: threading.Event = field(default_factory=threading.Event)
    _free_at: float = 0.0

    def of(self, part: str) -> list[Asked]:
        """Requests whose path has ``part`` in it."""
        return [asked for asked in self.log if part in asked.path]

    def begin(self, asked: Asked) -> Fault | None:
        with self.lock:
            self.log.append(asked)
            self.n_in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.n_in_flight)
            struck = self.fault is not None and self.fault.strikes(asked)
            return self.fault if struck else None

    def end(self) -> None:
        with self.lock:
            self.n_in_flight -= 1

    def wait_for_room(self, n_bytes: int) -> None:
        """All connections share one link of ``bytes_per_s``."""
        with self.lock:
            if self.bytes_per_s is None:
                return
            now = time.monotonic()
            self._free_at = max(now, self._free_at) + n_bytes / self.bytes_per_s
            pause = self._free_at - now
        time.sleep(pause)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: Server

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = self.path.split("?")[0]
        if path == ASKED:
            self._send(200, json.dumps(self.state.log).encode(), {})
            return
        fault = self.state.begin(Asked(self.command, path, self.headers.get("Range")))
        time.sleep(self.state.latency_s)
        self.state.end()  # a client that has its body may ask again before this thread goes on
        self._give(self.state.root / path.lstrip("/"), fault.kind if fault else "")

    def _give(self, path: Path, fault: str) -> None:
        if fault.isdigit():
            self._send(int(fault), b"", {})
            return
        if fault == "reset":
            self._break_off()
            return
        if fault == "stall":
            self.state.released.wait(20)
            self.close_connection = True
            return
        if not path.is_file():
            self._send(404, b"", {})
            return
        self._give_file(path, fault)

    def _give_file(self, path: Path, fault: str) -> None:
        status = path.stat()
        tag = f'"{status.st_mtime_ns}-{status.st_size}"' if fault != "changed" else '"another"'
        described = {"ETag": tag, "Last-Modified": self.date_time_string(int(status.st_mtime))}
        wanted = self.headers.get("If-Match")
        if fault != "changed" and wanted not in (None, "*", tag):
            self._send(412, b"", described)
            return
        start, stop = _range(self.headers.get("Range"), status.st_size)
        if fault == "short":
            stop = (start + stop) // 2
        with path.open("rb") as file:
            file.seek(start)
            body = file.read(stop - start)
        if fault == "corrupted":
            middle = len(body) // 2
            body = body[:middle] + bytes([body[middle] ^ 1]) + body[middle + 1 :]
        if self.headers.get("Range"):
            described["Content-Range"] = f"bytes {start}-{stop - 1}/{status.st_size}"
        code = 206 if self.headers.get("Range") else 200
        self._send(code, body, described, sent=len(body) // 2 if fault == "truncated" else None)

    def _send(
        self, code: int, body: bytes, described: dict[str, str], *, sent: int | None = None
    ) -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Accept-Ranges", "bytes")
        for name, value in described.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        whole = memoryview(body)[:sent]
        for start in range(0, len(whole), 1 << 18):
            piece = whole[start : start + (1 << 18)]
            self.state.wait_for_room(len(piece))
            self.wfile.write(piece)
        if sent is not None:
            self.wfile.flush()
            self._break_off()

    def _break_off(self) -> None:
        """Reset the connection."""
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()
        self.close_connection = True

    def handle_one_request(self) -> None:
        with suppress(OSError, ValueError):  # of connections broken off
            super().handle_one_request()
            return
        self.close_connection = True

    def finish(self) -> None:
        with suppress(OSError, ValueError):
            super().finish()

    def log_message(self, *args: object) -> None:
        """Stay quiet."""


def _range(asked: str | None, size: int) -> tuple[int, int]:
    if asked is None:
        return 0, size
    first, last = asked.removeprefix("bytes=").split("-")
    if not first:
        return max(0, size - int(last)), size
    return int(first), min(int(last) + 1, size) if last else size


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Connections that break off are what these tests are about."""


@contextmanager
def serve(folder: Path, *, port: int = 0) -> Iterator[Server]:
    """Serve ``folder`` on this machine."""
    state = Server(folder)
    listener = _Listener(("127.0.0.1", port), type("Handler", (_Handler,), {"state": state}))
    state.url = f"http://127.0.0.1:{listener.server_port}"
    thread = threading.Thread(target=listener.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield state
    finally:
        state.released.set()
        listener.shutdown()
        listener.server_close()
        thread.join()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--latency", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--bytes-per-second", type=float, default=None)
    chosen = parser.parse_args()
    with serve(chosen.folder) as server:
        server.latency_s, server.bytes_per_s = chosen.latency, chosen.bytes_per_second
        print(server.url, flush=True)
        sys.stdin.read()  # until whoever started it closes its end


if __name__ == "__main__":
    _main()
