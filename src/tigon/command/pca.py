"""``tigon pca``: principal components."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from tigon.command.leftovers import nothing_left
from tigon.command.options import (
    CELLS,
    COMPONENTS,
    INPUT,
    MACHINE,
    OUTPUT,
    AllowNonInteger,
    Cells,
    GeneIdColumn,
    Join,
    JoinOption,
    Json,
    Layer,
    MaxMito,
    MemoryLimit,
    MinCounts,
    MinGenes,
    NGenes,
    Overwrite,
    Quiet,
    Raw,
    Restart,
    Resume,
    Scheduler,
    Sources,
    Threads,
    Verbose,
    Workers,
    WriteReport,
)
from tigon.command.remembering import as_called
from tigon.command.showing.session import Session, session
from tigon.command.values import check_spared, number_or_none, wanted_genes


class Solver(StrEnum):
    """How the components are found."""

    auto = "auto"
    gram = "gram"
    krylov = "krylov"


def pca(
    context: typer.Context,
    sources: Sources,
    *,
    batch_key: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN[,COLUMN]",
            help="Columns of obs that name the datasets: variable genes are those within each, "
            "and the report colours cells by them.",
            show_default="the source files",
            rich_help_panel=INPUT,
        ),
    ] = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of obs that the report colours cells by besides.",
            show_default="none",
            rich_help_panel=INPUT,
        ),
    ] = None,
    join: JoinOption = Join.inner,
    gene_id_column: GeneIdColumn = None,
    layer: Layer = None,
    raw: Raw = False,
    allow_non_integer: AllowNonInteger = False,
    n_genes: NGenes = None,
    genes: Annotated[
        str | None,
        typer.Option(
            "--genes",
            metavar="FILE",
            help="Use the genes listed in this file, one name a line, instead.",
            show_default=False,
            rich_help_panel=CELLS,
        ),
    ] = None,
    cells: Cells = None,
    min_genes: MinGenes = 0,
    min_counts: MinCounts = 0,
    max_mito: MaxMito = 1.0,
    n_components: Annotated[
        int, typer.Option("--n-components", "-k", help="Components.", rich_help_panel=COMPONENTS)
    ] = 50,
    solver: Annotated[
        Solver,
        typer.Option(
            help="The Gram matrix of the genes, exact in one pass; or block Krylov iterations, "
            "for any number of genes. auto: the first up to 4,096 genes.",
            rich_help_panel=COMPONENTS,
        ),
    ] = Solver.auto,
    target_sum: Annotated[
        str,
        typer.Option(
            metavar="SUM|none",
            help="What the counts of each cell are scaled to add up to.",
            rich_help_panel=COMPONENTS,
        ),
    ] = "10000",
    log1p: Annotated[
        bool, typer.Option(help="Take log(1 + x) then.", rich_help_panel=COMPONENTS)
    ] = True,
    center: Annotated[
        bool,
        typer.Option(help="Subtract the mean of each gene.", rich_help_panel=COMPONENTS),
    ] = True,
    scale: Annotated[
        bool,
        typer.Option(
            help="Divide each gene by its standard deviation.", rich_help_panel=COMPONENTS
        ),
    ] = False,
    tol: Annotated[
        float,
        typer.Option(
            help="Residual of every component, relative to its singular value, at which "
            "iterations stop.",
            rich_help_panel=COMPONENTS,
        ),
    ] = 0.07,
    max_passes: Annotated[
        int, typer.Option(help="Passes of iterations at most.", rich_help_panel=COMPONENTS)
    ] = 20,
    random_state: Annotated[
        int,
        typer.Option(
            help="Seed: the same gives the same bytes, for any number of threads.",
            rich_help_panel=COMPONENTS,
        ),
    ] = 0,
    out: Annotated[
        str,
        typer.Option(
            metavar="RUN.zarr",
            help="The run to make; its report, with the ending .html, goes beside it.",
            rich_help_panel=OUTPUT,
        ),
    ],
    report: WriteReport = True,
    overwrite: Overwrite = False,
    resume: Resume = False,
    restart: Restart = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show passes, bytes and memory; read no counts, write nothing.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    n_threads: Threads = None,
    memory_limit: MemoryLimit = "2GiB",
    scheduler: Scheduler = None,
    workers: Workers = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Find principal components, with what is proven of them, and write a report.

    Counts are streamed: centred, scaled and transformed on the fly, never copied, in memory
    below the limit for any number of cells. Scores are `obsm["X_pca"]`.

    Example: `tigon pca atlas.zarr --out pca.zarr --n-components 50`

    Try `--dry-run` first to see what it would take.
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown, nothing_left(out):
        options: dict[str, Any] = dict(
            batch_key=batch_key,
            label_key=label_key,
            join=join.value,
            gene_id_column=gene_id_column,
            layer=layer,
            raw=raw,
            allow_non_integer=allow_non_integer,
            n_genes=wanted_genes(n_genes, genes),
            cells=cells,
            min_genes=min_genes,
            min_counts=min_counts,
            max_mito=max_mito,
            n_components=n_components,
            solver=solver.value,
            target_sum=number_or_none(target_sum, "--target-sum"),
            log1p=log1p,
            center=center,
            scale=scale,
            tol=tol,
            max_passes=max_passes,
            random_state=random_state,
            n_threads=n_threads,
            memory_limit=memory_limit,
            scheduler=scheduler,
            workers=workers,
        )
        source = sources[0] if len(sources) == 1 else sources
        check_spared(sources, out)
        options.update(overwrite=overwrite, report=report)
        if dry_run:
            _show_plan(source, out, options, shown)
            return
        options.update(resume=resume, restart=restart)
        command = as_called(context, "pca")
        _decompose(source, out, options, command, shown)


def _decompose(
    source: str | list[str], out: str, options: dict[str, Any], command: str, shown: Session
) -> None:
    from tigon.pca_job import pca as make_run

    with shown.compiling():
        run = make_run(source, out=out, command=command, progress=shown.progress, **options)
    shown.answer_with_run(run, out, report=options["report"])


def _show_plan(source: str | list[str], out: str, options: dict[str, Any], shown: Session) -> None:
    from tigon.command.showing.plan import describe_plan, tell_plan
    from tigon.pca_job import plan_pca

    plan = plan_pca(source, out=out, **options)
    facts = describe_plan(plan, options["memory_limit"])
    facts |= {"solver": plan.solver, "reason": plan.reason}
    shown.answer(facts, tell_plan(facts))
