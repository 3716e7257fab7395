"""A layout of the cells of a run, made of any of its matrices."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.embedding import (
    Landmarks,
    choose_landmarks,
    find_neighbors,
    place_cells,
)
from tigon.scaling.embedding.graph import shared_neighbors
from tigon.scaling.embedding.layout import umap_layout
from tigon.scaling.embedding.leiden import leiden
from tigon.scaling.embedding.neighbors import Neighbors
from tigon.scaling.embedding.rows import WriteRows, gather
from tigon.scaling.embedding.tsne import load_opentsne, tsne_layout
from tigon.scaling.extending.config import LayoutConfig
from tigon.scaling.extending.cost import check_fits, layout_bytes
from tigon.scaling.extending.points import (
    choose_matrix,
    dataset_codes,
    find_assigned,
    points_of,
)
from tigon.scaling.extending.recording import is_landmark, record, refuse_present
from tigon.scaling.memory import MemoryWatch, give_back
from tigon.scaling.recalling import LAYOUTS
from tigon.storage.progress import Progress, silent, whole_stage
from tigon.storage.rows import RowReader
from tigon.storage.runs.extending import Addition, extending
from tigon.storage.runs.run import Run

_PACKAGES = {"umap": ("umap-learn", "numba"), "tsne": ("openTSNE",)}


def lay_out_run(
    path: Path,
    use: str | None,
    config: LayoutConfig,
    *,
    out: Path | None = None,
    n_threads: int = 1,
    memory_limit_bytes: int | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Lay out the cells of a run, and add the layout to it.

    Parameters
    ----------
    path
        The run.
    use
        Name of the matrix; None for the first of the aligned points, the principal
        components and the loadings that the run has.
    config
        Options.
    out
        The run to write instead; None to add to the run itself.
    n_threads, memory_limit_bytes
        The machine.
    overwrite
        Replace a layout of that name, and an ``out`` that is there.
    command, progress
        What to record as the call, and who is told.

    Raises
    ------
    TigonError
        The run, the matrix or the output cannot be used; the run stays as it was.

    Notes
    -----
    Three passes over the matrix. Holds the landmarks and about 64 bytes a cell.
    """
    with extending(path, out, overwrite=overwrite) as extension:
        run = extension.run
        use = choose_matrix(run, use)
        refuse_present("layout", config.name, run.obsm_names, overwrite=overwrite)
        points = points_of(run, use)
        config.check_cells(points.shape[0])
        if config.method == "tsne":
            load_opentsne()
        check_fits(layout_bytes(points.shape, config), memory_limit_bytes)
        began = time.perf_counter()
        with MemoryWatch() as memory:
            assigned = find_assigned(points, use, progress)
            config.check_cells(int(assigned.sum()))
            codes = dataset_codes(run, len(assigned))
            coordinates = np.empty((len(assigned), 2), dtype=np.float32)

            def write(start: int, rows: NDArray[np.float32]) -> None:
                coordinates[start : start + len(rows)] = rows

            at = lay_out(points, codes, assigned, config, write, progress, n_threads=n_threads)
        told = record(
            use,
            config.options,
            assigned,
            at,
            packages=_PACKAGES[config.method],
            command=command,
            seconds=time.perf_counter() - began,
            peak_bytes=memory.peak_bytes,
        )
        landmark = f"tigon_{config.method}_landmark"
        sample = is_landmark(landmark, run, assigned, at)
        extension.write(
            Addition(
                obsm={config.name: coordinates},
                obs=sample.obs,
                dropped=sample.dropped,
                settings={LAYOUTS: {config.name: told}},
            )
        )
    return Run.open(path if out is None else out)


def lay_out(
    rows: RowReader,
    codes: NDArray[np.int32],
    assigned: NDArray[np.bool_],
    config: LayoutConfig,
    write: WriteRows,
    progress: Progress = silent,
    *,
    n_threads: int = 1,
) -> NDArray[np.int64]:
    """Lay out cells that are given as points.

    Parameters
    ----------
    rows
        Points, shape (n_cells, k).
    codes
        Dataset of each cell, int32, shape (n_cells,), from which landmarks are drawn.
    assigned
        Which cells take part, bool, shape (n_cells,); the others lie in a corner.
    config
        Options.
    write
        Takes the coordinates, float32, two columns, in order.
    progress
        Told of the cells of each stage.
    n_threads
        Threads of the search for neighbours.

    Returns
    -------
    NDArray
        Positions of the landmarks, int64, ascending.
    """
    seed = config.random_state
    chosen = choose_landmarks(
        codes, assigned, config.n_landmarks, seed, sampled="the layout is of a sample"
    )
    points = gather(rows, chosen)
    near = find_neighbors(points, config.n_sought, progress, n_threads=n_threads)
    clusters = np.zeros(len(chosen), dtype=np.int32)
    if len(chosen) < assigned.sum():
        with whole_stage(progress, "clusters", len(chosen)):
            clusters = _islands(near, config)
    give_back()
    coordinates = _coordinates(points, near, config, progress, n_threads)
    among = Landmarks(chosen, points, clusters, coordinates)
    place_cells(rows, assigned, among, config.n_placing, write, progress, n_threads=n_threads)
    return chosen


def _islands(near: Neighbors, config: LayoutConfig) -> NDArray[np.int32]:
    """Clusters of landmarks, int32: a cell is placed among those of one of them."""
    embed = config.embed_config()
    graph = shared_neighbors(near.indices[:, : embed.n_neighbors])
    return leiden(graph.to_igraph(), embed.resolution, seed=config.random_state)


def _coordinates(
    points: NDArray[np.float32],
    near: Neighbors,
    config: LayoutConfig,
    progress: Progress,
    n_threads: int,
) -> NDArray[np.float32]:
    seed = config.random_state
    if config.perplexity is not None:
        return tsne_layout(
            points,
            near,
            seed=seed,
            perplexity=config.perplexity,
            n_epochs=config.n_epochs,
            n_threads=n_threads,
            progress=progress,
        )
    embed = config.embed_config()
    return umap_layout(
        points,
        near,
        seed=seed,
        min_dist=embed.min_dist,
        n_epochs=embed.n_layout_epochs,
        progress=progress,
    )
