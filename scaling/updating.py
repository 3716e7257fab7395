"""Scenario 2 as a job: a run and new cells make the next run, the old cells unread.

Cells of the run keep their loadings, and a column says of which version of the metagenes
they are; where the old counts are reachable, loadings and statistics of whole datasets can
be refreshed. Alignment, clusters and layout are of all cells together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.scaling import recalling
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.arranging import Arranged, arrange_cells, lasting
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.embedding.rows import tiles
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.factors.dropping import without_factors
from tigon.scaling.inmf.arriving import Arrival, arrive
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.continuing import continue_fit
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.known import Known
from tigon.scaling.journal import Journal
from tigon.scaling.later_budget import count_new, fitting_window
from tigon.scaling.memory import MemoryWatch
from tigon.scaling.preparing import PrepareConfig
from tigon.scaling.recording import versions
from tigon.scaling.refreshing import refresh
from tigon.scaling.updated_tables import (
    all_cells,
    finish_cells,
    known_labels,
    new_cells,
    with_detected,
)
from tigon.storage.errors import InputError
from tigon.storage.packs.cache import PackCache
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import check_output
from tigon.storage.rows import RowFile
from tigon.storage.runs.contents import RunContents
from tigon.storage.runs.factors import Factors
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run
from tigon.storage.scattering import in_any_order
from tigon.storage.scratch import Scratch, writing_scratch

if TYPE_CHECKING:
    from tigon.storage import Atlas


@dataclass(frozen=True, kw_only=True, slots=True)
class UpdateConfig:
    """What an update is given, beside the cells.

    Parameters
    ----------
    prepare
        Batch key, cells, limits on counts, and what becomes of small datasets.
    inmf
        The factorisation; its options are those of the run but for the epochs.
    drop
        Datasets to leave out.
    sources
        What the new cells were opened from, as the run records it.
    n_threads
        Threads; the result does not depend on it.
    memory_limit_bytes
        Limit of the process tree; None for no limit.
    """

    prepare: PrepareConfig
    inmf: INMFConfig
    drop: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()
    n_threads: int = 1
    memory_limit_bytes: int | None = None


def update_run(
    run: Run,
    atlas: Atlas | None,
    config: UpdateConfig,
    out: Path,
    scratch: Path,
    *,
    old: Atlas | None = None,
    cache: Path | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Progress = silent,
) -> Run:
    """Refine a run with new cells and publish the run that results.

    Parameters
    ----------
    run
        The run; it is not written to.
    atlas
        The new cells; None where datasets are only dropped or refreshed.
    config
        Options.
    out, scratch
        The store to publish, and a folder for what is worked on.
    old
        Where counts of old cells are, to refresh their loadings; None to keep them.
    cache, overwrite, command, progress
        As for :func:`tigon.scaling.integrating.integrate_atlas`.

    Raises
    ------
    TigonError
        Anything about the run, the cells, the options or the output; nothing is left.

    Notes
    -----
    Two passes over the new cells and those over their pack; one over ``old``; eight over the
    loadings of all cells. Holds the tables of cells, and 28 k m bytes for each dataset.
    """
    check_output(out, overwrite=overwrite)
    window = _window(run, atlas if atlas is not None else old, config)
    journal = Journal()
    with (
        MemoryWatch() as memory,
        journal.listening(),
        closing(Scratch(scratch)) as aside,
        ThreadEngine(config.n_threads, window=window) as engine,
    ):
        packs = None if cache is None else PackCache(cache)
        job = _Update(run, atlas, old, config, aside.folder, packs, engine, journal, progress)
        with writing_scratch(aside, "for the pack and the loadings"):
            contents = job.run_all()
        with journal.stage("writing"):
            finished = replace(
                contents,
                timings_s=journal.timings_s,
                notices=(*lasting(run.notices), *journal.notices),
                peak_memory_bytes=memory.peak_bytes,
                memory_limit_bytes=config.memory_limit_bytes,
                command=command,
            )
            write_run(out, finished, overwrite=overwrite)
    return Run.open(out)


def _window(run: Run, atlas: Atlas | None, config: UpdateConfig) -> int:
    """Tasks under way; refuses a memory limit that is too small."""
    whole = IntegrateConfig(
        prepare=replace(config.prepare, n_genes=run.genes),
        inmf=config.inmf,
        align=recalling.align_config(run),
        embed=recalling.embed_config(run),
        n_threads=config.n_threads,
        memory_limit_bytes=config.memory_limit_bytes,
    )
    return fitting_window(run, atlas, count_new(run, atlas, config.prepare), whole)


class _Update:
    """The stages of one update, sharing where they run and who is told."""

    def __init__(
        self,
        run: Run,
        atlas: Atlas | None,
        old: Atlas | None,
        config: UpdateConfig,
        folder: Path,
        packs: PackCache | None,
        engine: ThreadEngine,
        journal: Journal,
        progress: Progress,
    ) -> None:
        self.run, self.atlas, self.old, self.config = run, atlas, old, config
        self.folder, self.packs, self.engine = folder, packs, engine
        self.journal, self.progress = journal, progress
        self.number = recalling.n_updates(run) + 1

    def run_all(self) -> RunContents:
        """All stages in order."""
        config = self.config
        known = before = recalling.recall_fit(self.run).without(config.drop)
        dataset = self.run.obs["tigon_dataset"].astype(str)
        kept = np.flatnonzero(~dataset.isin(config.drop).to_numpy())
        # Clusters that were added are of the old cells only.
        added = list(recalling.added(self.run, recalling.CLUSTERINGS))
        obs = self.run.obs.iloc[kept].drop(columns=added, errors="ignore")
        if self.atlas is not None:
            _check_names(obs.index, self.atlas.obs.index)
        with self.journal.stage("cells and genes"):
            arrival = self._arrive(known)
        n_new = 0 if arrival is None else arrival.n_cells
        loadings = RowFile(self.folder / "loadings", (len(kept) + n_new, known.n_components))
        self._copy_loadings(kept, loadings)
        history = History()
        with self.journal.stage("factorisation"):
            if arrival is not None:
                known, history = self._continue(known, arrival, loadings, len(kept))
        version = np.full(loadings.shape[0], self.number, np.int32)
        version[: len(kept)] = _versions_of(obs)
        with self.journal.stage("refreshing"):
            if self.old is not None:
                with in_any_order(loadings, self.progress) as write:
                    known, refreshed = refresh(
                        self.old,
                        obs,
                        before,
                        known,
                        config.inmf.tol_final,
                        self.engine,
                        write,
                        self.progress,
                    )
                version[refreshed] = self.number
        table = all_cells(obs, self._new_cells(arrival), known.names)
        codes = table["tigon_dataset"].cat.codes.to_numpy().astype(np.int32)
        arranged = self._arrange(loadings, codes, table, known)
        return self._contents(known, arrival, history, loadings, table, version, arranged)

    def _arrive(self, known: Known) -> Arrival | None:
        if self.atlas is None:
            return None
        return arrive(self.atlas, known, self.config.prepare, self.engine, self.progress)

    def _copy_loadings(self, kept: NDArray[np.int64], loadings: RowFile) -> None:
        rows = self.run.loadings
        done = 0
        for start, stop in tiles(rows.shape[0]):
            here = kept[np.searchsorted(kept, start) : np.searchsorted(kept, stop)] - start
            loadings.write(done, rows.read(start, stop)[here])
            done += len(here)
            self.progress("copying loadings", stop, rows.shape[0])

    def _continue(
        self, known: Known, arrival: Arrival, loadings: RowFile, n_old: int
    ) -> tuple[Known, History]:
        row = n_old - 1 + np.cumsum(arrival.datasets.codes >= 0)
        assert self.atlas is not None, "cells have arrived"
        with in_any_order(loadings, self.progress) as write:
            found = continue_fit(
                self.atlas,
                arrival,
                known,
                self.config.inmf,
                self.number,
                self.folder,
                self.engine,
                lambda positions, H: write(row[positions], H),
                self.progress,
                self.packs,
            )
        return found.known, found.history

    def _new_cells(self, arrival: Arrival | None) -> pd.DataFrame | None:
        return None if arrival is None else new_cells(_present(self.atlas), arrival)

    def _arrange(
        self, loadings: RowFile, codes: NDArray[np.int32], table: pd.DataFrame, known: Known
    ) -> Arranged:
        with self.journal.stage("alignment, clusters and layout"):
            return arrange_cells(
                without_factors(loadings, recalling.dropped_factors(self.run)),
                codes,
                known.names,
                known_labels(table, self.run.config.get("label_key")),
                self._align_config(known),
                recalling.embed_config(self.run),
                self.config.inmf.random_state,
                self.folder,
                self.engine,
                self.progress,
            )

    def _align_config(self, known: Known) -> AlignConfig:
        """That of the run, with the number that its reference has now; None where it went."""
        align = recalling.align_config(self.run)
        if align.reference is None:
            return align
        name = self.run.datasets[align.reference]
        again = known.names.index(name) if name in known.names else None
        return replace(align, reference=again)

    def _contents(
        self,
        known: Known,
        arrival: Arrival | None,
        history: History,
        loadings: RowFile,
        table: pd.DataFrame,
        version: NDArray[np.int32],
        arranged: Arranged,
    ) -> RunContents:
        obsm = {"X_inmf": loadings, "X_inmf_aligned": arranged.aligned}
        if arranged.layout is not None:
            obsm["X_umap"] = arranged.layout
        names = known.names
        return RunContents(
            obs=finish_cells(table, version, arranged),
            var=with_detected(self.run.var, arrival),
            datasets=names,
            n_cells=np.array([known.n_cells[name] for name in names]),
            model=_factors(known, self._consensus()),
            obsm=obsm,
            config=self._config(arrival, known),
            versions=versions(),
            history=_continued(self.run.history, history),
            scores=arranged.scores,
        )

    def _consensus(self) -> dict[str, Any]:
        """What starts of the first fit agreed on, marked as of a run before updates."""
        found = {name: np.asarray(value) for name, value in self.run.consensus.items()}
        return found | {"n_updates": self.number} if found else {}

    def _config(self, arrival: Arrival | None, known: Known) -> dict[str, Any]:
        config = recalling.without_added(self.run.config)
        prepare = self.config.prepare
        given = {
            "sources": self.config.sources,
            "batch_key": prepare.batch_key,
            "cells": prepare.cells,
            "small_datasets": prepare.small_datasets,
            "n_epochs": self.config.inmf.n_epochs,
            "n_cells": 0 if arrival is None else arrival.n_cells,
            "dropped": self.config.drop,
            "refreshed": self.old is not None,
        }
        updates = {**config.get(recalling.UPDATES, {}), str(self.number): given}
        reference = self._align_config(known).reference
        align = {**config.get("align", {}), "reference": reference}
        return {**config, "align": align, recalling.UPDATES: updates}


def _factors(known: Known, consensus: dict[str, Any]) -> Factors:
    names = known.names
    return Factors(
        W=known.W,
        V={name: known.V[name] for name in names},
        A=np.stack([known.A[name] for name in names]),
        B=np.stack([known.B[name].T for name in names]),
        lam=np.array([known.lam[name] for name in names]),
        objective=known.objective(),
        per_gene={
            "measured": np.stack([known.measured[name] for name in names]),
            "scale": np.stack([known.scale[name] for name in names]),
            "squares": np.stack([known.squares[name] for name in names]),
        },
        consensus=consensus,
    )


def _present(atlas: Atlas | None) -> Atlas:
    assert atlas is not None, "cells have arrived"
    return atlas


def _check_names(old: pd.Index[Any], new: pd.Index[Any]) -> None:
    both = old.intersection(new)
    if len(both):
        raise InputError(
            f"{len(both):,} of {len(new):,} new cells have the name of a cell of the run (the "
            f"first is {both[0]!r}): a cell is counted once; give new cells names of their own, or "
            "leave out those that are in the run already"
        )


def _versions_of(obs: pd.DataFrame) -> NDArray[np.int32]:
    if recalling.VERSION not in obs:
        return np.zeros(len(obs), np.int32)
    return obs[recalling.VERSION].to_numpy().astype(np.int32)


def _continued(before: Mapping[str, NDArray[Any]], steps: History) -> dict[str, NDArray[Any]]:
    """The history of the run and the steps after it, counted on."""
    new = steps.columns()
    if not len(new["step"]):
        return dict(before)
    n_before, counted = len(before.get("step", ())), ("epoch", "step", "n_seen")
    joined = {}
    for name, column in new.items():
        # Runs of before have fewer columns.
        old = before[name] if name in before else np.full(n_before, np.nan)
        on = old[-1] + (name != "n_seen") if name in counted and len(old) else 0
        joined[name] = np.concatenate([old, column + on])
    return joined


def told_sources(sources: Iterable[Any]) -> tuple[str, ...]:
    """Sources as a run records them."""
    return tuple(str(s) if isinstance(s, str | Path) else type(s).__name__ for s in sources)
