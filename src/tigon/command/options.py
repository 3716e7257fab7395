"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

INPUT = "Input"
CELLS = "Cells and genes"
FACTORS = "Factorisation"
OUTPUT = "Output"
MACHINE = "Machine"

KINDS = "AnnData .h5ad or .zarr, 10x .h5, a 10x directory, an atlas of Tigon, or the URL of a .zarr"


class Join(StrEnum):
    """Which genes several sources become an atlas with."""

    inner = "inner"
    outer = "outer"


class SmallDatasets(StrEnum):
    """What to do with datasets of fewer cells than factors."""

    error = "error"
    merge = "merge"
    drop = "drop"


Sources = Annotated[
    list[str],
    typer.Argument(metavar="SOURCES", help=f"Count files: {KINDS}.", show_default=False),
]
RunPath = Annotated[
    str, typer.Argument(metavar="RUN", help="A run of `tigon integrate`.", show_default=False)
]
JoinOption = Annotated[
    Join,
    typer.Option(
        "--join",
        help="Genes of several sources: those that all have, or those that any has "
        "(missing is then not taken for zero).",
        rich_help_panel=INPUT,
    ),
]
GeneIdColumn = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN",
        help="Column of var that identifies genes, where names differ or repeat.",
        show_default="their names",
        rich_help_panel=INPUT,
    ),
]
Layer = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        help="Read the counts from this layer.",
        show_default="X",
        rich_help_panel=INPUT,
    ),
]
Raw = Annotated[
    bool, typer.Option("--raw", help="Read the counts from .raw.", rich_help_panel=INPUT)
]
AllowNonInteger = Annotated[
    bool,
    typer.Option(
        "--allow-non-integer",
        help="Take values that are not whole numbers, such as corrected counts.",
        rich_help_panel=INPUT,
    ),
]
Cache = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        envvar="TIGON_CACHE",
        help="Keep the selected genes, packed for streaming, in this folder, and use what is "
        "there already. May be shared; see `tigon cache`.",
        show_default="removed at the end",
        rich_help_panel=MACHINE,
    ),
]
Overwrite = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace an output that is there, once the new one is complete.",
        rich_help_panel=OUTPUT,
    ),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress, no summary.", rich_help_panel=OUTPUT)
]
Json = Annotated[
    bool,
    typer.Option(
        "--json",
        help="The result as one JSON object on stdout; all else goes to stderr.",
        rich_help_panel=OUTPUT,
    ),
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="What happens in detail, and tracebacks of errors.",
        rich_help_panel=OUTPUT,
    ),
]
