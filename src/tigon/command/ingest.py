"""``tigon ingest``: count files into one atlas."""

from __future__ import annotations

from typing import Annotated

import typer

from tigon.command.leftovers import nothing_left
from tigon.command.options import (
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


def ingest(
    sources: Sources,
    *,
    join: JoinOption = Join.inner,
    gene_id_column: GeneIdColumn = None,
    layer: Layer = None,
    raw: Raw = False,
    allow_non_integer: AllowNonInteger = False,
    out: Annotated[
        str,
        typer.Option(metavar="ATLAS.zarr", help="The atlas to make.", rich_help_panel=OUTPUT),
    ],
    overwrite: Overwrite = False,
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
        with (
            atlas,
            tigon.write_atlas(atlas, out, overwrite=overwrite, progress=shown.progress) as written,
        ):
            facts = describe_atlas(written, out)
        shown.answer(facts, tell_atlas(facts))
