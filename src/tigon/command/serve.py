"""``tigon serve``: atlases of a folder over HTTP."""

from __future__ import annotations

import logging
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import quote

import typer

from tigon.command.options import Json, Quiet, Verbose
from tigon.command.showing.session import session

if TYPE_CHECKING:
    from tigon.serving import Listener


def serve(
    folder: Annotated[
        str,
        typer.Argument(
            metavar="DIR", help="A folder with atlases or runs in it.", show_default=False
        ),
    ],
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS",
            help="Listen on this address; 0.0.0.0 for every network of this machine.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(metavar="N", min=0, max=65535, help="Port; 0 for any that is free.")
    ] = 8080,
    cors: Annotated[
        bool, typer.Option("--cors", help="Let web pages from elsewhere read the stores.")
    ] = False,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Share the atlases and runs of a folder over HTTP, until Ctrl-C.

    Others stream what they need from the one copy, which is never written to.
    Only files in Zarr stores are served, to this machine alone unless `--host`
    says otherwise.

    Example: `tigon serve atlases`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown:
        serving = _import_serving()
        place = Path(folder)
        stores = _find_stores(place)
        listener = serving.listen(host, port)
        if not listener.is_private:
            logging.getLogger("tigon").warning(
                "anybody who can reach %s can read these stores: there is no password", listener.url
            )
        facts = {"kind": "server", "url": listener.url, "stores": _urls(stores, listener)}
        with suppress(KeyboardInterrupt):
            shown.answer(facts, _tell(place, stores, listener))
            serving.run_server(serving.make_app(place, cors=cors), listener, verbose=verbose)
        if not (quiet or as_json):
            typer.echo("stopped")


def _import_serving() -> Any:
    from tigon.storage.errors import InputError

    try:
        from tigon import serving
    except ImportError as error:
        raise InputError(
            f"the web server is not installed ({error.name}): it is an extra of Tigon; install "
            "tigon[serve]"
        ) from error
    return serving


def _find_stores(folder: Path) -> list[str]:
    from tigon.serving import SEARCHED_LEVELS, find_stores
    from tigon.storage.errors import InputError

    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder: name one with atlases in it")
    stores = find_stores(folder)
    if not stores:
        raise InputError(
            f"{folder} holds no Zarr store, nor do the folders in it, {SEARCHED_LEVELS} levels "
            "down: nothing else is served; make an atlas with `tigon ingest`"
        )
    return stores


def _tell(folder: Path, stores: list[str], listener: Listener) -> str:
    from tigon.command.showing.describe import is_run
    from tigon.serving import is_store

    parent = folder.resolve().parent if is_store(folder) else folder
    atlases = [store for store in stores if not is_run(str(parent / store))]
    lines = [f"serving {folder} (Ctrl-C ends it)", *(f"  {u}" for u in _urls(stores, listener))]
    if atlases:
        first = _urls(atlases, listener)[0]
        lines += ["for instance", f"  tigon integrate {first} --out run.zarr"]
    return "\n".join(lines)


def _urls(stores: list[str], listener: Listener) -> list[str]:
    return [f"{listener.url}/{quote(store)}" for store in stores]
