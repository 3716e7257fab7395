"""Rounds of an epoch: in each, the sums of the one before are handed over."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, pairwise

import numpy as np

from tigon.scaling.inmf.schedule import Stretch
from tigon.scaling.inmf.state import Problem
from tigon.storage.packs.reader import CellReader


def problems_of(
    problem: Problem, pack: CellReader, tasks: list[list[Stretch]], firsts: list[int]
) -> dict[int, Problem]:
    """What each round factorises: the problem with the cells that are seen in it.

    Parameters
    ----------
    problem, pack
        What is factorised.
    tasks
        Those of an epoch.
    firsts
        The first of each round.

    Returns
    -------
    dict
        Problems by the first task of their round, ascending.
    """
    if len(firsts) == 1:
        return {firsts[0]: problem}
    found = {}
    for first, last in pairwise([*firsts, len(tasks)]):
        n_cells = np.zeros_like(problem.n_cells)
        for cut in chain.from_iterable(tasks[first:last]):
            n_cells += np.bincount(pack.datasets(*cut), minlength=problem.n_datasets)
        found[first] = replace(problem, n_cells=n_cells)
    return found
