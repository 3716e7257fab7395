"""Stretches of the pack for passes that solve every cell against the same metagenes."""

from __future__ import annotations

from collections.abc import Iterator

from tigon.scaling.inmf.schedule import Stretch
from tigon.scaling.packing import FEW_DATASETS

SOLVE_CELLS = 8192
"""Cells that a task reads at a time."""

MOST_READS = 4
"""Times that a task reads at most: on a cluster its sums, of megabytes, come back once."""

_FEWEST_CELLS = 1024
_FEWEST_TASKS, _TASKS_OF_MANY = 16, 32
"""Tasks that keep some threads busy, and those that are enough to read more than once each."""


def task_cells(n_cells: int, n_datasets: int) -> int:
    """Cells of a task, the last of which may have fewer."""
    once = min(SOLVE_CELLS, max(_FEWEST_CELLS, -(-n_cells // _FEWEST_TASKS)))
    if n_datasets > FEW_DATASETS:  # what is read next is of others: it would not add up to less
        return once
    return once * max(1, min(MOST_READS, n_cells // (_TASKS_OF_MANY * once)))


def task_cuts(n_cells: int, n_datasets: int) -> list[Stretch]:
    """Stretches of the pack, a task each; they depend on the cells alone."""
    return list(_cut((0, n_cells), task_cells(n_cells, n_datasets)))


def reads_of(task: Stretch) -> Iterator[Stretch]:
    """The stretches that a task reads, one after the other."""
    return _cut(task, SOLVE_CELLS)


def _cut(whole: Stretch, size: int) -> Iterator[Stretch]:
    start, stop = whole
    return ((first, min(first + size, stop)) for first in range(start, stop, size))
