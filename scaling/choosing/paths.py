"""The fits of one lambda and fold, from few factors to many, each kept once it is scored.

A job keeps the scores of every fit, and of each path the last state, from which the fit of
more factors grows. An interrupted one goes on from there, to the same bytes: it does again
what was under way of one fit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.choosing.config import ChooseConfig
from tigon.scaling.choosing.folds import Fold, child
from tigon.scaling.choosing.growing import grow
from tigon.scaling.inmf.consensus import Metagenes
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.state import Problem, State
from tigon.scaling.inmf.training import train
from tigon.scaling.job import Job

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine


@dataclass(frozen=True, slots=True)
class Scored:
    """What a fit is compared by.

    Attributes
    ----------
    error
        On hidden entries, as a share of their squares.
    mixing
        Of the datasets; NaN where there is one.
    factors
        Mean metagenes of length 1, float64, shape (k, m).
    """

    error: float
    mixing: float
    factors: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class WarmPath:
    """Fits of one lambda and fold, each begun from the one before.

    Attributes
    ----------
    fold, problem
        What is learnt from, and the masks, scales and lambda.
    config
        The options.
    seed
        Seeds of all fits are its children, by fold and k.
    job
        Where what is done is kept.
    name
        Tells the path from others of the job.
    """

    fold: Fold
    problem: Problem
    config: ChooseConfig
    seed: np.random.SeedSequence
    job: Job
    name: str

    def scored(
        self, score: Callable[[Metagenes], Scored], engine: ThreadEngine
    ) -> Iterator[Scored]:
        """Scores of each fit, by ascending k; those that were kept are not made again."""
        state, kept = self._kept()
        yield from kept
        for k in self.config.k[len(kept) :]:
            state = self._fit(state, k, engine)
            found = score(Metagenes(state.W, state.V))
            self.job.save(self._fit_name(k), **{f.name: getattr(found, f.name) for f in _SCORES})
            if k != self.config.k[-1]:
                self.job.save(self._state_name, **{f.name: getattr(state, f.name) for f in _STATE})
            yield found

    def _fit(self, state: State | None, k: int, engine: ThreadEngine) -> State:
        fold, folder = self.fold, self.job.folder / "fit"
        folder.mkdir(exist_ok=True)
        begun = grow(state, self.problem, k, child(self.seed, 0, fold.number, k))
        n_datasets = self.problem.n_datasets
        schedule = plan_schedule(self.config.inmf, fold.training.n_cells, n_datasets)
        options, epochs = (
            replace(self.config.inmf, n_components=k),
            child(self.seed, 1, fold.number, k),
        )
        return train(fold.training, folder, self.problem, begun, schedule, options, engine, epochs)[
            0
        ]

    def _kept(self) -> tuple[State | None, list[Scored]]:
        """The state to go on from, and the scores of the fits up to it."""
        scores: list[Scored] = []
        for k in self.config.k:
            found = self._kept_scores(k)
            if found is None:
                break
            scores.append(found)
        if len(scores) == len(self.config.k):
            return None, scores
        arrays = self.job.load(self._state_name) if scores else None
        if arrays is None:
            return None, []
        state = State(**arrays)
        # A job that is interrupted between the two has a fit's scores and the state before it.
        n_before = 1 + self.config.k.index(len(state.W))
        return (state, scores[:n_before]) if n_before <= len(scores) else (None, [])

    def _kept_scores(self, k: int) -> Scored | None:
        arrays = self.job.load(self._fit_name(k))
        if arrays is None:
            return None
        return Scored(float(arrays["error"]), float(arrays["mixing"]), arrays["factors"])

    def _fit_name(self, k: int) -> str:
        return f"fit-{self.name}-{k}.npz"

    @property
    def _state_name(self) -> str:
        return f"state-{self.name}.npz"


_SCORES, _STATE = fields(Scored), fields(State)
