"""``tigon ingest``: count files into one atlas."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from tigon.command.leftovers import nothing_left
from tigon.command.options import (
    MACHINE,
    OUTPUT,
    AllowNonInteger,
    GeneIdColumn,
    Join,
    JoinOption,
    Json,
    Layer,
    Overwrite,
    Quiet,
    Raw,
    Sources,
    Verbose,
)
from tigon.command.showing.session import session
from tigon.command.values import check_spared


class Profile(StrEnum):
    """How an atlas is compressed."""

    local = "local"
    network = "network"


PROFILES = (
    "local: quick, readable by any Zarr software; network: half the bytes or fewer, for "
    "buckets and web servers, readable from Python and Rust."
)

Threads = Annotated[
    int | None,
    typer.Option(
        "--n-threads",
        help="Threads that read and compress; the atlas does not depend on it.",
        show_default="all processors, up to 8",
        rich_help_panel=MACHINE,
    ),
]
MemoryLimit = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="Never use more memory than this: 512MiB, 2GiB, ...",
        rich_help_panel=MACHINE,
    ),
]
Scratch = Annotated[
    str | None,
    typer.Option(
        metavar="DIR",
        help="Folder for an atlas on its way to a bucket.",
        show_default="the system's temporary folder",
        rich_help_panel=MACHINE,
    ),
]
Out = Annotated[
    str,
    typer.Option(
        metavar="ATLAS.zarr",
        help="The atlas to make: a folder, or a place in a bucket (s3://bucket/atlas.zarr).",
        rich_help_panel=OUTPUT,
    ),
]


def ingest(
    sources: Sources,
    *,
    join: JoinOption = Join.inner,
    gene_id_column: GeneIdColumn = None,
    layer: Layer = None,
    raw: Raw = False,
    allow_non_integer: AllowNonInteger = False,
    out: Out,
    profile: Annotated[
        Profile, typer.Option("--profile", help=PROFILES, rich_help_panel=OUTPUT)
    ] = Profile.local,
    overwrite: Overwrite = False,
    n_threads: Threads = None,
    memory_limit: MemoryLimit = "2GiB",
    scratch: Scratch = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Make one atlas of count files.

    The counts are checked and stored as compressed Zarr, in bounded memory;
    `tigon integrate` reads an atlas faster than the files it came from. Where
    each cell came from is kept in the column `tigon_dataset`.

    Example: `tigon ingest ctrl.h5ad stim.h5ad --out atlas.zarr`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown, nothing_left(out):
        import tigon
        from tigon.command.showing.describe import describe_atlas, tell_atlas

        check_spared(sources, out)
        atlas = tigon.open(
            sources,
            join=join.value,
            gene_id_column=gene_id_column,
            layer=layer,
            raw=raw,
            allow_non_integer=allow_non_integer,
        )
        how = writing_options(profile, overwrite, n_threads, memory_limit, scratch)
        with atlas, tigon.write_atlas(atlas, out, progress=shown.progress, **how) as written:
            facts = describe_atlas(written, out)
        shown.answer(facts, tell_atlas(facts))


def writing_options(
    profile: Profile,
    overwrite: bool,
    n_threads: int | None,
    memory_limit: str,
    scratch: str | None,
) -> dict[str, Any]:
    """Options of the command line as ``write_atlas`` takes them."""
    from pathlib import Path

    from tigon.scaling.budget import parse_bytes

    return {
        "profile": profile.value,
        "overwrite": overwrite,
        "n_threads": n_threads,
        "memory_limit": parse_bytes(memory_limit),
        "scratch": None if scratch is None else Path(scratch),
    }
