"""``tigon embed``: a layout of any matrix of a run."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tigon.command.leftovers import nothing_left
from tigon.command.options import (
    LAYOUT,
    AnyRunPath,
    Extended,
    Json,
    MemoryLimit,
    Method,
    NLandmarks,
    OverwriteAdded,
    Quiet,
    RandomState,
    Threads,
    Use,
    Verbose,
)
from tigon.command.remembering import as_called
from tigon.command.showing.session import session


def embed(
    context: typer.Context,
    run: AnyRunPath,
    *,
    use: Use = None,
    method: Annotated[
        Method,
        typer.Option(
            help="How cells are laid out; tsne needs the extra tsne.", rich_help_panel=LAYOUT
        ),
    ] = Method.umap,
    n_neighbors: Annotated[
        int | None,
        typer.Option(
            help="Of UMAP: neighbours of a cell.", show_default="20", rich_help_panel=LAYOUT
        ),
    ] = None,
    min_dist: Annotated[
        float | None,
        typer.Option(
            help="Of UMAP: least distance of cells in the layout.",
            show_default="0.1",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    perplexity: Annotated[
        float | None,
        typer.Option(
            help="Of t-SNE: how many cells each is near to.",
            show_default="30",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    n_epochs: Annotated[
        int | None,
        typer.Option(
            help="Epochs of the layout.",
            show_default="UMAP: 500, above 10,000 cells 200; t-SNE: 750",
            rich_help_panel=LAYOUT,
        ),
    ] = None,
    n_landmarks: NLandmarks = None,
    random_state: RandomState = 0,
    out: Extended = None,
    overwrite: OverwriteAdded = False,
    n_threads: Threads = None,
    memory_limit: MemoryLimit = "2GiB",
    quiet: Quiet = False,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """Lay the cells of a run out in two dimensions, by any of its matrices.

    The layout is added to the run as `X_umap` or `X_tsne`; no counts are read. Stopped at any
    moment, the run is as it was or has the layout. `tigon report` shows it.

    Example: `tigon embed run.zarr --use X_pca --method tsne`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown, nothing_left(out or run):
        options: dict[str, Any] = dict(
            use=use,
            method=method.value,
            n_neighbors=n_neighbors,
            min_dist=min_dist,
            perplexity=perplexity,
            n_epochs=n_epochs,
            n_landmarks=n_landmarks,
            random_state=random_state,
            out=out,
            overwrite=overwrite,
            n_threads=n_threads,
            memory_limit=memory_limit,
        )
        from tigon.command.showing.added import describe_layout, tell_layout
        from tigon.layout_calls import embed as lay_out

        command = as_called(context, "embed")
        with shown.compiling():
            made = lay_out(run, command=command, progress=shown.progress, **options)
        facts = describe_layout(made, f"X_{method.value}")
        shown.answer(facts, tell_layout(facts))
