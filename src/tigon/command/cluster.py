"""``tigon cluster``: clusters of any matrix of a run."""

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


def cluster(
    context: typer.Context,
    run: AnyRunPath,
    *,
    use: Use = None,
    resolution: Annotated[
        float,
        typer.Option(
            help="Resolution of the Leiden clusters; higher means more of them.",
            rich_help_panel=LAYOUT,
        ),
    ] = 0.4,
    n_neighbors: Annotated[
        int, typer.Option(help="Neighbours of a cell in the graph.", rich_help_panel=LAYOUT)
    ] = 20,
    name: Annotated[
        str,
        typer.Option(metavar="COLUMN", help="Column of obs to make.", rich_help_panel=LAYOUT),
    ] = "tigon_cluster",
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
    """Cluster the cells of a run by any of its matrices.

    The clusters are added to the run as a column of `obs`; no counts are read. Stopped at any
    moment, the run is as it was or has the clusters.

    Example: `tigon cluster run.zarr --use X_pca --name pca_cluster`
    """
    with session(quiet=quiet, as_json=as_json, verbose=verbose) as shown, nothing_left(out or run):
        options: dict[str, Any] = dict(
            use=use,
            resolution=resolution,
            n_neighbors=n_neighbors,
            name=name,
            n_landmarks=n_landmarks,
            random_state=random_state,
            out=out,
            overwrite=overwrite,
            n_threads=n_threads,
            memory_limit=memory_limit,
        )
        from tigon.command.showing.added import describe_clusters, tell_clusters
        from tigon.layout_calls import cluster as find_clusters

        command = as_called(context, "cluster")
        with shown.compiling():
            made = find_clusters(run, command=command, progress=shown.progress, **options)
        facts = describe_clusters(made, name)
        shown.answer(facts, tell_clusters(facts))
