"""Which cells are in which mini-batch: known before anything is read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tigon.storage.minibatches.order import proportional_order, runs_of, shuffled_runs, stretch


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """The mini-batches of every epoch; a function of these fields and nothing else.

    Attributes
    ----------
    strata
        Stratum of each cell, int32, shape (n_cells,); the dataset as a rule.
    batch_size
        Cells of a mini-batch.
    shuffle
        Whether cells are shuffled, or in the atlas's order.
    seed
        Of the shuffling.
    block_cells
        Cells of the runs that are drawn across the atlas.
    window_cells
        Cells that are shuffled in memory; whole mini-batches.
    drop_last
        Whether the cells that do not fill a mini-batch are left out of the epoch.
    """

    strata: NDArray[np.int32]
    batch_size: int
    shuffle: bool
    seed: int
    block_cells: int
    window_cells: int
    drop_last: bool

    @property
    def n_cells(self) -> int:
        """Cells of the atlas."""
        return len(self.strata)

    @property
    def n_steps(self) -> int:
        """Mini-batches of an epoch."""
        n_full, rest = divmod(self.n_cells, self.batch_size)
        return n_full + (rest > 0 and not self.drop_last)

    @property
    def window_steps(self) -> int:
        """Mini-batches of a window."""
        return self.window_cells // self.batch_size

    @property
    def n_windows(self) -> int:
        """Windows of an epoch."""
        return -(-self.n_steps // self.window_steps)

    def window(self, epoch: int, number: int) -> Window:
        """What window ``number`` of an epoch holds, and in which order."""
        start = number * self.window_cells
        stop = min(start + self.window_cells, self.n_cells)
        if self.shuffle:
            cells = stretch(_epoch_runs(self, epoch), start, stop)
            rng = np.random.default_rng([self.seed, epoch, 1 + number])
            order = proportional_order(self.strata[cells], rng)
        else:
            cells, order = np.arange(start, stop), np.arange(stop - start)
        n_used = min(len(cells), (self.n_steps - number * self.window_steps) * self.batch_size)
        return Window(
            first_step=number * self.window_steps,
            cells=cells,
            order=order,
            strata=self.strata[cells],
            batch_size=self.batch_size,
        ).steps(0, -(-n_used // self.batch_size))

    def windows(self, epoch: int, start: int, part: tuple[int, int]) -> Iterator[Window]:
        """Windows with the steps of an epoch from ``start`` on, every n-th of them."""
        first, skipped = divmod(start, self.window_steps)
        for number in range(first, self.n_windows):
            if number % part[1] == part[0]:
                window = self.window(epoch, number)
                yield window.steps(skipped if number == first else 0, window.n_steps)

    def fingerprint(self) -> str:
        """A name for the plan: the same for the same mini-batches, 32 hex digits."""
        digest = hashlib.blake2b(self.strata.tobytes(), digest_size=16)
        for field in fields(self)[1:]:
            digest.update(f"{field.name}={getattr(self, field.name)};".encode())
        return digest.hexdigest()


@lru_cache(maxsize=2)
def _epoch_runs(plan: Plan, epoch: int) -> NDArray[np.int64]:
    return shuffled_runs(
        plan.strata, plan.block_cells, np.random.default_rng([plan.seed, epoch, 0])
    )


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """Cells that are read together, and the order in which mini-batches take them.

    Attributes
    ----------
    first_step
        Step of the epoch that the first mini-batch is.
    cells
        Positions in the atlas, ascending, int64, shape (n,).
    order
        For every place in the mini-batches the place in ``cells``, int64, shape (n,).
    strata
        Stratum of each of ``cells``, int32, shape (n,).
    batch_size
        Cells of a mini-batch; the last may have fewer.
    """

    first_step: int
    cells: NDArray[np.int64]
    order: NDArray[np.int64]
    strata: NDArray[np.int32]
    batch_size: int

    @property
    def n_steps(self) -> int:
        """Mini-batches in the window."""
        return -(-len(self.order) // self.batch_size)

    @property
    def runs(self) -> NDArray[np.int64]:
        """The cells as runs, ascending, shape (n_runs, 2)."""
        return runs_of(self.cells)

    def rows(self, number: int) -> NDArray[np.int64]:
        """Places in ``cells`` of those of mini-batch ``number`` of the window."""
        return self.order[number * self.batch_size : (number + 1) * self.batch_size]

    def steps(self, start: int, stop: int) -> Window:
        """The window with some of its mini-batches, and no cell of the others."""
        if start == 0 and stop == self.n_steps:
            return self
        order = self.order[start * self.batch_size : stop * self.batch_size]
        kept = np.sort(order)
        return Window(
            first_step=self.first_step + start,
            cells=self.cells[kept],
            order=np.searchsorted(kept, order),
            strata=self.strata[kept],
            batch_size=self.batch_size,
        )
