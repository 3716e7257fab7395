"""``tigon convert``: an atlas from one profile to another."""

from __future__ import annotations

from typing import Annotated

import typer

from tigon.command.ingest import (
    PROFILES,
    MemoryLimit,
    Profile,
    Scratch,
    Threads,
    writing_options,
)
from tigon.command.leftovers import nothing_left
from tigon.command.options import Json, Overwrite, Quiet, Verbose
from tigon.command.showing.session import session
from tigon.command.values import check_spared


def convert(
    atlas: Annotated[
        str,
        typer.Argument(
            metavar="ATLAS", help="An atlas of Tigon, or another AnnData file.", show_default=False
        ),
    ],
    out: Annotated[
        str,
        typer.Argument(
            metavar="OUT.zarr", help="The atlas to make: a folder or a bucket.", show_default=False
        ),
    ],
    *,
    profile: Annotated[Profile, typer.Option("--profile", help=PROFILES)],
    overwrite: Overwrite = False,
    n_threads: Threads = None,
    memory_limit: MemoryLimit = "2GiB",
    scratch: Scratch = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write an atlas in another profile, with all that is in it.

    Counts are streamed and checked against the digest that was noted when they
    were first written. Of AnnData files that are not Tigon's, the counts and
    tables are taken, as `tigon ingest` does.

    Example: `tigon convert atlas.zarr s3://bucket/atlas.zarr --profile network`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown, nothing_left(out):
        from tigon.command.showing.describe import describe_atlas, tell_atlas
        from tigon.storage.converting import convert_atlas

        check_spared([atlas], out)
        how = writing_options(profile, overwrite, n_threads, memory_limit, scratch)
        with convert_atlas(atlas, out, progress=shown.progress, **how) as written:
            facts = describe_atlas(written, out)
        shown.answer(facts, tell_atlas(facts))
