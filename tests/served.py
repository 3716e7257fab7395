"""The server of `tigon serve` on a thread of the tests, with a list of what it was asked for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from tigon.serving import listen, make_app


class Asked:
    """An application that notes requests and hands them on.

    Attributes
    ----------
    requests
        Method, path and range of every request.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self.requests: list[tuple[str, str, str]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asked = dict(scope["headers"]).get(b"range", b"").decode()
            self.requests.append((scope["method"], scope["path"], asked))
        await self._app(scope, receive, send)


@contextmanager
def served_and_noted(folder: Path, *, cors: bool = False) -> Iterator[tuple[str, Asked]]:
    """Serve a folder; gives its address, and what is asked for."""
    listener = listen("127.0.0.1", 0)
    app = Asked(make_app(folder, cors=cors))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener.socket]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.01)
        yield listener.url, app
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def served(folder: Path, *, cors: bool = False) -> Iterator[str]:
    """Serve a folder; gives its address."""
    with served_and_noted(folder, cors=cors) as (url, _):
        yield url
