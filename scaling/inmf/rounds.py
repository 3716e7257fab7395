"""Rounds of an epoch: in each, the sums of the one before are handed over."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.inmf.schedule import Stretch
from tigon.scaling.inmf.state import Problem
from tigon.storage.packs.reader import CellReader

CELLS_OF_A_FACTOR = 50
"""So many times the factors are the cells that a dataset has in a round at least. A dataset of
fewer hands its sums over once an epoch, or at the half of a single one where its halves have so
many: V_i would be divided by what a few small loadings add up to, and grow without bound."""


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
        *,
        is_single: bool = False,
    ) -> Self:
        """Of the tasks of an epoch, or of a single one, whose last round is its last half."""
        if len(firsts) == 1:
            return cls(firsts, [problem])
        n_cells = np.zeros((len(firsts), problem.n_datasets), np.int64)
        for counted, (first, last) in zip(n_cells, pairwise([*firsts, len(tasks)]), strict=True):
            for cut in chain.from_iterable(tasks[first:last]):
                counted += np.bincount(pack.datasets(*cut), minlength=problem.n_datasets)
        longer = [_by_halves(n_cells)] if is_single else []
        for cells in (*longer, problem.n_cells):
            are_few = n_cells.min(axis=0) < CELLS_OF_A_FACTOR * n_components
            n_cells = np.where(are_few, cells, n_cells)
        return cls(firsts, [replace(problem, n_cells=cells) for cells in n_cells])

    def at(self, task: int) -> Problem:
        """What the round of a task factorises."""
        return self.problems[int(np.searchsorted(self.firsts, task, side="right")) - 1]


def _by_halves(n_cells: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cells of rounds, shape (n_rounds, d), as if all but the last, a half, were one."""
    halves = n_cells[:-1].sum(axis=0), n_cells[-1]
    return np.repeat(halves, [len(n_cells) - 1, 1], axis=0)
