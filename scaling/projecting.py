"""Scenario 3 as a job: new cells are laid on a run, whose metagenes stay as they are.

Loadings are solved against fixed metagenes, a block at a time; labels, clusters and places in
the picture are taken over from the nearest cells of the run. ``X_inmf_aligned`` has the cells
as points of the same space as the run's before its alignment: offsets and maps are of datasets
that are there together, and a map needs every type of cell among the new ones. What is written
opens like a run: it has the statistics and the objective of the new cells, and their tables.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.scaling import recalling
from tigon.scaling.cells import chosen_cells
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.datasets import Datasets, datasets_of
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.embedding.rows import tiles
from tigon.scaling.embedding.scores import NO_LABEL
from tigon.scaling.embedding.space import to_space
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.factors.dropping import kept_factors, without_factors
from tigon.scaling.inmf.known import Known
from tigon.scaling.inmf.projecting import Query, make_query, project_with_sums
from tigon.scaling.inmf.solving import Solution
from tigon.scaling.journal import Journal
from tigon.scaling.later_budget import count_new, fitting_window
from tigon.scaling.memory import MemoryWatch
from tigon.scaling.preparing import PrepareConfig
from tigon.scaling.recording import UNASSIGNED, versions
from tigon.scaling.transferring import (
    References,
    Taken,
    choose_references,
    factor_scale,
    take_over,
)
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import check_output
from tigon.storage.rows import RowFile, RowReader
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.factors import Factors
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run
from tigon.storage.scattering import in_any_order
from tigon.storage.scratch import Scratch, writing_scratch

if TYPE_CHECKING:
    from tigon.storage import Atlas

PROJECTED = "projected"
"""Part of the configuration: on what the cells were laid, and how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectConfig:
    """What a projection is given, beside the cells.

    Parameters
    ----------
    batch_key
        Columns of ``obs`` that name the datasets; None for the sources.
    label_key
        Column of the run's ``obs`` to take labels over from; None for the clusters.
    cells
        Expression over the columns of ``obs``; None for all cells.
    sources
        What the cells were opened from, as it is recorded.
    n_threads
        Threads; the result does not depend on it.
    memory_limit_bytes
        Limit of the process tree; None for no limit.
    """

    batch_key: str | list[str] | None = None
    label_key: str | None = None
    cells: str | None = None
    sources: tuple[str, ...] = ()
    n_threads: int = 1
    memory_limit_bytes: int | None = None


def project_on_run(
    run: Run,
    atlas: Atlas,
    config: ProjectConfig,
    out: Path,
    scratch: Path,
    *,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Lay cells on a run and publish what results.

    Parameters
    ----------
    run
        The run; it is not written to.
    atlas, config
        The cells and the options.
    out, scratch
        The store to publish, and a folder for what is worked on.
    overwrite, command, progress
        As for :func:`tigon.scaling.integrating.integrate_atlas`.

    Raises
    ------
    TigonError
        Anything about the run, the cells, the options or the output; nothing is left.

    Notes
    -----
    One pass over the atlas, two where a new dataset has 100 cells or more, and three over the
    loadings. Holds the tables of cells, 28 k m bytes for each dataset of the run and of the
    atlas, and at most 50,000 cells of the run.
    """
    check_output(out, overwrite=overwrite)
    labels = _run_labels(run, config.label_key)
    window = _window(run, atlas, config)
    journal = Journal()
    with (
        MemoryWatch() as memory,
        journal.listening(),
        closing(Scratch(scratch)) as aside,
        ThreadEngine(config.n_threads, window=window) as engine,
    ):
        known = recalling.recall_fit(run)
        everyone = datasets_of(atlas, config.batch_key, chosen_cells(atlas, config.cells))
        rows = np.cumsum(everyone.codes >= 0) - 1
        shape = (int(everyone.sizes.sum()), known.n_components)
        H = RowFile(aside.folder / "loadings", shape)

        with writing_scratch(aside, "for the loadings"):
            with journal.stage("loadings"):
                query = make_query(atlas, everyone, known, engine, progress)
                tol = recalling.inmf_config(run).tol_final
                with in_any_order(H, progress) as write:
                    solution = project_with_sums(
                        atlas,
                        query,
                        tol,
                        engine,
                        lambda positions, found: write(rows[positions], found),
                        progress,
                    )
            with journal.stage("labels"):
                references = _references(run, labels, known)
                compared = without_factors(H, recalling.dropped_factors(run))
                laid = _lay(compared, references, aside.folder, engine, progress)
        contents = _contents(run, atlas, config, known, query, solution, H, laid)
        with journal.stage("writing"):
            finished = replace(
                contents,
                timings_s=journal.timings_s,
                notices=tuple(journal.notices),
                peak_memory_bytes=memory.peak_bytes,
                memory_limit_bytes=config.memory_limit_bytes,
                command=command,
            )
            write_run(out, finished, overwrite=overwrite)
    return Run.open(out)


def _window(run: Run, atlas: Atlas, config: ProjectConfig) -> int:
    """Tasks under way; refuses a memory limit that is too small."""
    prepare = PrepareConfig(batch_key=config.batch_key, cells=config.cells, n_genes=run.genes)
    whole = IntegrateConfig(
        prepare=prepare,
        inmf=recalling.inmf_config(run).refining(),
        embed=EmbedConfig(umap=False),
        n_threads=config.n_threads,
        memory_limit_bytes=config.memory_limit_bytes,
    )
    return fitting_window(run, atlas, count_new(run, atlas, prepare), whole)


@dataclass(frozen=True, slots=True)
class _Laid:
    """Points, places in the picture, and columns of all cells."""

    points: RowFile
    layout: RowFile | None
    columns: Mapping[str, Any]


def _run_labels(run: Run, label_key: str | None) -> NDArray[np.str_]:
    """Label of each cell of the run as text; its cluster where no column is named."""
    column = label_key or "tigon_cluster"
    if column not in run.obs.columns:
        raise InputError(
            f"the label key {column!r} is not a column of the run's obs: there are "
            f"{', '.join(map(str, run.obs.columns))}; choose one of these"
        )
    found = run.obs[column]
    return found.astype(object).where(found.notna(), "").astype(str).to_numpy(np.str_)


def _references(run: Run, labels: NDArray[np.str_], known: Known) -> References:
    clusters = run.obs["tigon_cluster"].astype(str).to_numpy(np.str_)
    kinds, numbers = np.unique(labels, return_inverse=True)
    usable = np.array([kind.strip().lower() not in NO_LABEL for kind in kinds])[numbers]
    eligible = usable & (clusters != UNASSIGNED)
    if not eligible.any():
        raise InputError(
            "no cell of the run has a label that could be taken over: at least one is needed; "
            "choose another --label-key"
        )
    names, dropped = pd.Index(known.names), recalling.dropped_factors(run)
    return choose_references(
        without_factors(run.loadings, dropped),
        factor_scale(run.A, run.n_cells)[kept_factors(known.n_components, dropped)],
        names.get_indexer(pd.Index(run.obs["tigon_dataset"].astype(str))).astype(np.int32),
        labels,
        clusters,
        eligible,
        run.obsm("X_umap") if "X_umap" in run.obsm_names else None,
        recalling.inmf_config(run).random_state,
    )


def _lay(
    H: RowReader,
    references: References,
    folder: Path,
    engine: ThreadEngine,
    progress: Progress,
) -> _Laid:
    """What the cells take over, tile by tile."""
    n = H.shape[0]
    points = RowFile(folder / "points", (n, H.shape[1]))
    layout = None if references.coordinates is None else RowFile(folder / "layout", (n, 2))
    parts: list[Taken] = []
    for start, stop in tiles(n):
        rows = H.read(start, stop)
        taken = take_over(rows, references, engine.n_threads)
        points.write(start, to_space(np.divide(rows, references.factor_scale, dtype=np.float32)))
        if layout is not None and taken.coordinates is not None:
            layout.write(start, taken.coordinates)
        parts.append(taken)
        progress("taking labels over", stop, n)
    columns = {
        "tigon_label": _named(references.label_names, [part.labels for part in parts]),
        "tigon_confidence": np.concatenate([part.confidence for part in parts]),
        "tigon_cluster": _named(references.cluster_names, [part.clusters for part in parts]),
    }
    return _Laid(points, layout, columns)


def _named(names: list[str], numbers: list[NDArray[np.int32]]) -> pd.Categorical[Any]:
    """Names of kinds; a cell without one is unassigned."""
    codes = np.concatenate(numbers)
    if (codes < 0).any() and UNASSIGNED not in names:
        names = [*names, UNASSIGNED]
    without = names.index(UNASSIGNED) if UNASSIGNED in names else -1
    return pd.Categorical.from_codes(np.where(codes < 0, without, codes), pd.Index(names))


def _contents(
    run: Run,
    atlas: Atlas,
    config: ProjectConfig,
    known: Known,
    query: Query,
    solution: Solution,
    H: RowFile,
    laid: _Laid,
) -> RunContents:
    datasets: Datasets = query.datasets
    kept = np.flatnonzero(datasets.codes >= 0)
    dataset = pd.Categorical.from_codes(datasets.codes[kept], pd.Index(datasets.names))
    obs = atlas.obs.iloc[kept].assign(tigon_dataset=dataset, **laid.columns)
    obsm: dict[str, Any] = {"X_inmf": H, "X_inmf_aligned": laid.points}
    if laid.layout is not None:
        obsm["X_umap"] = laid.layout
    given = {
        "run": str(run.path.absolute()),
        "sources": config.sources,
        "batch_key": config.batch_key,
        "label_key": config.label_key,
        "cells": config.cells,
    }
    lam = recalling.inmf_config(run).lam
    return RunContents(
        obs=obs,
        var=run.var,
        datasets=datasets.names,
        n_cells=datasets.sizes,
        model=Factors(
            W=known.W,
            V=dict(zip(datasets.names, query.V, strict=True)),
            A=solution.A,
            B=solution.B.transpose(0, 2, 1),
            lam=np.array([known.lam.get(known.fitted_as(name), lam) for name in datasets.names]),
            objective=solution.objective,
            per_gene={"measured": query.problem.measured, "scale": query.problem.scale},
        ),
        obsm=obsm,
        config={**recalling.without_added(run.config), PROJECTED: given},
        versions=versions(),
    )
