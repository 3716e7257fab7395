"""``tigon cache``: packs that are kept for the next job."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tigon.command.options import Json, Quiet, Verbose
from tigon.command.showing.session import session

if TYPE_CHECKING:
    from tigon.storage.packs.cache import CachedPack, PackCache

cache = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown")

_HEADINGS = ("name", "atlas", "cells", "genes", "size", "used last")

Folder = Annotated[
    Path | None,
    typer.Option(
        "--cache",
        metavar="DIR",
        envvar="TIGON_CACHE",
        help="The folder that `tigon integrate --cache` keeps them in.",
        show_default=False,
    ),
]


@cache.callback()
def about() -> None:
    """Packs that are kept: the selected genes of an atlas, ready to be streamed.

    `tigon integrate --cache DIR` keeps what it packs and uses what is there already.
    Nothing is removed until you ask for it here.
    """


@cache.command("list")
def list_packs(
    folder: Folder = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the packs that are kept, the one that was used last first.

    Example: `tigon cache list --cache /scratch/packs`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown:
        packs = _opened(folder).packs()
        facts = [{name: getattr(pack, name) for name in pack.__slots__} for pack in packs]
        shown.answer({"kind": "cache", "path": str(folder), "packs": facts}, _table(packs))


@cache.command()
def clear(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[NAME]...", help="Names, or what they begin with.", show_default=False
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Remove every pack.", show_default=False)
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask.", show_default=False)
    ] = False,
    folder: Folder = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Remove packs. A job that is reading one goes on undisturbed.

    Example: `tigon cache clear pack-3f2a --cache /scratch/packs`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown:
        kept = _opened(folder)
        chosen = _chosen(kept, names or [], everything=everything)
        if not (yes or _agreed(len(chosen), sum(pack.n_bytes for pack in chosen))):
            chosen = []
        freed = kept.clear([pack.name for pack in chosen])
        facts: dict[str, Any] = {"kind": "cache", "path": str(folder), "freed_bytes": freed}
        facts["removed"] = [pack.name for pack in chosen]
        shown.answer(facts, f"removed {_packs(len(chosen))} ({_size(freed)})")


def _opened(folder: Path | None) -> PackCache:
    from tigon.storage.errors import InputError
    from tigon.storage.packs.cache import PackCache

    if folder is None:
        raise InputError(
            "no folder of packs is named: they are kept only where one is; give --cache DIR, or "
            "set TIGON_CACHE"
        )
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: packs are kept in one; check --cache")
    return PackCache(folder)


def _chosen(kept: PackCache, names: list[str], *, everything: bool) -> list[CachedPack]:
    from tigon.storage.errors import InputError

    if bool(names) == everything:
        raise InputError(
            f"{len(names)} names and {'--all' if everything else 'no --all'} were given: either "
            "names or --all say what to remove; `tigon cache list` shows the names"
        )
    if everything:
        return kept.packs()
    wanted = {kept.named(name) for name in names}
    return [pack for pack in kept.packs() if pack.name in wanted]


def _agreed(n_packs: int, n_bytes: int) -> bool:
    from tigon.storage.errors import InputError

    if not n_packs:
        return True
    what = f"{_packs(n_packs)} ({_size(n_bytes)})"
    if not _can_ask():
        raise InputError(f"{what} would be removed: nobody can be asked here; give --yes")
    return typer.confirm(f"Remove {what}?", err=True)


def _can_ask() -> bool:
    return sys.stdin.isatty()


def _table(packs: list[CachedPack]) -> str:
    """One line a pack, columns in step."""
    if not packs:
        return "no packs are kept"
    rows = [_HEADINGS, *(_row(pack) for pack in packs)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(_HEADINGS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def _row(pack: CachedPack) -> tuple[str, ...]:
    used = time.strftime("%Y-%m-%d %H:%M", time.localtime(pack.last_used))
    atlas = pack.atlas or "(cannot be read)"
    return pack.name, atlas, f"{pack.n_cells:,}", f"{pack.n_genes:,}", _size(pack.n_bytes), used


def _packs(n: int) -> str:
    return f"{n:,} pack" if n == 1 else f"{n:,} packs"


def _size(n_bytes: int) -> str:
    from tigon.wording import tell_bytes

    return str(tell_bytes(n_bytes))
