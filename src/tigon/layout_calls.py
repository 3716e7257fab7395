"""Layouts and clusters of any matrix of a run, as calls."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tigon.main_job import told_to
from tigon.scaling.budget import parse_bytes
from tigon.scaling.embedding.landmarks import N_LANDMARKS
from tigon.scaling.engine import threads_of
from tigon.scaling.extending.clustering import cluster_run
from tigon.scaling.extending.config import ClusterConfig, LayoutConfig, Method
from tigon.scaling.extending.laying_out import lay_out_run
from tigon.scaling.memory import use_one_heap
from tigon.storage.progress import Progress
from tigon.storage.runs.run import Run


def embed(
    run: Run | str | os.PathLike[str],
    *,
    use: str | None = None,
    method: Method = "umap",
    n_neighbors: int | None = None,
    min_dist: float | None = None,
    perplexity: float | None = None,
    n_epochs: int | None = None,
    n_landmarks: int | None = None,
    n_placing: int = 15,
    random_state: int = 0,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    n_threads: int | None = None,
    memory_limit: str | int | None = "2GiB",
    command: str = "",
    progress: Progress | bool | None = None,
) -> Run:
    """Lay the cells of a run out in two dimensions, by any of its matrices.

    The layout is added to the run as ``obsm["X_umap"]`` or ``obsm["X_tsne"]``, float32,
    shape (n_cells, 2), where scanpy looks for it; ``config["layouts"]`` says what it is of.

    Parameters
    ----------
    run
        A run, or where it is.
    use
        Name of a matrix in ``obsm``, whose rows are compared by Euclidean distances as they
        are; of ``"X_inmf"``, loadings, the points that ``align="none"`` makes. None for
        ``"X_inmf_aligned"``, or where the run has none ``"X_pca"``, or ``"X_inmf"``.
    method
        "umap", or "tsne", which needs the extra ``tsne``.
    n_neighbors, min_dist
        Of UMAP: neighbours of a cell (None for 20), and the least distance in the layout (0.1).
    perplexity
        Of t-SNE: how many cells each is near to (None for 30).
    n_epochs
        Epochs; None for 500 up to 10,000 cells and 200 above with UMAP, for 750 with t-SNE.
    n_landmarks
        With more than twice as many cells, a seeded sample of so many (None for 25,000) is laid
        out, and each other cell is placed among its ``n_placing`` nearest of them; a column of
        ``obs``, ``tigon_umap_landmark`` or ``tigon_tsne_landmark``, says which these are.
    n_placing
        Landmarks among which a cell is placed.
    random_state
        Decides landmarks and layout.
    out
        The run to write instead, which shares no file with ``run``; None to add to ``run``.
    overwrite
        Replace a layout of that name, and an ``out`` that is there.
    n_threads
        Threads of the search for neighbours, and of t-SNE; None for all processors.
    memory_limit
        Limit of the process tree; None for none.
    command
        What to record as the call.
    progress
        As for :func:`tigon.integrate`.

    Returns
    -------
    Run
        As it is now.

    Raises
    ------
    TigonError
        The run, the matrix, an option or the output cannot be used. The run is as it was.

    Notes
    -----
    Three passes over the matrix. The run is replaced in one step: interrupted at any moment,
    it is the old one or the new one.
    """
    config = LayoutConfig(
        method=method,
        n_neighbors=n_neighbors,
        min_dist=min_dist,
        perplexity=perplexity,
        n_epochs=n_epochs,
        n_landmarks=N_LANDMARKS if n_landmarks is None else n_landmarks,
        n_placing=n_placing,
        random_state=random_state,
    )
    return _add(
        lay_out_run,
        run,
        use,
        config,
        out,
        n_threads,
        memory_limit,
        progress=progress,
        overwrite=overwrite,
        command=command,
    )


def cluster(
    run: Run | str | os.PathLike[str],
    *,
    use: str | None = None,
    resolution: float = 0.4,
    n_neighbors: int = 20,
    name: str = "tigon_cluster",
    n_landmarks: int | None = None,
    n_placing: int = 15,
    random_state: int = 0,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    n_threads: int | None = None,
    memory_limit: str | int | None = "2GiB",
    command: str = "",
    progress: Progress | bool | None = None,
) -> Run:
    """Cluster the cells of a run by any of its matrices.

    Leiden on the graph of shared neighbours, as in the main job. The clusters are added to
    the run as the column ``name`` of ``obs``, numbered from the largest;
    ``config["clusterings"]`` says what they are of, with ARI and NMI where the run was scored.

    Parameters
    ----------
    run, use
        As for :func:`embed`.
    resolution
        Of the clusters; higher means more of them.
    n_neighbors
        Neighbours of a cell in the graph.
    name
        Column of ``obs``; where it is ``"tigon_cluster"``, ARI and NMI of the run are made anew.
    n_landmarks
        With more than twice as many cells, a seeded sample of so many (None for 25,000) is
        clustered, and each other cell joins the cluster with most weight among its
        ``n_placing`` nearest; the column ``<name>_landmark`` (``tigon_landmark``) says which
        these are.
    n_placing, random_state, out, n_threads, memory_limit, command, progress
        As for :func:`embed`.
    overwrite
        Replace a column of that name, and an ``out`` that is there.

    Returns
    -------
    Run
        As it is now.

    Raises
    ------
    TigonError
        The run, the matrix, an option or the output cannot be used. The run is as it was.
    """
    config = ClusterConfig(
        name=name,
        resolution=resolution,
        n_neighbors=n_neighbors,
        n_landmarks=N_LANDMARKS if n_landmarks is None else n_landmarks,
        n_placing=n_placing,
        random_state=random_state,
    )
    return _add(
        cluster_run,
        run,
        use,
        config,
        out,
        n_threads,
        memory_limit,
        progress=progress,
        overwrite=overwrite,
        command=command,
    )


def _add(
    make: Callable[..., Run],
    run: Run | str | os.PathLike[str],
    use: str | None,
    config: LayoutConfig | ClusterConfig,
    out: str | os.PathLike[str] | None,
    n_threads: int | None,
    memory_limit: str | int | None,
    *,
    progress: Progress | bool | None,
    **how: Any,
) -> Run:
    """A run with what ``make`` adds to it, options in a user's words."""
    use_one_heap()
    with told_to(progress=progress) as tell:
        return make(
            path_of(run),
            use,
            config,
            out=None if out is None else Path(out),
            n_threads=threads_of(n_threads),
            memory_limit_bytes=None if memory_limit is None else parse_bytes(memory_limit),
            progress=tell,
            **how,
        )


def path_of(run: Run | str | os.PathLike[str]) -> Path:
    """Where a run is."""
    return run.path if isinstance(run, Run) else Path(run)
