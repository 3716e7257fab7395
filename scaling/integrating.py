"""The main job: cells and genes, factors, alignment, clusters, layout, run.

Everything that is large lies in files: the pack and the loadings in the folder of the
job, which is removed at the end and which an interrupted job goes on from (a pack that
is kept, in its cache), the run in the store that is published at the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.arranging import align_cells, embed_cells
from tigon.scaling.budget import Plan, bytes_to_spare, plan_run
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.datasets import resolve_small, tell_of_one_source
from tigon.scaling.engine import Cluster, ThreadEngine
from tigon.scaling.factors.dropping import without_factors
from tigon.scaling.first_pass import is_stored
from tigon.scaling.identity import identity_of
from tigon.scaling.inmf.factorising import Factorisation, factorise
from tigon.scaling.inmf.solving import Solution
from tigon.scaling.job import Job, job_place
from tigon.scaling.journal import Journal
from tigon.scaling.kept import prepared_arrays, prepared_of, solution_arrays, solution_of
from tigon.scaling.memory import MemoryWatch, give_back
from tigon.scaling.preparing import Prepared, check_label_key, chosen_datasets, prepare
from tigon.scaling.recording import KeptNames, cell_table, gene_table, rows_of_kept, versions
from tigon.scaling.running import HERE, check_reachable, running
from tigon.storage.packs.cache import PackCache
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import check_output
from tigon.storage.rows import RowFile, RowReader
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.factors import Factors
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run
from tigon.storage.scattering import in_any_order

if TYPE_CHECKING:
    import pandas as pd

    from tigon.storage import Atlas


def plan_integration(atlas: Atlas, config: IntegrateConfig, cluster: Cluster = HERE) -> Plan:
    """Cost of the main job; reads metadata only.

    Raises
    ------
    InputError
        The batch key, the label key, the number of components or a lambda cannot be used;
        or workers of the cluster could not open the atlas.
    MemoryLimitError
        The memory limit is too small.
    """
    datasets = chosen_datasets(atlas, config.prepare, config.inmf.n_components)
    k, small = config.inmf.n_components, config.prepare.small_datasets
    config.inmf.lam_of(resolve_small(datasets, k, small).names)
    check_label_key(atlas, config.label_key)
    check_reachable(atlas, cluster)
    plan = plan_run(atlas, len(datasets.names), config, cluster.n_workers or 0)
    if is_stored(atlas, datasets, config.prepare.cell_filter):
        return replace(plan, atlas_passes=plan.atlas_passes - 1)
    return plan


def integrate_atlas(
    atlas: Atlas,
    config: IntegrateConfig,
    out: Path,
    scratch: Path,
    *,
    cluster: Cluster = HERE,
    cache: Path | None = None,
    overwrite: bool = False,
    resume: bool = False,
    restart: bool = False,
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
        Where the folder of the job is made, for the pack, the loadings and checkpoints
        while they are worked on.
    cluster
        Where tasks run; on threads of this process by default.
    cache
        Folder where packs are kept and looked for; None to keep none.
    overwrite, resume, restart, command, progress
        As for :func:`tigon.integrate`.

    Returns
    -------
    Run

    Raises
    ------
    TigonError
        Anything about the input, the options, the output or the machine. Nothing is left
        behind but the folder of a job that took a minute or more, see
        :mod:`tigon.scaling.job`.
    """
    check_output(out, overwrite=overwrite)
    packs = None if cache is None else PackCache(cache)
    plan = plan_integration(atlas, config, cluster)
    journal = Journal()
    place, identity = job_place(out, scratch), identity_of(atlas, config.as_dict())
    job = Job.open(place, out, identity, resume=resume, restart=restart)
    with (
        job.working(out, "for the pack and the loadings"),
        MemoryWatch() as memory,
        journal.listening(),
        running(
            cluster, plan, config.n_threads, atlas, job.folder, cache, progress=progress
        ) as engine,
    ):
        tell_of_one_source(atlas, config.prepare.batch_key, config.label_key)
        contents = _Stages(atlas, config, plan, job, packs, engine, journal, progress).run()
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
    """The stages of one integration, sharing where they run and who is told."""

    def __init__(
        self,
        atlas: Atlas,
        config: IntegrateConfig,
        plan: Plan,
        job: Job,
        packs: PackCache | None,
        engine: ThreadEngine,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self.atlas = atlas
        self.config = config
        self.plan = plan
        self.job = job
        self.folder = job.folder
        self.packs = packs
        self.engine = engine
        self.journal = journal
        self.progress = progress

    def run(self) -> RunContents:
        """All stages in order."""
        with self.journal.stage("cells and genes"):
            prepared = self._prepare()
        give_back()
        with self.journal.stage("factorisation"):
            loadings = self._loadings(prepared)
            found = self._factorise(prepared, loadings)
        give_back()
        with self.journal.stage("alignment"):
            compared = without_factors(loadings, self.config.drop_factors)
            aligned = RowFile(
                self.folder / "aligned", (len(prepared.kept_codes), compared.shape[1])
            )
            joint = self._align(prepared, compared, aligned)
        give_back()
        with self.journal.stage("clusters and layout"):
            layout = RowFile(self.folder / "layout", (len(prepared.kept_codes), 2))
            clusters, landmarks, scored = self._embed(prepared, aligned, joint, layout)
        give_back()
        obsm = {"X_inmf": loadings, "X_inmf_aligned": aligned}
        if self.config.embed.umap:
            obsm["X_umap"] = layout
        obs = cell_table(self.atlas, prepared, clusters, landmarks)
        return self._contents(prepared, found, obs, obsm, scored)

    def _loadings(self, prepared: Prepared) -> RowFile:
        shape = (len(prepared.kept_codes), self.config.inmf.n_components)
        return RowFile(self.folder / "loadings", shape, keep=True)

    def _prepare(self) -> Prepared:
        kept = self.job.load("prepared.npz")
        if kept is not None:
            return prepared_of(kept)
        k = self.config.inmf.n_components
        found = prepare(self.atlas, self.config.prepare, k, self.engine, self.progress)
        self.job.save("prepared.npz", **prepared_arrays(found))
        return found

    def _factorise(self, prepared: Prepared, loadings: RowFile) -> Factorisation:
        kept = self.job.load("solution.npz")
        known = None if kept is None else solution_of(kept, loadings)
        found = self._factors(prepared, loadings, known)
        if known is None:
            self.job.save("solution.npz", **solution_arrays(found.solution, loadings))
        return found

    def _factors(
        self, prepared: Prepared, loadings: RowFile, known: Solution | None
    ) -> Factorisation:
        row = rows_of_kept(prepared.statistics.kept)
        with in_any_order(loadings, self.progress) as write:
            return factorise(
                self.atlas,
                prepared,
                self.config.inmf,
                self.folder,
                self.engine,
                lambda positions, H: write(row(positions), H),
                self.progress,
                self.packs,
                self._bytes_to_spare(),
                resumable=self.job.can_be_kept,
                known=known,
            )

    def _bytes_to_spare(self) -> int:
        """For a pack in memory, where tasks read it from there."""
        if self.engine is not self.engine.local:
            return 0
        return bytes_to_spare(self.plan, self.config.memory_limit_bytes)

    def _align(
        self, prepared: Prepared, loadings: RowReader, aligned: RowFile
    ) -> NDArray[np.int32]:
        """Joint clusters, -1 for cells without loadings; what is written are points.

        Points, not loadings, so that whoever reads ``X_inmf_aligned`` and takes
        Euclidean distances compares cells as clusters and layout did.
        """
        return align_cells(
            loadings,
            prepared.kept_codes,
            prepared.datasets.names,
            self.config.align,
            self.config.inmf.random_state,
            self.engine.local,
            aligned,
            self.progress,
        )

    def _embed(
        self, prepared: Prepared, aligned: RowFile, joint: NDArray[np.int32], layout: RowFile
    ) -> tuple[NDArray[np.int32], NDArray[np.int64], dict[str, float]]:
        """Clusters of all cells, positions of the landmarks, and scores if there are labels."""
        cells = np.flatnonzero(prepared.statistics.kept)

        def labels(at: NDArray[np.int64]) -> NDArray[np.str_]:
            return self._labels(cells[at])

        return embed_cells(
            aligned,
            prepared.kept_codes,
            joint >= 0,
            None if self.config.label_key is None else labels,
            self.config.embed,
            self.config.inmf.random_state,
            self.engine.local,
            layout,
            self.progress,
        )

    def _labels(self, positions: NDArray[np.int64]) -> NDArray[np.str_]:
        """Known labels of the cells at some positions of the atlas; "" where there is none."""
        assert self.config.label_key is not None, "only called where there are labels"
        import pandas as pd

        column = pd.Series(self.atlas.obs_columns.values(self.config.label_key)).iloc[positions]
        return column.astype(object).where(column.notna(), "").astype(str).to_numpy(np.str_)

    def _contents(
        self,
        prepared: Prepared,
        found: Factorisation,
        obs: pd.DataFrame,
        obsm: Mapping[str, RowReader],
        scored: Mapping[str, float],
    ) -> RunContents:
        solution = found.solution
        return RunContents(
            obs=obs,
            cell_names=KeptNames(self.atlas.obs_columns, prepared.statistics.kept),
            var=gene_table(self.atlas, prepared),
            datasets=prepared.datasets.names,
            n_cells=found.problem.n_cells,
            model=Factors(
                W=found.W,
                V=dict(zip(prepared.datasets.names, found.V, strict=True)),
                A=solution.A,
                B=solution.B.transpose(0, 2, 1),
                lam=found.problem.lam_by_dataset,
                objective=solution.objective,
                per_gene={"measured": found.problem.measured, "scale": found.problem.scale},
                consensus={} if found.consensus is None else asdict(found.consensus),
            ),
            obsm=obsm,
            config=self.config.as_dict(),
            versions=versions(),
            history=found.history.columns(),
            scores=scored,
        )
