"""Clusters of the cells of a run, made of any of its matrices."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.scaling.embedding.embedding import embed
from tigon.scaling.embedding.scores import agreement, label_codes
from tigon.scaling.extending.config import ClusterConfig
from tigon.scaling.extending.cost import check_fits, clusters_bytes
from tigon.scaling.extending.points import (
    choose_matrix,
    dataset_codes,
    find_assigned,
    points_of,
)
from tigon.scaling.extending.recording import is_landmark, record, refuse_present
from tigon.scaling.memory import MemoryWatch
from tigon.scaling.recalling import CLUSTERINGS
from tigon.scaling.recording import cluster_column
from tigon.scaling.updated_tables import known_labels
from tigon.storage.encoding import key
from tigon.storage.progress import Progress, silent
from tigon.storage.runs.columns import column_names, column_of
from tigon.storage.runs.extending import Addition, extending
from tigon.storage.runs.run import Run

_OF_RUN = "tigon_cluster"
"""The clusters that the run's own scores are of."""


def cluster_run(
    path: Path,
    use: str | None,
    config: ClusterConfig,
    *,
    out: Path | None = None,
    n_threads: int = 1,
    memory_limit_bytes: int | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Cluster the cells of a run, and add the clusters to it.

    Parameters
    ----------
    path, use, out, n_threads, memory_limit_bytes, command, progress
        As for :func:`tigon.scaling.extending.laying_out.lay_out_run`.
    config
        Options.
    overwrite
        Replace a column of that name, and an ``out`` that is there.

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
        of_run, there = config.name == _OF_RUN, column_names(run)
        landmark = "tigon_landmark" if of_run else f"{config.name}_landmark"
        refuse_present("column", config.name, there, overwrite=overwrite)
        if key(config.name) not in there:  # else it is of the clusters that are replaced
            refuse_present("column", landmark, there, overwrite=overwrite)
        rows = points_of(run, use)
        config.check_cells(rows.shape[0])
        options = config.embed_config()
        check_fits(clusters_bytes(rows.shape, options), memory_limit_bytes)
        began = time.perf_counter()
        with MemoryWatch() as memory:
            assigned = find_assigned(rows, use, progress)
            config.check_cells(int(assigned.sum()))
            codes = dataset_codes(run, len(assigned))
            clusters, among, _ = embed(
                rows,
                codes,
                assigned,
                options,
                config.random_state,
                _write_nothing,
                progress,
                n_threads=n_threads,
            )
            scores = _agreement(run, clusters, among.positions)
        told = record(
            use,
            {name: value for name, value in asdict(config).items() if name != "name"},
            assigned,
            among.positions,
            packages=("igraph",),
            command=command,
            seconds=time.perf_counter() - began,
            peak_bytes=memory.peak_bytes,
        )
        sample = is_landmark(landmark, run, assigned, among.positions)
        extension.write(
            Addition(
                obs={config.name: cluster_column(clusters), **sample.obs},
                dropped=sample.dropped,
                settings={CLUSTERINGS: {config.name: told | scores}},
                scores=scores if of_run and run.scores else {},
            )
        )
    return Run.open(path if out is None else out)


def _write_nothing(start: int, rows: NDArray[np.float32]) -> None:
    raise AssertionError("no layout is asked for")


def _agreement(
    run: Run, clusters: NDArray[np.int32], positions: NDArray[np.int64]
) -> dict[str, float]:
    """ARI and NMI of the landmarks' clusters and the labels that the run was scored with."""
    name = run.config.get("label_key")
    column = None if name is None else column_of(run, name)
    if column is None:
        return {}
    labels = known_labels(pd.DataFrame({name: column}), name)
    assert labels is not None, "the column is there"
    codes = label_codes(labels[positions])
    known = np.flatnonzero(codes >= 0)
    return agreement(clusters[positions][known], codes[known]) if len(known) > 1 else {}
