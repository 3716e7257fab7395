"""The Zarr stores of a folder over HTTP, read-only and with ranges.

What is served is what lies in Zarr stores: no file beside them, nothing hidden,
nothing that a link leads to outside of the folder. Each answer carries an ETag,
and a request for a version that is gone (``If-Match``) is refused, so that a
reader notices when a store is replaced under its hands.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import FileResponse, Response
from starlette.routing import Mount
from starlette.staticfiles import NotModifiedResponse, StaticFiles

from tigon.storage.errors import InputError

if TYPE_CHECKING:
    from starlette.types import Scope

STORE_MARKS = ("zarr.json", ".zgroup")
"""A folder with one of these at its top is a store."""

SEARCHED_LEVELS = 3
"""How deep in the folder stores are looked for when the server starts."""

_HIDDEN_KEYS = frozenset({".zgroup", ".zarray", ".zattrs", ".zmetadata"})  # of Zarr version 2
_GRACE_S = 5


class StoreFiles(StaticFiles):
    """Files of Zarr stores, as an ASGI application.

    Parameters
    ----------
    folder
        A store, or a folder with stores in it.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(directory=folder)
        self._root = os.path.realpath(folder)

    def lookup_path(self, path: str) -> tuple[str, os.stat_result | None]:
        """Where the file is, and what it is; nothing for what is not shared."""
        if not self._is_shared(PurePath(path)):
            return "", None
        full_path, found = super().lookup_path(path)
        # A link may lead from a shared name to one that is not.
        if found is None or not self._is_shared(PurePath(os.path.relpath(full_path, self._root))):
            return "", None
        if not os.access(full_path, os.R_OK):
            # Not 404: Zarr takes a chunk that is absent for zeros.
            raise HTTPException(status_code=403)
        return full_path, found

    def file_response(
        self,
        full_path: str | os.PathLike[str],
        stat_result: os.stat_result,
        scope: Scope,
        status_code: int = 200,
    ) -> Response:
        """The file, or why it is not sent."""
        asked = Headers(scope=scope)
        response = _LargePieces(full_path, status_code=status_code, stat_result=stat_result)
        wanted = asked.get("if-match")
        if wanted is not None and not _is_wanted(wanted, response.headers["etag"]):
            return Response(status_code=412, headers={"etag": response.headers["etag"]})
        if self.is_not_modified(response.headers, asked):
            return NotModifiedResponse(response.headers)
        return response

    def _is_shared(self, path: PurePath) -> bool:
        hidden = [part for part in path.parts if part.startswith(".")]
        if any(part not in _HIDDEN_KEYS for part in hidden):
            return False
        folders = [Path(self._root, folder) for folder in path.parents]
        return any(is_store(folder) for folder in folders)


class _LargePieces(FileResponse):
    # Each piece is a trip to a thread and back; chunks of a store are 40 KiB to 16 MiB.
    chunk_size = 1 << 20


def _is_wanted(if_match: str, etag: str) -> bool:
    return if_match.strip() == "*" or etag in [tag.strip() for tag in if_match.split(",")]


def is_store(folder: Path) -> bool:
    """Whether a folder is a Zarr store, or a group or array within one."""
    return any((folder / mark).is_file() for mark in STORE_MARKS)


def find_stores(folder: Path) -> list[str]:
    """Paths of the stores in a folder, relative to what is served, in order of their names.

    A folder that is a store itself is served under its own name. Links are not
    followed, and folders more than three levels down are not searched.
    """
    if is_store(folder):
        return [folder.resolve().name]
    found = (path.relative_to(folder).as_posix() for path in _stores_in(folder, SEARCHED_LEVELS))
    return sorted(found)


def _stores_in(folder: Path, n_levels: int) -> Iterator[Path]:
    for path in _folders_in(folder):
        if is_store(path):
            yield path
        elif n_levels > 1:
            yield from _stores_in(path, n_levels - 1)


def _folders_in(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            return [
                Path(entry.path)
                for entry in entries
                if not entry.name.startswith(".") and entry.is_dir(follow_symlinks=False)
            ]
    except PermissionError:
        return []


def make_app(folder: Path, *, cors: bool = False) -> Starlette:
    """The application that serves a folder of stores, or a store under its own name.

    Parameters
    ----------
    folder
        What to serve.
    cors
        Let pages of other web sites read the stores.
    """
    prefix = f"/{folder.resolve().name}" if is_store(folder) else "/"
    middleware = []
    if cors:
        exposed = ["Accept-Ranges", "Content-Length", "Content-Range", "ETag"]
        middleware.append(
            Middleware(
                CORSMiddleware,
                allow_origins=["*"],
                allow_methods=["GET", "HEAD"],
                allow_headers=["Range", "If-Match", "If-None-Match"],
                expose_headers=exposed,
            )
        )
    return Starlette(routes=[Mount(prefix, StoreFiles(folder))], middleware=middleware)


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that listens, and how others reach it.

    Attributes
    ----------
    socket
        The socket.
    url
        Its address, as ``http://127.0.0.1:8080``.
    is_private
        Whether only this machine reaches it.
    """

    socket: socket.socket
    url: str
    is_private: bool


def listen(host: str, port: int) -> Listener:
    """Listen on a port; 0 takes any that is free.

    Raises
    ------
    InputError
        The port is taken or not for this user, or the host is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"cannot listen on {host}, port {port} ({reason}): the host is an address of this "
            "machine and the port one that is free; choose another --port, 0 for any"
        ) from error
    address = ip_address(listening.getsockname()[0])
    name = socket.gethostname() if address.is_unspecified else host
    shown = f"[{name}]" if ":" in name else name
    url = f"http://{shown}:{listening.getsockname()[1]}"
    return Listener(listening, url, address.is_loopback)


def run_server(app: Any, listener: Listener, *, verbose: bool = False) -> None:
    """Serve until Ctrl-C; transfers under way get five seconds to end."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_level="info" if verbose else "warning",
        access_log=verbose,
        server_header=False,
        timeout_graceful_shutdown=_GRACE_S,
    )
    uvicorn.Server(config).run(sockets=[listener.socket])
