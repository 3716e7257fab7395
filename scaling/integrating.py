"""The main job: cells and genes, factors, alignment, clusters, layout, run.

Everything that is large lies in files: the pack and the loadings in a scratch
folder that is removed at the end, the run in the store that is published at
the end.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment import align
from tigon.scaling.budget import Plan, plan_run
from tigon.scaling.cells import select_cells
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.datasets import datasets_of
from tigon.scaling.embedding import Picture
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.factorising import Factorisation, factorise
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.journal import Journal
from tigon.scaling.memory import MemoryWatch
from tigon.scaling.preparing import Prepared, prepare
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import check_output
from tigon.storage.rows import RowFile
from tigon.storage.run import Run, write_run
from tigon.storage.sources.scratch import Scratch

if TYPE_CHECKING:
    from tigon.storage import Atlas


def plan_integration(atlas: Atlas, config: IntegrateConfig) -> Plan:
    """Cost of the main job; reads metadata only.

    Raises
    ------
    InputError
        The batch key or the label key cannot be used.
    MemoryLimitError
        The memory limit is too small.
    """
    chosen = select_cells(atlas.obs, config.prepare.cells)
    datasets = datasets_of(atlas, config.prepare.batch_key, chosen)
    if config.label_key is not None and config.label_key not in atlas.obs.columns:
        raise InputError(
            f"the label key {config.label_key!r} is not a column of obs: there are "
            f"{', '.join(map(str, atlas.obs.columns))}; choose one of these"
        )
    return plan_run(
        atlas,
        len(datasets.names),
        config.prepare.at_most_genes(atlas.n_genes),
        config.inmf,
        config.n_threads,
        plan_schedule(config.inmf, atlas.n_cells).min_epochs + 1,
        config.memory_limit_bytes,
    )


def integrate_atlas(
    atlas: Atlas,
    config: IntegrateConfig,
    out: Path,
    scratch: Path,
    *,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Run the main job and publish the run.

    Parameters
    ----------
    atlas, config
        The counts and every option.
    out
        The store to publish, at the end.
    scratch
        Folder for the pack and the loadings while they are worked on.
    overwrite, command, progress
        As for :func:`tigon.integrate`.

    Returns
    -------
    Run

    Raises
    ------
    TigonError
        Anything about the input, the options, the output or the machine; nothing
        is left behind.
    """
    check_output(out, overwrite=overwrite)
    plan = plan_integration(atlas, config)
    journal = Journal()
    with (
        MemoryWatch() as memory,
        journal.listening(),
        closing(Scratch(scratch)) as aside,
        ThreadEngine(config.n_threads, window=plan.window) as engine,
    ):
        work = _Work(atlas, config, aside.folder, engine, journal, progress)
        prepared = work.prepare()
        loadings = work.new_rows(prepared, "loadings")
        found = work.factorise(prepared, loadings)
        aligned = work.new_rows(prepared, "aligned")
        work.align(prepared, loadings, aligned)
        picture = work.draw(prepared, aligned)
        contents = work.contents(prepared, found, picture, loadings, aligned)
        with journal.stage("writing the run"):
            contents = journal.complete(contents, memory.peak_bytes, command)
            write_run(out, contents, overwrite=overwrite)
    return Run.open(out)


class _Work:
    """The stages, sharing where they run and who is told."""

    def __init__(
        self,
        atlas: Atlas,
        config: IntegrateConfig,
        folder: Path,
        engine: ThreadEngine,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self.atlas = atlas
        self.config = config
        self.folder = folder
        self.engine = engine
        self.journal = journal
        self.progress = progress

    def new_rows(self, prepared: Prepared, name: str) -> RowFile:
        n_kept = int(prepared.statistics.kept.sum())
        return RowFile(self.folder / name, (n_kept, self.config.inmf.n_components))

    def prepare(self) -> Prepared:
        with self.journal.stage("cells and genes"):
            return prepare(
                self.atlas,
                self.config.prepare,
                self.config.inmf.n_components,
                self.engine,
                self.progress,
            )

    def factorise(self, prepared: Prepared, loadings: RowFile) -> Factorisation:
        row = np.cumsum(prepared.statistics.kept) - 1

        def write(positions: NDArray[np.int64], H: NDArray[np.float32]) -> None:
            loadings.write_at(row[positions], H)

        with self.journal.stage("factorisation"):
            return factorise(
                self.atlas,
                prepared,
                self.config.inmf,
                self.folder,
                self.engine,
                write,
                self.progress,
            )

    def align(self, prepared: Prepared, loadings: RowFile, aligned: RowFile) -> None:
        with self.journal.stage("alignment"):
            align(
                loadings,
                prepared.kept_codes,
                len(prepared.datasets.names),
                self.config.align,
                seed=self.config.inmf.random_state,
                write=aligned.write,
                progress=self.progress,
            )

    def draw(self, prepared: Prepared, aligned: RowFile) -> Picture:
        with self.journal.stage("clusters and layout"):
            raise NotImplementedError
