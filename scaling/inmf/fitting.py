"""One fit from its start to its end: online epochs, batch iterations, or both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tigon.scaling.inmf.batch import COMMON_ITERATIONS, descend
from tigon.scaling.inmf.checkpoint import Checkpoints
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.schedule import common_passes, plan_schedule
from tigon.scaling.inmf.state import Problem, State
from tigon.scaling.inmf.training import Steps, train_by_step
from tigon.storage.packs.reader import CellReader
from tigon.storage.progress import Progress, silent

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

BATCH = "batch"
"""Folder of batch iterations in that of the fit."""


@dataclass(frozen=True, slots=True)
class Fitting:
    """What a fit works on and with.

    Attributes
    ----------
    pack, problem, config
        What is factorised, and the options.
    engine
        Where it runs.
    resumable
        Whether checkpoints are kept, and gone on from.
    """

    pack: CellReader
    problem: Problem
    config: INMFConfig
    engine: ThreadEngine
    resumable: bool

    def by_step(
        self, state: State, seed: np.random.SeedSequence, folder: Path, progress: Progress = silent
    ) -> Steps:
        """Epochs, batch iterations, or one after the other, as the options say.

        Parameters
        ----------
        state
            To begin with; updated in place, unless there is a checkpoint to go on from.
        seed
            Of the order of mini-batches.
        folder
            For checkpoints and loadings; made where it is not there.
        progress
            Who is told.
        """
        history = History()
        folder.mkdir(exist_ok=True)
        k, n_common = self.config.n_components, 0
        if self.config.solver == "online":
            schedule = plan_schedule(self.config, self.pack.n_cells, self.problem.n_datasets)
            state, history = yield from train_by_step(
                self.pack,
                folder,
                self.problem,
                state,
                schedule,
                self.config,
                self.engine,
                seed,
                progress,
                Checkpoints(folder) if self.resumable else None,
                common_passes(self.problem, k, schedule.max_epochs),
            )
        iterations = self.config.max_iterations
        if not iterations:
            return state, history
        if self.config.solver == "batch":  # otherwise epochs have begun with them
            n_common = common_passes(self.problem, k, iterations, COMMON_ITERATIONS)
        return self.iterate(state, iterations, folder / BATCH, history, progress, n_common)

    def iterate(
        self,
        state: State,
        max_iterations: int,
        folder: Path,
        history: History,
        progress: Progress = silent,
        n_common: int = 0,
    ) -> tuple[State, History]:
        """Batch iterations from a state; arguments as for :func:`descend`."""
        folder.mkdir(exist_ok=True)
        return descend(
            self.pack,
            folder,
            self.problem,
            state,
            max_iterations,
            self.config,
            self.engine,
            history,
            progress,
            Checkpoints(folder) if self.resumable else None,
            n_common,
        )
