"""Which cells make up which step.

The pack is shuffled once; an epoch visits its mini-batches in a new order and
cut at a new offset, so that they are not the same sets every time.

Of many cells some thousands tell the metagenes about as well as all do. An epoch then has
several rounds, in each of which the sums of the round before are handed over: loadings that
were solved against metagenes long past are forgotten sooner, and F falls in two or three epochs
as far as it does in eight (``benchmarks/bench_schedule.py rounds``). The last epoch is one
round, so that all cells weigh alike in the end; of a single epoch it is the last half.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from tigon.scaling.inmf.config import MAX_EPOCHS, MIN_EPOCHS, MIN_SWEEPS, INMFConfig
from tigon.scaling.inmf.state import Problem

ROUND_CELLS, ROUND_CELLS_EACH, MOST_ROUNDS = 40_000, 2000, 10
"""Cells of a round at least, in all and of a dataset as they are on average, and most rounds of
an epoch. With half as many cells F falls faster still in some fits, but factors that few cells
use begin to follow the noise of a round, and other fits end with a larger F. The last mini-batch
of an epoch is smaller, and so may be the round that it is in."""

ROUND_STEPS = 4
"""Mini-batches of a round at least, two of which may be parts of one."""

_TOGETHER = ((1, 8), 250_000)
"""Mini-batches of a step, the fewest and the most, and cells for each of them. Steps that are fewer
stop threads less often. An epoch has fifty of up to two million cells, then more: with eight
mini-batches epochs of three million are shorter than with four, and F is as before."""

_TOGETHER_WHERE_OLD = ((4, 12), 100_000)
"""The same where metagenes are old and tasks travel, which takes time besides computing: with some
twenty tasks an epoch F is 0.02 % higher than with thirty."""

_CELLS_OF_A_SWEEP, _CELLS_OF_A_SWEEP_EACH = 10_000, 500
"""A step that learns from more cells, in all and of a dataset on average, moves the metagenes with
two sweeps: F falls as far then as with smaller steps, in less time
(``benchmarks/bench_schedule.py steps``)."""

_SHARED_BY = 4
"""Where tasks travel, those of several mini-batches are a multiple of it in an epoch: workers wait
for each other at its end, and two of them would for most of a task when one is left over."""

Stretch = tuple[int, int]
"""First cell of a mini-batch in the pack, and the one after its last."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The plan of a fit, known before any cell is read.

    Attributes
    ----------
    n_cells
        Cells in the pack.
    steps_per_epoch
        Mini-batches per epoch.
    min_epochs, max_epochs
        Equal unless epochs are chosen by the objective.
    per_task
        Mini-batches per task, at most a tenth of them.
    rounds
        Rounds of each epoch but the last; of a single epoch, the last half of which is one.
    n_sweeps
        HALS sweeps of a step.
    even
        Tasks of an epoch are of one size but for one mini-batch, and as many as 2 or 4 workers
        share evenly, unless each is one.
    """

    n_cells: int
    steps_per_epoch: int
    min_epochs: int
    max_epochs: int
    per_task: int = 1
    rounds: int = 1
    n_sweeps: int = 1
    even: bool = False

    def is_enough(self, n_epochs: int, *, settled: bool) -> bool:
        """Whether so many epochs are, as F has settled or not."""
        return n_epochs >= self.max_epochs or (n_epochs >= self.min_epochs and settled)

    def first_tasks(self, n_tasks: int, *, last: bool) -> list[int]:
        """The first task of each round of an epoch of so many tasks."""
        if self.is_single and self.rounds > 1:
            half = n_tasks // 2
            return [*_firsts(half, self.rounds - 1), half]
        return _firsts(n_tasks, 1 if last else self.rounds)

    @property
    def is_single(self) -> bool:
        """Whether the first epoch is the last."""
        return self.max_epochs == 1

    def tasks(self, epoch: int, seed: np.random.SeedSequence) -> list[list[Stretch]]:
        """Stretches of the pack by task, in order; together all cells."""
        stretches = self.epoch(epoch, seed)
        n, size = len(stretches), self.per_task
        if not self.even:
            return [stretches[i : i + size] for i in range(0, n, size)]
        n_tasks = min(n, -(-n // (_SHARED_BY * size)) * _SHARED_BY)
        edges = [i * n // n_tasks for i in range(n_tasks + 1)]
        return [stretches[start:stop] for start, stop in pairwise(edges)]

    def epoch(self, number: int, seed: np.random.SeedSequence) -> list[Stretch]:
        """Stretches (start, stop) of the pack, one a mini-batch; together all cells."""
        rng = np.random.default_rng(_child(seed, number))
        offset = 0 if number == 0 else int(rng.integers(self._largest))
        cuts = self._cuts(offset)
        order = range(len(cuts)) if number == 0 else rng.permutation(len(cuts)).tolist()
        return [cuts[i] for i in order]

    @property
    def _largest(self) -> int:
        return -(-self.n_cells // self.steps_per_epoch)

    def _cuts(self, offset: int) -> list[tuple[int, int]]:
        n, steps = self.n_cells, self.steps_per_epoch
        edges = [i * n // steps + offset for i in range(steps)]
        edges = [0, *edges[1:], n] if offset == 0 else [0, *edges, n]
        edges = sorted({min(edge, n) for edge in edges})
        return list(pairwise(edges))


def _firsts(n_tasks: int, n_rounds: int) -> list[int]:
    """The first task of each of so many rounds, or of as many as there are tasks."""
    n_rounds = min(n_rounds, n_tasks)
    return [i * n_tasks // n_rounds for i in range(n_rounds)]


def step_cells(config: INMFConfig, n_cells: int) -> int:
    """Cells of a step at most, where there are ``n_cells`` or fewer."""
    return min(n_cells, config.minibatch_size * _together(config, n_cells))


def plan_schedule(config: INMFConfig, n_cells: int, n_datasets: int = 1) -> Schedule:
    """Steps and epochs for a pack of ``n_cells``.

    A mini-batch is at most a tenth of the cells; "auto" means at least 5 epochs
    and 200 sweeps over the metagenes. Epochs have several rounds where cells and datasets
    allow for them.
    """
    size = max(1, min(config.minibatch_size, n_cells // 10))
    steps = -(-n_cells // size)
    per_task = max(1, min(_together(config, n_cells), steps // 10))
    n_sweeps = _sweeps(config, per_task * size, n_datasets)
    if config.n_epochs == "auto":
        fewest = max(MIN_EPOCHS, -(-MIN_SWEEPS * per_task // (steps * n_sweeps)))
        epochs = fewest, max(fewest, MAX_EPOCHS)
    else:
        epochs = config.n_epochs, config.n_epochs
    if epochs[1] > 1:
        rounds = max(1, _rounds(n_cells, steps, n_datasets))
    else:
        rounds = 1 + _rounds(n_cells // 2, steps // 2, n_datasets)
    even = config.staleness > 0
    return Schedule(n_cells, steps, *epochs, per_task, rounds, n_sweeps, even)


def _rounds(n_cells: int, n_minibatches: int, n_datasets: int) -> int:
    """Rounds that so many cells can have; 0 where there are too few for one."""
    enough = max(ROUND_CELLS, ROUND_CELLS_EACH * n_datasets)
    return min(n_cells // enough, n_minibatches // ROUND_STEPS, MOST_ROUNDS)


def common_passes(problem: Problem, n_components: int, most: int, wanted: int = 1) -> int:
    """Passes at the start of a fit in which cells are solved over the common genes alone.

    What only some datasets measure does not tell which of their factors are the same. If
    U_i take part from the first step, datasets go their own ways: each makes its factors of
    its own genes, and factors that are not the same share a row of W, at a local minimum of
    F. So datasets agree first, over the genes that all measure: for one epoch of the online
    solver, after which F ends where it does after five.

    Parameters
    ----------
    problem, n_components
        What is factorised; common genes that are fewer than the factors are of no use.
    most
        Passes of the fit at most, of which at least half are over all genes.
    wanted
        Passes that are enough.
    """
    if problem.shared is None or not n_components <= int(problem.common.sum()) < problem.n_genes:
        return 0
    return min(wanted, most // 2)


def _together(config: INMFConfig, n_cells: int) -> int:
    """Mini-batches of a step, where there are enough of them."""
    if config.minibatches_per_task != "auto":
        return config.minibatches_per_task
    (fewest, most), each = _TOGETHER_WHERE_OLD if config.staleness else _TOGETHER
    return max(fewest, min(most, n_cells // each))


def _sweeps(config: INMFConfig, n_cells: int, n_datasets: int) -> int:
    """HALS sweeps of a step of so many cells."""
    if config.n_sweeps != "auto":
        return config.n_sweeps
    enough = max(_CELLS_OF_A_SWEEP, _CELLS_OF_A_SWEEP_EACH * n_datasets)
    return 2 if n_cells > enough else 1


def _child(seed: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """The seed of an epoch: named, not spawned, so that a resumed run draws the same."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, number))
