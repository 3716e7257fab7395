"""The commands, put together."""

from __future__ import annotations

from typing import Annotated

import typer

from tigon.command.cache import cache
from tigon.command.cluster import cluster
from tigon.command.convert import convert
from tigon.command.embed import embed
from tigon.command.export import export
from tigon.command.factors import factors
from tigon.command.info import info
from tigon.command.ingest import ingest
from tigon.command.integrate import integrate
from tigon.command.pca import pca
from tigon.command.project import project
from tigon.command.remembering import RememberingCommand
from tigon.command.report import report
from tigon.command.select import select
from tigon.command.serve import serve
from tigon.command.update import update

app = typer.Typer(
    name="tigon",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
    epilog="Learn more about a command: `tigon integrate --help`",
)


def _show_version(wanted: bool) -> None:
    if wanted:
        from tigon import __version__

        typer.echo(f"tigon {__version__}")
        raise typer.Exit


@app.callback()
def tigon(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
) -> None:
    """Integrate single-cell atlases, also those that do not fit in memory.

    From count files to integrated, clustered and pictured cells:

    - `tigon ingest ctrl.h5ad stim.h5ad --out atlas.zarr`

    - `tigon integrate atlas.zarr --batch-key batch --out run.zarr`

    - `tigon info run.zarr`

    The run opens with `anndata.read_zarr`; its report, `run.html`, in any browser.
    """


app.command(no_args_is_help=True)(ingest)
app.command(no_args_is_help=True)(convert)
app.command(no_args_is_help=True)(info)
app.command(no_args_is_help=True, cls=RememberingCommand)(select)
app.command(no_args_is_help=True, cls=RememberingCommand)(integrate)
app.command(no_args_is_help=True, cls=RememberingCommand)(pca)
app.command(no_args_is_help=True, cls=RememberingCommand)(update)
app.command(no_args_is_help=True, cls=RememberingCommand)(project)
app.command(no_args_is_help=True, cls=RememberingCommand)(factors)
app.command(no_args_is_help=True, cls=RememberingCommand)(embed)
app.command(no_args_is_help=True, cls=RememberingCommand)(cluster)
app.command(no_args_is_help=True)(export)
app.command(no_args_is_help=True)(report)
app.command(no_args_is_help=True)(serve)
app.add_typer(cache, name="cache")
