"""``tigon project``: new cells are laid on a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from tigon.command.leftovers import nothing_left
from tigon.command.options import (
    INPUT,
    OUTPUT,
    AllowNonInteger,
    Cells,
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
    Sources,
    Threads,
    Verbose,
)
from tigon.command.remembering import as_called
from tigon.command.showing.session import session
from tigon.command.values import check_spared

if TYPE_CHECKING:
    from tigon.storage.runs.run import Run


def project(
    context: typer.Context,
    run: RunPath,
    new: Sources,
    *,
    out: Annotated[
        str,
        typer.Option(
            metavar="Q.zarr",
            help="What to make: it opens like a run.",
            rich_help_panel=OUTPUT,
        ),
    ],
    batch_key: LaterBatchKey = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of the run's obs to take labels over from.",
            show_default="what the run was scored against, or its clusters",
            rich_help_panel=INPUT,
        ),
    ] = None,
    join: JoinOption = Join.inner,
    gene_id_column: GeneIdColumn = None,
    layer: Layer = None,
    raw: Raw = False,
    allow_non_integer: AllowNonInteger = False,
    cells: Cells = None,
    overwrite: Overwrite = False,
    n_threads: Threads = None,
    memory_limit: MemoryLimit = "2GiB",
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Lay new cells on a run: loadings, labels with a confidence, places in its picture.

    The metagenes of the run stay as they are. Labels are those of the nearest cells of the
    run; the column `tigon_confidence` is the label's share of their votes.

    Example: `tigon project run.zarr query.h5ad --label-key label --out query.zarr`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown, nothing_left(out):
        check_spared([run, *new], out)
        from tigon.scenarios import project as project_cells

        command = as_called(context, "project")
        with shown.compiling():
            made = project_cells(
                run,
                new[0] if len(new) == 1 else new,
                out,
                batch_key=batch_key,
                label_key=label_key,
                cells=cells,
                n_threads=n_threads,
                memory_limit=memory_limit,
                overwrite=overwrite,
                command=command,
                progress=shown.progress,
                layer=layer,
                raw=raw,
                join=join.value,
                gene_id_column=gene_id_column,
                allow_non_integer=allow_non_integer,
            )
        facts = _describe(made)
        shown.answer(facts, _tell(facts))


def _describe(made: Run) -> dict[str, Any]:
    obs = made.obs
    return {
        "kind": "projection",
        "path": str(made.path),
        "n_cells": len(obs),
        "datasets": dict(zip(made.datasets, made.n_cells.tolist(), strict=True)),
        "labels": {str(k): int(n) for k, n in obs["tigon_label"].value_counts().items() if n},
        "mean_confidence": float(obs["tigon_confidence"].mean()),
        "objective": made.objective,
        "notices": made.notices,
    }


def _tell(facts: dict[str, Any]) -> str:
    from tigon.command.showing.describe import lay_out

    counts = {
        name: ", ".join(f"{kind} {n:,}" for kind, n in facts[name].items())
        for name in ("datasets", "labels")
    }
    return lay_out(
        [
            ("projection", facts["path"]),
            ("cells", f"{facts['n_cells']:,}"),
            ("datasets", counts["datasets"]),
            ("labels", counts["labels"]),
            ("confidence", f"{facts['mean_confidence']:.3f} (mean)"),
        ]
    )
