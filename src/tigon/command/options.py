"""Arguments and options that several commands share."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tigon.scaling.inmf.config import CLUSTER_STALENESS

INPUT = "Input"
CELLS = "Cells and genes"
FACTORS = "Factorisation"
LAYOUT = "Layout and clusters"
COMPONENTS = "Components"
OUTPUT = "Output"
MACHINE = "Machine"

KINDS = "AnnData .h5ad or .zarr, 10x .h5, a 10x directory, an atlas of Tigon, or the URL of a .zarr"


class Join(StrEnum):
    """Which genes several sources become an atlas with."""

    inner = "inner"
    outer = "outer"


class Solver(StrEnum):
    """How the factors are found."""

    online = "online"
    batch = "batch"


class Init(StrEnum):
    """What the shared metagenes start as."""

    random = "random"
    nndsvd = "nndsvd"


class Align(StrEnum):
    """How datasets are brought together."""

    centroid = "centroid"
    quantile = "quantile"
    none = "none"


class Method(StrEnum):
    """How cells are laid out in two dimensions."""

    umap = "umap"
    tsne = "tsne"


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
AnyRunPath = Annotated[
    str,
    typer.Argument(
        metavar="RUN", help="A run of `tigon integrate` or `tigon pca`.", show_default=False
    ),
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
BatchKey = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN[,COLUMN]",
        help="Columns of obs that name the datasets to integrate.",
        show_default="the source files",
        rich_help_panel=INPUT,
    ),
]

NGenes = Annotated[
    str | None,
    typer.Option(
        metavar="N|all",
        help="Variable genes to select.",
        show_default="2000",
        rich_help_panel=CELLS,
    ),
]

MinGenes = Annotated[
    int, typer.Option(help="Fewest detected genes of a cell.", rich_help_panel=CELLS)
]

MinCounts = Annotated[
    float, typer.Option(help="Smallest total count of a cell.", rich_help_panel=CELLS)
]

MaxMito = Annotated[
    float,
    typer.Option(help="Largest mitochondrial share of a cell, 0 to 1.", rich_help_panel=CELLS),
]

MinibatchSize = Annotated[
    int,
    typer.Option(help="Cells read at a time, at most a tenth of all.", rich_help_panel=FACTORS),
]

WriteReport = Annotated[bool, typer.Option(help="Write the report page.", rich_help_panel=OUTPUT)]

Threads = Annotated[
    int | None,
    typer.Option(
        help="Threads; results do not depend on it.",
        show_default="all processors",
        rich_help_panel=MACHINE,
    ),
]

MemoryLimit = Annotated[
    str,
    typer.Option(
        metavar="SIZE",
        help="Never use more memory than this: 512MiB, 2GiB, ... Workers take some 300 MiB each "
        "beside it.",
        rich_help_panel=MACHINE,
    ),
]

Cells = Annotated[
    str | None,
    typer.Option(
        metavar="EXPRESSION",
        help="Keep cells for which this holds over the columns of obs.",
        show_default="all cells",
        rich_help_panel=CELLS,
    ),
]

LaterBatchKey = Annotated[
    str | None,
    typer.Option(
        metavar="COLUMN[,COLUMN]",
        help="Columns of obs that name the datasets.",
        show_default="those of the run",
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
DropFactors = Annotated[
    str | None,
    typer.Option(
        metavar="N[,N]",
        help="Leave these factors out of alignment, clusters and layout, by the numbers that "
        "`tigon factors` shows; none to take all.",
        show_default="none",
        rich_help_panel=FACTORS,
    ),
]
MinibatchesPerTask = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Mini-batches of a step: more give a cluster's workers enough to do. auto: 1, of many "
        "cells up to 8, and where metagenes may be old 4 to 12.",
        rich_help_panel=FACTORS,
    ),
]
Staleness = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Steps that the metagenes may be old that cells are solved against.",
        show_default=f"0, on a cluster {CLUSTER_STALENESS}",
        rich_help_panel=FACTORS,
    ),
]
Scheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="Run on the Dask cluster of this scheduler, such as tcp://host:8786. Its workers "
        "must see the folder of --out, and the atlas.",
        show_default="threads of this machine",
        rich_help_panel=MACHINE,
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        help="Run on so many processes of this machine, of one thread each.",
        show_default="threads of this machine",
        rich_help_panel=MACHINE,
    ),
]
Use = Annotated[
    str | None,
    typer.Option(
        metavar="MATRIX",
        help="The matrix of the run (in obsm) to compare cells by.",
        show_default="X_inmf_aligned, else X_pca, else X_inmf",
        rich_help_panel=INPUT,
    ),
]
NLandmarks = Annotated[
    int | None,
    typer.Option(
        help="With more than twice as many cells, a sample of so many; the others are placed "
        "among them.",
        show_default="25000",
        rich_help_panel=LAYOUT,
    ),
]
RandomState = Annotated[
    int, typer.Option(help="Seed of the sample and of the result.", rich_help_panel=LAYOUT)
]
Extended = Annotated[
    str | None,
    typer.Option(
        metavar="RUN2.zarr",
        help="Write another run, and leave the first as it is.",
        show_default="added to the run",
        rich_help_panel=OUTPUT,
    ),
]
OverwriteAdded = Annotated[
    bool,
    typer.Option(
        "--overwrite",
        help="Replace what the run has of that name, and an output that is there, once the new "
        "one is complete.",
        rich_help_panel=OUTPUT,
    ),
]
Resume = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with the interrupted job of --out, if there is one; keep this one if it is "
        "interrupted.",
        rich_help_panel=OUTPUT,
    ),
]
Restart = Annotated[
    bool,
    typer.Option(
        "--restart",
        help="Discard an interrupted job of --out and begin anew.",
        rich_help_panel=OUTPUT,
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
