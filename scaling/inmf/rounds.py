"""Rounds of an epoch: in each, the sums of the one before are handed over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Self

import numpy as np

from tigon.scaling.inmf.schedule import Stretch
from tigon.scaling.inmf.state import Problem
from tigon.storage.packs.reader import CellReader

CELLS_OF_A_FACTOR = 50
"""So many times the factors are the cells that a dataset has in a round at least. A dataset of
fewer hands its sums over once an epoch: V_i would be divided by what a few small loadings add
up to, and grow without bound."""


@dataclass(frozen=True, slots=True)
class Rounds:
    """The rounds of an epoch.

    Attributes
    ----------
    firsts
        The first task of each, ascending.
    problems
        What each factorises: the problem with the cells of a dataset over which its sums are
        handed over, which are those seen in the round, or all of a small dataset.
    """

    firsts: list[int]
    problems: list[Problem]

    @classmethod
    def of(
        cls,
        problem: Problem,
        n_components: int,
        pack: CellReader,
        tasks: list[list[Stretch]],
        firsts: list[int],
    ) -> Self:
        """Of the tasks of an epoch."""
        if len(firsts) == 1:
            return cls(firsts, [problem])
        fewest = CELLS_OF_A_FACTOR * n_components * len(firsts)
        is_small = problem.n_cells < fewest
        problems = []
        for first, last in pairwise([*firsts, len(tasks)]):
            n_cells = np.zeros_like(problem.n_cells)
            for cut in chain.from_iterable(tasks[first:last]):
                n_cells += np.bincount(pack.datasets(*cut), minlength=problem.n_datasets)
            cells = np.where(is_small, problem.n_cells, n_cells)
            problems.append(replace(problem, n_cells=cells))
        return cls(firsts, problems)

    def at(self, task: int) -> Problem:
        """What the round of a task factorises."""
        return self.problems[int(np.searchsorted(self.firsts, task, side="right")) - 1]
