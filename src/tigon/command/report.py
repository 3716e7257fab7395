"""``tigon report``: the report page of a run, made anew."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tigon.command.options import INPUT, OUTPUT, AnyRunPath, Json, Overwrite, Quiet, Verbose
from tigon.command.showing.session import session


def report(
    run: AnyRunPath,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.html",
            help="The page to make.",
            show_default="beside the run",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of obs to show as labels.",
            show_default="what the run was scored with",
            rich_help_panel=INPUT,
        ),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Write the report page of a run: one file that works offline.

    `tigon integrate` or `tigon pca` wrote one beside the run already, so `--out` or
    `--overwrite` is needed; this makes another, for instance with other labels.

    Example: `tigon report run.zarr --label-key cell_type --out types.html`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown:
        from tigon.main_job import report_path
        from tigon.report import write_report
        from tigon.storage.runs.run import Run

        page = Path(out) if out is not None else report_path(Path(run))
        write_report(Run.open(run), page, label_key=label_key, overwrite=overwrite)
        shown.answer({"kind": "report", "path": str(page)}, f"report  {page}")
