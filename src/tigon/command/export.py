"""``tigon export``: a run as one .h5ad file."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Annotated

import typer

from tigon.command.options import (
    INPUT,
    AllowNonInteger,
    AnyRunPath,
    GeneIdColumn,
    Join,
    JoinOption,
    Json,
    Layer,
    Overwrite,
    Quiet,
    Raw,
    Verbose,
)
from tigon.command.showing.session import session


def export(
    run: AnyRunPath,
    out: Annotated[
        str, typer.Argument(metavar="OUT.h5ad", help="The file to make.", show_default=False)
    ],
    atlas: Annotated[
        list[str] | None,
        typer.Option(
            "--atlas",
            metavar="SOURCE",
            help="Take the counts of the run's cells and genes from here: what was integrated. "
            "Repeat it for several sources.",
            show_default="no counts",
            rich_help_panel=INPUT,
        ),
    ] = None,
    join: JoinOption = Join.inner,
    gene_id_column: GeneIdColumn = None,
    layer: Layer = None,
    raw: Raw = False,
    allow_non_integer: AllowNonInteger = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write a run as one .h5ad file, for tools that want one.

    With `--atlas` its X holds the counts of the selected genes, as float32.

    Example: `tigon export run.zarr run.h5ad --atlas atlas.zarr`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown, ExitStack() as opened:
        import tigon
        from tigon.command.showing.describe import size_on_disk, tell_export
        from tigon.storage.runs.counts import RunCounts
        from tigon.storage.runs.export import export_h5ad
        from tigon.storage.runs.run import Run

        result = Run.open(run)
        counts = None
        if atlas:
            counts = RunCounts.find(
                result,
                opened.enter_context(
                    tigon.open(
                        atlas[0] if len(atlas) == 1 else atlas,
                        join=join.value,
                        gene_id_column=gene_id_column,
                        layer=layer,
                        raw=raw,
                        allow_non_integer=allow_non_integer,
                    )
                ),
            )
        export_h5ad(
            result,
            out,
            counts=counts,
            gene_positions=None if counts is None else counts.genes,
            overwrite=overwrite,
            progress=shown.progress,
        )
        facts = {
            "kind": "export",
            "path": out,
            "n_cells": len(result.obs),
            "n_genes": len(result.genes),
            "counts": counts is not None,
            "n_bytes": size_on_disk(out),
        }
        shown.answer(facts, tell_export(facts))
