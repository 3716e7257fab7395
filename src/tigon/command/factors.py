"""``tigon factors``: the factors of a run, and the run without some of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tigon.command.leftovers import nothing_left
from tigon.command.options import (
    FACTORS,
    MACHINE,
    OUTPUT,
    DropFactors,
    Json,
    Overwrite,
    Quiet,
    RunPath,
    Threads,
    Verbose,
    WriteReport,
)
from tigon.command.remembering import as_called
from tigon.command.showing.session import Session, session
from tigon.command.values import check_spared, wanted_factors


def factors(
    context: typer.Context,
    run: RunPath,
    *,
    n_top: Annotated[
        int, typer.Option("--n-top", help="Top genes to list.", rich_help_panel=FACTORS)
    ] = 10,
    drop_factors: DropFactors = None,
    out: Annotated[
        str | None,
        typer.Option(
            metavar="RUN2.zarr",
            help="With --drop-factors: the run to make; its report, with the ending .html, goes "
            "beside it.",
            show_default=False,
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    report: WriteReport = True,
    overwrite: Overwrite = False,
    n_threads: Threads = None,
    memory_limit: Annotated[
        str,
        typer.Option(
            metavar="SIZE",
            help="With --drop-factors: never use more memory than this: 512MiB, 2GiB, ...",
            rich_help_panel=MACHINE,
        ),
    ] = "2GiB",
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the factors of a run: genes, cells, datasets, and which look technical.

    A factor looks technical where its share follows depth, detected genes, or mitochondrial
    or ribosomal counts within clusters, or where its genes are of such a kind. Look at its
    genes before you drop it. With `--drop-factors` and `--out` the cells are aligned,
    clustered and drawn anew without it; no counts are read.

    Example: `tigon factors run.zarr --drop-factors 3,7 --out run2.zarr`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown:
        if drop_factors is None and out is None:
            _list(run, n_top, n_threads, shown)
            return
        with nothing_left(_both_given(drop_factors, out)):
            options: dict[str, Any] = dict(
                n_threads=n_threads, memory_limit=memory_limit, overwrite=overwrite, report=report
            )
            command = as_called(context, "factors")
            _drop(run, str(drop_factors), str(out), {**options, "command": command}, shown)


def _list(run: str, n_top: int, n_threads: int | None, shown: Session) -> None:
    from tigon.command.showing.factors import describe_factors, tell_factors
    from tigon.factor_calls import listed
    from tigon.storage.runs.run import Run

    opened = Run.open(run)
    listing = listed(opened, n_top=n_top, n_threads=n_threads, progress=shown.progress)
    facts = describe_factors(listing, opened, run)
    shown.answer(facts, tell_factors(facts))


def _drop(run: str, text: str, out: str, options: dict[str, Any], shown: Session) -> None:
    from tigon.factor_calls import drop_factors

    numbers = wanted_factors(text)
    check_spared([run], out)
    with shown.compiling():
        made = drop_factors(run, numbers, out, progress=shown.progress, **options)
    shown.answer_with_run(made, out, report=options["report"])


def _both_given(drop_factors: str | None, out: str | None) -> str:
    """The output, where both are given."""
    from tigon.storage.errors import InputError

    if out is None:
        raise InputError(
            f"--drop-factors {drop_factors} makes another run, which has no name: the run "
            "listed is not changed; give --out"
        )
    if drop_factors is None:
        raise InputError(
            f"--out {out} was given without factors to drop: it is the run without them; give "
            "--drop-factors, or leave it out to list the factors"
        )
    return out
