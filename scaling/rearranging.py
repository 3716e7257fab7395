"""A run arranged anew without some of its factors: the counts are not read.

Loadings, metagenes and statistics are those of the run, to the bit. Alignment, clusters,
layout and scores are made of the loadings on the factors that are kept, with the options
and the seed of the run: they are the same bytes as those of an integration that was told
to drop these factors.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from tigon.scaling import recalling
from tigon.scaling.arranging import Arranged, arrange_cells, lasting
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.factors.dropping import checked_factors, without_factors
from tigon.scaling.journal import Journal
from tigon.scaling.later_budget import fitting_window
from tigon.scaling.memory import MemoryWatch
from tigon.scaling.projecting import PROJECTED
from tigon.scaling.recording import versions
from tigon.scaling.updated_tables import known_labels, with_clusters
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import check_output
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.factors import Factors
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run
from tigon.storage.scratch import Scratch, writing_scratch

REARRANGED = "rearranged"
"""Part of the configuration: the run that was arranged anew, and the command that made it."""

_ARRANGED = ("X_inmf", "X_inmf_aligned")
"""What layouts and clusters that were added are of, if they change with the factors."""


def rearrange_run(
    run: Run,
    drop_factors: Sequence[int],
    out: Path,
    scratch: Path,
    *,
    n_threads: int = 1,
    memory_limit_bytes: int | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Align, cluster and lay out the cells of a run without some factors, as another run.

    Parameters
    ----------
    run
        The run; it is not written to.
    drop_factors
        Numbers of the factors to leave out, in place of those that the run leaves out.
    out, scratch
        The store to publish, and a folder for what is worked on.
    n_threads, memory_limit_bytes
        The machine; the result does not depend on it.
    overwrite, command, progress
        As for :func:`tigon.scaling.integrating.integrate_atlas`.

    Raises
    ------
    TigonError
        Anything about the run, the factors or the output; nothing is left.

    Notes
    -----
    The passes of the alignment over the loadings (:func:`tigon.scaling.alignment.aligning.align`),
    and two over the points. Holds the tables of cells, and 28 k m bytes a dataset.
    """
    check_output(out, overwrite=overwrite)
    if PROJECTED in run.config:
        raise InputError(
            f"{run.path} is a projection: its clusters are those of the run that it was laid on; "
            "drop factors from that run, then project again"
        )
    dropped = checked_factors(drop_factors, len(run.W))
    whole = IntegrateConfig(
        align=recalling.align_config(run),
        embed=recalling.embed_config(run),
        n_threads=n_threads,
        memory_limit_bytes=memory_limit_bytes,
    )
    window = fitting_window(run, None, 0, whole)
    journal = Journal()
    with (
        MemoryWatch() as memory,
        journal.listening(),
        closing(Scratch(scratch)) as aside,
        ThreadEngine(n_threads, window=window) as engine,
    ):
        with (
            writing_scratch(aside, "for aligned cells"),
            journal.stage("alignment, clusters and layout"),
        ):
            arranged = _arrange(run, dropped, aside.folder, engine, progress)
        with journal.stage("writing"):
            contents = replace(
                _contents(run, dropped, arranged),
                timings_s=journal.timings_s,
                notices=(*lasting(run.notices), *journal.notices),
                peak_memory_bytes=memory.peak_bytes,
                memory_limit_bytes=memory_limit_bytes,
                command=command,
            )
            write_run(out, contents, overwrite=overwrite)
    return Run.open(out)


def _arrange(
    run: Run, dropped: tuple[int, ...], folder: Path, engine: ThreadEngine, progress: Progress
) -> Arranged:
    names = pd.Index(run.datasets)
    codes = names.get_indexer(pd.Index(run.obs["tigon_dataset"].astype(str)))
    return arrange_cells(
        without_factors(run.loadings, dropped),
        codes.astype(np.int32),
        run.datasets,
        known_labels(run.obs, run.config.get("label_key")),
        recalling.align_config(run),
        recalling.embed_config(run),
        recalling.inmf_config(run).random_state,
        folder,
        engine,
        progress,
    )


def _contents(run: Run, dropped: tuple[int, ...], arranged: Arranged) -> RunContents:
    made_anew = {"X_umap", *recalling.added(run, recalling.LAYOUTS, of=_ARRANGED)}
    gone = ["tigon_landmark", *recalling.added(run, recalling.CLUSTERINGS, of=_ARRANGED)]
    obsm: dict[str, Any] = {
        name: run.obsm(name) for name in run.obsm_names if name not in made_anew
    }
    obsm["X_inmf_aligned"] = arranged.aligned
    if arranged.layout is not None:
        obsm["X_umap"] = arranged.layout
    made_from = {"run": str(run.path.absolute()), "command": run.command}
    return RunContents(
        obs=with_clusters(run.obs.drop(columns=gone, errors="ignore"), arranged),
        var=run.var,
        datasets=run.datasets,
        n_cells=run.n_cells,
        model=Factors(
            W=run.W,
            V=run.V,
            A=run.A,
            B=run.B,
            lam=run.lam,
            objective=run.objective,
            per_gene={name: run.per_gene(name) for name in run.per_gene_names},
            consensus={name: np.asarray(found) for name, found in run.consensus.items()},
        ),
        obsm=obsm,
        config={
            **recalling.without_added(run.config),
            **_left(run, recalling.LAYOUTS, obsm),
            **_left(run, recalling.CLUSTERINGS, [name for name in run.obs if name not in gone]),
            recalling.DROPPED: dropped,
            REARRANGED: made_from,
        },
        versions=versions(),
        history=run.history,
        scores=arranged.scores,
    )


def _left(run: Run, part: str, there: Container[Any]) -> dict[str, Any]:
    """Of what was added to the run, the records of what is still there and not made anew."""
    own = ("X_umap", "tigon_cluster")
    made = run.config.get(part, {})
    left = {name: told for name, told in made.items() if name in there and name not in own}
    return {part: left} if left else {}
