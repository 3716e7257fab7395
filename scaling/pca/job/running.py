"""The job of principal components: cells and genes, components, scores, run.

Scores go to a file in the folder of the job as they come, and from there into the run: nothing
that is as long as the cells and as wide as the components is held in memory.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from tigon.scaling.engine import Cluster, ThreadEngine
from tigon.scaling.identity import identity_of
from tigon.scaling.job import Job, job_place
from tigon.scaling.journal import Journal
from tigon.scaling.memory import MemoryWatch, give_back
from tigon.scaling.pca.decomposing import Decomposition, decompose, not_converged
from tigon.scaling.pca.job.begin import Beginning
from tigon.scaling.pca.job.config import DecomposeConfig
from tigon.scaling.pca.job.kept import decomposition_arrays, decomposition_of
from tigon.scaling.pca.job.passes import JobPasses
from tigon.scaling.pca.job.planning import DecomposePlan, plan_decomposition
from tigon.scaling.pca.job.recorded import run_contents
from tigon.scaling.pca.where import OF_COMPONENTS
from tigon.scaling.preparing import check_label_key
from tigon.scaling.running import HERE, check_reachable, running
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import check_output
from tigon.storage.rows import RowFile
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run

if TYPE_CHECKING:
    from tigon.storage import Atlas

log = logging.getLogger("tigon")

COMPONENTS = "components.npz"


def plan_job(
    atlas: Atlas, config: DecomposeConfig, cluster: Cluster = HERE
) -> tuple[Beginning, DecomposePlan]:
    """What a job begins with and what it costs; reads metadata only.

    Raises
    ------
    InputError
        An option does not fit the atlas, or workers of the cluster could not open it.
    MemoryLimitError
        The memory limit is too small.
    """
    check_label_key(atlas, config.label_key)
    check_reachable(atlas, cluster)
    beginning = Beginning.of(atlas, config)
    return beginning, plan_decomposition(atlas, beginning, cluster.n_workers or 0)


def decompose_atlas(
    atlas: Atlas,
    config: DecomposeConfig,
    out: Path,
    scratch: Path,
    *,
    cluster: Cluster = HERE,
    overwrite: bool = False,
    resume: bool = False,
    restart: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Run the job and publish the run.

    Parameters
    ----------
    atlas, config
        The counts and every option.
    out
        The store to publish, at the end.
    scratch
        Where the folder of the job is made, for sums and scores.
    cluster
        Where tasks run; on threads of this process by default.
    overwrite, resume, restart, command, progress
        As for :func:`tigon.pca`.

    Raises
    ------
    TigonError
        Anything about the input, the options, the output or the machine. Nothing is left
        behind but the folder of a job that took a minute or more.
    """
    check_output(out, overwrite=overwrite)
    journal = Journal()
    with journal.listening():
        beginning, plan = plan_job(atlas, config, cluster)
        identity = identity_of(atlas, config.as_dict())
        job = Job.open(job_place(out, scratch), out, identity, resume=resume, restart=restart)
        with (
            job.working(out, "for sums and scores"),
            MemoryWatch() as memory,
            running(
                cluster,
                plan,
                config.n_threads,
                atlas,
                job.folder,
                modules=OF_COMPONENTS,
                progress=progress,
            ) as engine,
        ):
            contents = _Stages(atlas, beginning, job, engine, journal, progress).run()
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


class _Stages:
    """The stages of one job, sharing where they run and who is told."""

    def __init__(
        self,
        atlas: Atlas,
        beginning: Beginning,
        job: Job,
        engine: ThreadEngine,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self.atlas, self.beginning, self.job = atlas, beginning, job
        self.engine, self.journal, self.progress = engine, journal, progress

    def run(self) -> RunContents:
        """All stages in order."""
        with self.journal.stage("cells and genes"):
            passes = JobPasses(self.atlas, self.beginning, self.job, self.engine, self.progress)
        give_back()
        with self.journal.stage("components"):
            found = self._decompose(passes)
        give_back()
        with self.journal.stage("scores"):
            scores = self._scores(passes, found)
        give_back()
        found = replace(found, n_passes=passes.n_passes, bytes_read=passes.bytes_read)
        return run_contents(self.atlas, self.beginning, passes.prepared, found, scores)

    def _decompose(self, passes: JobPasses) -> Decomposition:
        kept = self.job.load(COMPONENTS)
        if kept is not None and passes.recall():
            found = decomposition_of(kept)
            passes.n_passes, passes.bytes_read = found.n_passes, found.bytes_read
        else:
            found = decompose(passes, self.beginning.pca)
            found = replace(found, reason=self.beginning.reason)
            self.job.save(COMPONENTS, **decomposition_arrays(found))
        if not found.converged:
            log.warning("%s", not_converged(found, self.beginning.pca.tol))
        return found

    def _scores(self, passes: JobPasses, found: Decomposition) -> RowFile:
        shape = (passes.rows.shape[0], len(found.components))
        scores, done = RowFile(self.job.folder / "scores", shape), 0
        for part in passes.scores(*found.onto()):
            scores.write(done, part)
            done += len(part)
        return scores
