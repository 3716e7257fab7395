"""``tigon update``: a run and new cells make the next run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tigon.command.leftovers import nothing_left
from tigon.command.options import (
    CELLS,
    FACTORS,
    INPUT,
    KINDS,
    OUTPUT,
    AllowNonInteger,
    Cache,
    GeneIdColumn,
    Join,
    JoinOption,
    Json,
    LaterBatchKey,
    Layer,
    MemoryLimit,
    Overwrite,
    Quiet,
    Raw,
    RunPath,
    SmallDatasets,
    Threads,
    Verbose,
    WriteReport,
)
from tigon.command.remembering import as_called
from tigon.command.showing.session import session
from tigon.command.values import check_spared, number_or


def update(
    context: typer.Context,
    run: RunPath,
    new: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NEW]...", help=f"New cells: {KINDS}.", show_default=False),
    ] = None,
    *,
    out: Annotated[
        str,
        typer.Option(
            metavar="RUN2.zarr",
            help="The run to make; its report, with the ending .html, goes beside it.",
            rich_help_panel=OUTPUT,
        ),
    ],
    batch_key: LaterBatchKey = None,
    drop: Annotated[
        list[str] | None,
        typer.Option(
            "--drop",
            metavar="DATASET",
            help="Remove this dataset from the run. Repeat it for several.",
            show_default="none",
            rich_help_panel=INPUT,
        ),
    ] = None,
    refresh: Annotated[
        list[str] | None,
        typer.Option(
            "--refresh",
            metavar="SOURCE",
            help="Take counts of old cells from here and solve their loadings again: what was "
            "integrated. Repeat it for several sources.",
            show_default="old loadings stay",
            rich_help_panel=INPUT,
        ),
    ] = None,
    join: JoinOption = Join.inner,
    gene_id_column: GeneIdColumn = None,
    layer: Layer = None,
    raw: Raw = False,
    allow_non_integer: AllowNonInteger = False,
    cells: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION",
            help="Keep new cells for which this holds over the columns of obs.",
            show_default="all cells",
            rich_help_panel=CELLS,
        ),
    ] = None,
    small_datasets: Annotated[
        SmallDatasets,
        typer.Option(
            help="New datasets of fewer cells than factors: refuse, pool or leave out.",
            rich_help_panel=CELLS,
        ),
    ] = SmallDatasets.error,
    n_epochs: Annotated[
        str | None,
        typer.Option(
            metavar="N|auto",
            help="Passes over the new cells.",
            show_default="as in the run",
            rich_help_panel=FACTORS,
        ),
    ] = None,
    report: WriteReport = True,
    overwrite: Overwrite = False,
    n_threads: Threads = None,
    memory_limit: MemoryLimit = "2GiB",
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Refine a run with new cells, without reading those that it was made from.

    New datasets get metagenes of their own, and all cells weigh alike in the shared ones.
    Cells of the run keep their loadings: the column `tigon_version` says which update
    each cell's are of. Clusters and picture are made anew of all cells.

    Example: `tigon update run.zarr donor9.h5ad --out run2.zarr`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown, nothing_left(out):
        options: dict[str, Any] = dict(
            batch_key=batch_key,
            drop=drop or (),
            refresh=_one_or_all(refresh),
            n_epochs=None if n_epochs is None else number_or(n_epochs, "auto", "--n-epochs"),
            n_threads=n_threads,
            memory_limit=memory_limit,
            cache=cache,
            cells=cells,
            small_datasets=small_datasets.value,
            layer=layer,
            raw=raw,
            join=join.value,
            gene_id_column=gene_id_column,
            allow_non_integer=allow_non_integer,
            overwrite=overwrite,
            report=report,
        )
        check_spared([run, *(new or []), *(refresh or [])], out)
        from tigon.scenarios import update as update_run

        command = as_called(context, "update")
        with shown.compiling():
            made = update_run(
                run, _one_or_all(new), out, command=command, progress=shown.progress, **options
            )
        shown.answer_with_run(made, out, report=report)


def _one_or_all(sources: list[str] | None) -> str | list[str] | None:
    return sources[0] if sources and len(sources) == 1 else sources or None
