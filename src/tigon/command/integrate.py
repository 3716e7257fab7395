"""``tigon integrate``: the main job."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tigon.command.leftovers import nothing_left
from tigon.command.options import (
    CELLS,
    FACTORS,
    INPUT,
    MACHINE,
    OUTPUT,
    Align,
    AllowNonInteger,
    BatchKey,
    Cache,
    DropFactors,
    GeneIdColumn,
    Init,
    Join,
    JoinOption,
    Json,
    Layer,
    MaxMito,
    MemoryLimit,
    MinCounts,
    MinGenes,
    MinibatchesPerTask,
    MinibatchSize,
    NGenes,
    Overwrite,
    Quiet,
    Raw,
    Restart,
    Resume,
    Scheduler,
    SmallDatasets,
    Solver,
    Sources,
    Staleness,
    Threads,
    Verbose,
    Workers,
    WriteReport,
)
from tigon.command.remembering import as_called
from tigon.command.showing.session import Session, session
from tigon.command.values import (
    check_spared,
    lambdas,
    number_or,
    wanted_factors,
    wanted_genes,
    wanted_unshared,
)


def integrate(
    context: typer.Context,
    sources: Sources,
    *,
    batch_key: BatchKey = None,
    label_key: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN",
            help="Column of obs with known cell types: scores the result, never guides it.",
            show_default="no scores",
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
            "--n-genes-file",
            metavar="FILE",
            help="Use the genes listed in this file, one name a line, instead.",
            show_default=False,
            rich_help_panel=CELLS,
        ),
    ] = None,
    n_unshared: Annotated[
        str | None,
        typer.Option(
            metavar="N|all",
            help="Variable genes to select besides of those that not all datasets measure, without "
            "shared metagenes (UINMF); needs --join outer.",
            show_default="all genes are treated alike",
            rich_help_panel=CELLS,
        ),
    ] = None,
    unshared_genes: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Use the unshared genes listed in this file, one name a line, instead.",
            show_default=False,
            rich_help_panel=CELLS,
        ),
    ] = None,
    cells: Annotated[
        str | None,
        typer.Option(
            metavar="EXPRESSION",
            help="Keep cells for which this holds over the columns of obs: \"label != 'doublet'\".",
            show_default="all cells",
            rich_help_panel=CELLS,
        ),
    ] = None,
    min_genes: MinGenes = 0,
    min_counts: MinCounts = 0,
    max_mito: MaxMito = 1.0,
    small_datasets: Annotated[
        SmallDatasets,
        typer.Option(
            help="Datasets of fewer cells than factors: refuse, pool or leave out.",
            rich_help_panel=CELLS,
        ),
    ] = SmallDatasets.error,
    n_components: Annotated[
        int, typer.Option("--n-components", "-k", help="Factors.", rich_help_panel=FACTORS)
    ] = 20,
    lam: Annotated[
        str,
        typer.Option(
            metavar="LAMBDA[,DATASET=LAMBDA]",
            help="Weight of the dataset-specific part: larger makes datasets more alike. Named "
            "datasets may have another.",
            rich_help_panel=FACTORS,
        ),
    ] = "5.0",
    solver: Annotated[
        Solver,
        typer.Option(
            help="Improve the factors with every mini-batch, or after each pass over all cells.",
            rich_help_panel=FACTORS,
        ),
    ] = Solver.online,
    n_epochs: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Passes over the selected genes; auto stops when the objective settles. "
            "With --solver batch, passes at most.",
            rich_help_panel=FACTORS,
        ),
    ] = "auto",
    polish: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Passes at most of the batch solver after online epochs; auto: until the "
            "objective settles.",
            rich_help_panel=FACTORS,
        ),
    ] = "0",
    minibatch_size: MinibatchSize = 5000,
    minibatches_per_task: MinibatchesPerTask = "auto",
    staleness: Staleness = None,
    n_sweeps: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Updates of the metagenes per step; auto: 1, and 2 in steps of more than 10,000 "
            "cells and 500 of a dataset.",
            rich_help_panel=FACTORS,
        ),
    ] = "auto",
    init: Annotated[
        Init,
        typer.Option(
            help="What the shared metagenes start as: random numbers, or singular vectors of the "
            "first cells.",
            rich_help_panel=FACTORS,
        ),
    ] = Init.random,
    n_starts: Annotated[
        int,
        typer.Option(
            help="Seeded starts: with more than one their consensus is the result, and every "
            "factor has a stability.",
            rich_help_panel=FACTORS,
        ),
    ] = 1,
    random_state: Annotated[
        int,
        typer.Option(
            help="Seed: the same gives the same bytes, for any number of threads.",
            rich_help_panel=FACTORS,
        ),
    ] = 0,
    drop_factors: DropFactors = None,
    align: Annotated[
        Align,
        typer.Option(
            help="Bring datasets together by centroids, by quantile maps, or not at all.",
            rich_help_panel=FACTORS,
        ),
    ] = Align.centroid,
    resolution: Annotated[
        float,
        typer.Option(help="Of the clusters: larger finds more.", rich_help_panel=FACTORS),
    ] = 0.4,
    out: Annotated[
        str,
        typer.Option(
            metavar="RUN.zarr",
            help="The run to make; its report, with the ending .html, goes beside it.",
            rich_help_panel=OUTPUT,
        ),
    ],
    umap: Annotated[
        bool, typer.Option(help="Draw the cells in two dimensions.", rich_help_panel=OUTPUT)
    ] = True,
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
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Integrate datasets, cluster their cells, picture them and write a report.

    Finds factors that datasets share and parts that are their own (iNMF),
    brings the loadings onto one scale, clusters and draws the cells.
    Counts are streamed: memory stays below the limit for any number of cells.

    Example: `tigon integrate kang.h5ad --batch-key batch --label-key label --out kang.zarr`

    Try `--dry-run` first to see what it would take.
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown, nothing_left(out):
        options: dict[str, Any] = dict(
            batch_key=batch_key,
            label_key=label_key,
            n_components=n_components,
            **lambdas(lam),
            n_genes=wanted_genes(n_genes, genes),
            n_unshared=wanted_unshared(n_unshared, unshared_genes),
            solver=solver.value,
            n_epochs=number_or(n_epochs, "auto", "--n-epochs"),
            polish=number_or(polish, "auto", "--polish"),
            minibatch_size=minibatch_size,
            minibatches_per_task=number_or(minibatches_per_task, "auto", "--minibatches-per-task"),
            staleness=staleness,
            n_sweeps=number_or(n_sweeps, "auto", "--n-sweeps"),
            init=init.value,
            n_starts=n_starts,
            random_state=random_state,
            n_threads=n_threads,
            memory_limit=memory_limit,
            scheduler=scheduler,
            workers=workers,
            cache=cache,
            cells=cells,
            min_genes=min_genes,
            min_counts=min_counts,
            max_mito=max_mito,
            small_datasets=small_datasets.value,
            layer=layer,
            raw=raw,
            join=join.value,
            gene_id_column=gene_id_column,
            allow_non_integer=allow_non_integer,
            align=align.value,
            resolution=resolution,
            drop_factors=wanted_factors(drop_factors),
            umap=umap,
        )
        source = sources[0] if len(sources) == 1 else sources
        check_spared(sources, out)
        options.update(overwrite=overwrite, report=report)
        if dry_run:
            _show_plan(source, out, options, shown)
            return
        options.update(resume=resume, restart=restart)
        command = as_called(context, "integrate")
        _integrate(source, out, options, command, shown)


def _integrate(
    source: str | list[str], out: str, options: dict[str, Any], command: str, shown: Session
) -> None:
    from tigon.main_job import integrate as make_run

    with shown.compiling():
        run = make_run(source, out=out, command=command, progress=shown.progress, **options)
    shown.answer_with_run(run, out, report=options["report"])


def _show_plan(source: str | list[str], out: str, options: dict[str, Any], shown: Session) -> None:
    from tigon.command.showing.plan import describe_plan, tell_plan
    from tigon.main_job import plan as make_plan

    plan = make_plan(source, out=out, **options)
    facts = describe_plan(plan, options["memory_limit"])
    shown.answer(facts, tell_plan(facts))
