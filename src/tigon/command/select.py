"""``tigon select``: how many factors, and which lambda."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tigon.command.options import (
    CELLS,
    FACTORS,
    MACHINE,
    OUTPUT,
    AllowNonInteger,
    BatchKey,
    Cache,
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
    MinibatchSize,
    NGenes,
    Overwrite,
    Quiet,
    Raw,
    Restart,
    Resume,
    SmallDatasets,
    Sources,
    Threads,
    Verbose,
)
from tigon.command.remembering import as_called
from tigon.command.showing.session import session
from tigon.command.values import check_spared, number_or, numbers, wanted_genes, whole_numbers

if TYPE_CHECKING:
    from tigon.choice import Selection
    from tigon.scaling.choosing.planning import ChoosePlan

COMPARED = "What is compared"


def select(
    context: typer.Context,
    sources: Sources,
    *,
    k: Annotated[
        str,
        typer.Option(
            "--k",
            "-k",
            metavar="FROM:TO:STEP|K,K,...",
            help="Numbers of factors, both ends of a range included.",
            rich_help_panel=COMPARED,
        ),
    ],
    lam: Annotated[
        str,
        typer.Option(metavar="L,L,...", help="Values of lambda.", rich_help_panel=COMPARED),
    ] = "5",
    n_folds: Annotated[
        int,
        typer.Option(help="Parts of the cells, held out in turn.", rich_help_panel=COMPARED),
    ] = 5,
    hidden_share: Annotated[
        float,
        typer.Option(help="Share of the genes hidden of held-out cells.", rich_help_panel=COMPARED),
    ] = 0.25,
    min_stability: Annotated[
        float,
        typer.Option(
            help="Mean stability of the factors that a setting needs to be recommended.",
            rich_help_panel=COMPARED,
        ),
    ] = 0.6,
    batch_key: BatchKey = None,
    join: JoinOption = Join.inner,
    gene_id_column: GeneIdColumn = None,
    layer: Layer = None,
    raw: Raw = False,
    allow_non_integer: AllowNonInteger = False,
    n_cells: Annotated[
        int,
        typer.Option(
            help="Cells that are fitted: a random sample of each dataset where there are more.",
            rich_help_panel=CELLS,
        ),
    ] = 50_000,
    n_genes: NGenes = None,
    genes: Annotated[
        str | None,
        typer.Option(
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
    small_datasets: Annotated[
        SmallDatasets,
        typer.Option(
            help="Datasets of fewer cells than the most factors: refuse, pool or leave out.",
            rich_help_panel=CELLS,
        ),
    ] = SmallDatasets.error,
    n_epochs: Annotated[
        str,
        typer.Option(
            metavar="N|auto",
            help="Passes of each fit; auto stops when the objective settles.",
            rich_help_panel=FACTORS,
        ),
    ] = "auto",
    minibatch_size: MinibatchSize = 1000,
    random_state: Annotated[
        int,
        typer.Option(
            help="Seed: the same gives the same table, for any number of threads.",
            rich_help_panel=FACTORS,
        ),
    ] = 0,
    out: Annotated[
        str,
        typer.Option(
            metavar="CHOICE.html",
            help="The page to make; its table, with the ending .csv, goes beside it.",
            rich_help_panel=OUTPUT,
        ),
    ],
    overwrite: Overwrite = False,
    resume: Resume = False,
    restart: Restart = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Show fits, passes and memory; read no counts, write nothing.",
            rich_help_panel=MACHINE,
        ),
    ] = False,
    n_threads: Threads = None,
    memory_limit: MemoryLimit = "2GiB",
    cache: Cache = None,
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Compare numbers of factors and values of lambda, and recommend one of each.

    Of held-out cells some genes are hidden and predicted from the others; fits of other cells
    and seeds tell how stable the factors are, and neighbours how well datasets mix.

    Example: `tigon select kang.h5ad --batch-key batch --k 5:40:5 --lam 1,5,25 --out k.html`

    Try `--dry-run` first to see what it would take.
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown:
        options: dict[str, Any] = dict(
            k=whole_numbers(k, "--k"),
            lam=numbers(lam, "--lam"),
            n_folds=n_folds,
            hidden_share=hidden_share,
            min_stability=min_stability,
            n_cells=n_cells,
            batch_key=batch_key,
            n_genes=wanted_genes(n_genes, genes),
            cells=cells,
            min_genes=min_genes,
            min_counts=min_counts,
            max_mito=max_mito,
            small_datasets=small_datasets.value,
            n_epochs=number_or(n_epochs, "auto", "--n-epochs"),
            minibatch_size=minibatch_size,
            random_state=random_state,
            layer=layer,
            raw=raw,
            join=join.value,
            gene_id_column=gene_id_column,
            allow_non_integer=allow_non_integer,
            n_threads=n_threads,
            memory_limit=memory_limit,
            cache=cache,
            out=out,
            overwrite=overwrite,
        )
        source = sources[0] if len(sources) == 1 else sources
        check_spared(sources, out)
        from tigon.choice import plan_selection, selection, table_path

        if dry_run:
            facts = _describe_plan(plan_selection(source, **options), memory_limit)
            shown.answer(facts, _tell_plan(facts))
            return
        options.update(resume=resume, restart=restart)

        command = as_called(context, "select")
        with shown.compiling():
            found = selection(source, command=command, progress=shown.progress, **options)
        facts = _describe(found, out, str(table_path(Path(out))))
        shown.answer(facts, _tell(facts))


def _describe(found: Selection, page: str, table: str) -> dict[str, Any]:
    chosen = found.choice.settings[found.choice.recommended]
    return {
        "kind": "choice",
        "k": found.choice.k,
        "lam": found.choice.lam,
        "reason": found.choice.reason,
        "error": chosen.error,
        "stability": float(chosen.stability.mean()),
        "mixing": float(chosen.mixing.mean()),
        "n_cells": found.comparison.n_cells,
        "n_genes": found.comparison.n_genes,
        "page": page,
        "table": table,
    }


def _tell(facts: dict[str, Any]) -> str:
    from tigon.command.showing.describe import lay_out

    return lay_out(
        [
            ("factors", str(facts["k"])),
            ("lambda", f"{facts['lam']:g}"),
            ("reason", facts["reason"]),
            ("cells", f"{facts['n_cells']:,}"),
            ("genes", f"{facts['n_genes']:,}"),
            ("page", facts["page"]),
            ("table", facts["table"]),
        ]
    )


def _describe_plan(plan: ChoosePlan, memory_limit: str) -> dict[str, Any]:
    from tigon.command.showing.plan import describe_plan

    facts = describe_plan(plan.run, memory_limit)
    facts["pack_passes"] = plan.pack_passes
    return facts | {"n_fits": plan.n_fits, "n_cells": plan.n_cells}


def _tell_plan(facts: dict[str, Any]) -> str:
    from tigon.command.showing.describe import lay_out
    from tigon.command.showing.plan import tell_plan

    rows = [("fits", str(facts["n_fits"])), ("cells", f"{facts['n_cells']:,} at most")]
    return "\n".join([lay_out(rows), tell_plan(facts)])
