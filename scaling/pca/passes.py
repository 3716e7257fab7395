"""Passes over the cells: sums for the genes, and scores of the cells.

A task sums some stretches one after the other, so many that the sums, which are as large as
the result, do not outweigh them; sums of tasks are added in their order. How many
depends on the shape of the result alone: neither on threads nor on workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.entries import Transform
from tigon.kernels.cpu.pair_sums import Ranking, add_sparse_gram
from tigon.kernels.cpu.sketches import Sketcher
from tigon.kernels.sketches import GeneProducts
from tigon.scaling.pca.rows import Cells, Rows
from tigon.scaling.pca.sampling import sample
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.sources.matrices.matrix import SparseRows
from tigon.storage.sums import cell_totals

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

Float64 = NDArray[np.float64]
Cuts = tuple[tuple[int, int], ...]

_STRETCH_BYTES = 2 << 20
"""Bytes of sums for each stretch of a task; a larger result takes more stretches."""

_MOST_STRETCHES = 16


@dataclass(frozen=True, slots=True)
class Normalisation:
    """f(x) = log(1 + x) or x of counts that are scaled to a sum.

    Attributes
    ----------
    target_sum
        What the counts of a cell add up to; None for as they are.
    log1p
        Whether the logarithm is taken.
    """

    target_sum: float | None = None
    log1p: bool = False

    def transform(self, cells: Cells, n_genes: int) -> Transform:
        """How the kernels read some cells; those without counts stay zero.

        Raises
        ------
        InputError
            Counts below zero, which have no logarithm, or that add up to zero or less.
        """
        tile = cells.tile
        if tile.counts.dtype.kind == "f":
            self.check_entries(tile.counts)
            if self.target_sum is not None and (cells.totals <= 0).any():
                sizes = SparseRows(tile.indptr, tile.genes, np.abs(tile.counts))
                check_totals(cells.totals, cell_totals(sizes)[tile.rows])
        n = len(cells.totals)
        scale = np.ones(n)
        if self.target_sum is not None:
            scale = np.divide(
                self.target_sum, cells.totals, out=np.zeros(n), where=cells.totals > 0
            )
        return Transform(scale, np.ones(n_genes), self.log1p)

    def check_entries(self, entries: Any) -> None:
        """Refuse those below zero, which have no logarithm.

        Raises
        ------
        InputError
            There are some.
        """
        if self.log1p and len(entries) and entries.min() < 0:
            raise InputError(
                f"an entry is {float(entries.min()):g}: log1p needs values of zero or above; "
                "leave it out, or pass counts"
            )


def check_totals(totals: Any, sizes: Any) -> None:
    """Refuse cells that cannot be scaled to a sum.

    Parameters
    ----------
    totals, sizes
        Sums of the entries of each cell, and of their magnitudes, shape (n,).

    Raises
    ------
    InputError
        Entries below zero make up for all others.
    """
    wrong = totals[(totals < 0) | ((totals == 0) & (sizes > 0))]
    if len(wrong):
        raise InputError(
            f"the values of a cell add up to {float(wrong[0]):g}: target_sum needs sums above "
            "zero; leave it out, or pass counts"
        )


class Passes:
    """A matrix of cells by genes, and how often it was read.

    Parameters
    ----------
    rows, normalisation
        The matrix and what is done to its entries on the fly.
    engine, progress
        Where it runs and who is told.

    Attributes
    ----------
    n_passes
        Passes over all cells so far.
    bytes_read
        Bytes that were decoded so far, those of samples among them.
    """

    def __init__(
        self,
        rows: Rows,
        normalisation: Normalisation,
        engine: ThreadEngine,
        progress: Progress = silent,
    ) -> None:
        self.rows, self.normalisation, self.engine = rows, normalisation, engine
        self.progress = progress
        self.n_passes, self.bytes_read = 0, 0

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return self.rows.shape

    def sampled(self, rng: np.random.Generator) -> Passes:
        """Passes over a sample of the cells, which is read now."""
        held = sample(self.rows, self.engine, rng)
        self.bytes_read += held.n_bytes
        return Passes(held, self.normalisation, self.engine.local)

    def moments(self) -> GeneProducts:
        """Sums of the genes and of their squares: one pass; the product is of no matter."""
        return self.sketch(np.zeros((self.rows.shape[1], 1)))

    def sketch(self, Q: Float64, **figures: float) -> GeneProducts:
        """Y^T (Y Q) of all cells, shape (m, l), and moments: one pass."""
        return self.summed(SketchOf(Q), **figures)

    def gram(self) -> GeneProducts:
        """Y^T Y of all cells, shape (m, m), and moments: one pass."""
        return self.summed(GramOf(self.rows.shape[1]))

    def scores(self, onto: Float64, offset: Float64) -> Iterator[NDArray[np.float32]]:
        """Rows of Y Q' - offset, float32, a stretch of cells after the other: one pass."""
        self._count()
        task = _Scores(self.rows, self.normalisation, onto, offset)
        tasks = tasks_of(self.rows.cuts(), 1)
        return self._mapped(task, tasks, f"scores, pass {self.n_passes}", {})

    def summed(self, what: Summing, **figures: float) -> GeneProducts:
        """Sums over all cells: one pass; ``figures`` are told with it."""
        self._count()
        tasks = tasks_of(self.rows.cuts(), stretches_of(what.n_bytes))
        name = f"sums over cells, pass {self.n_passes}"
        total: GeneProducts | None = None
        for found in self._mapped(_Sums(self.rows, self.normalisation, what), tasks, name, figures):
            total = onto(total, found)
        assert total is not None, "shapes without cells are refused before"
        return total

    def _count(self) -> None:
        self.n_passes += 1
        self.bytes_read += self.rows.n_bytes

    def _mapped(
        self, task: Any, tasks: list[Cuts], name: str, figures: dict[str, float]
    ) -> Iterator[Any]:
        n_rows = tasks[-1][-1][1] if tasks else 0
        for cuts, found in zip(tasks, self.engine.ordered_map(task, tasks), strict=True):
            yield found
            self.progress(name, cuts[-1][1], n_rows, **figures)


def stretches_of(n_bytes: int) -> int:
    """Stretches of a task whose sums take so many bytes."""
    return min(_MOST_STRETCHES, -(-n_bytes // _STRETCH_BYTES))


def tasks_of(cuts: list[tuple[int, int]], size: int) -> list[Cuts]:
    """Tasks of ``size`` stretches each."""
    return [tuple(cuts[i : i + size]) for i in range(0, len(cuts), size)]


def onto(total: GeneProducts | None, found: GeneProducts) -> GeneProducts:
    """Both together, in the arrays of the first."""
    if total is None:
        return found
    for name in ("product", "sums", "squares"):
        array = getattr(total, name)
        array += getattr(found, name)
    return GeneProducts(total.product, total.sums, total.squares, total.n_cells + found.n_cells)


class CellSummer(Protocol):
    """Sums of some cells, added one stretch after the other."""

    def add(self, cells: Cells, transform: Transform) -> None:
        """Add some cells."""
        ...

    def found(self) -> GeneProducts:
        """The sums."""
        ...


class Summing(Protocol):
    """What is summed over cells."""

    @property
    def Q(self) -> Float64:
        """What the cells are multiplied with, shape (m, l); no column for a Gram matrix."""
        ...

    @property
    def n_bytes(self) -> int:
        """Bytes of the product."""
        ...

    def begin(self) -> CellSummer:
        """Sums of no cells."""
        ...


@dataclass(frozen=True)
class SketchOf:
    """Y^T (Y Q); tasks of a process share what they multiply with."""

    Q: Float64

    @cached_property
    def _sketcher(self) -> Sketcher:
        return Sketcher(self.Q)

    @property
    def n_bytes(self) -> int:
        """Bytes of the product."""
        return 8 * self.Q.size

    def begin(self) -> CellSummer:
        """Sums of no cells."""
        return _SketchSums(self._sketcher)


@dataclass(frozen=True, slots=True)
class GramOf:
    """Y^T Y."""

    n_genes: int

    @property
    def Q(self) -> Float64:
        """None."""
        return np.zeros((self.n_genes, 0))

    @property
    def n_bytes(self) -> int:
        """Bytes of the product."""
        return 8 * self.n_genes**2

    def begin(self) -> CellSummer:
        """Sums of no cells."""
        return _GramSums(self.n_genes)


class _SketchSums:
    def __init__(self, sketcher: Sketcher) -> None:
        self._sketcher, self._n_cells = sketcher, 0
        self._sums = self._sketcher.zeros()

    def add(self, cells: Cells, transform: Transform) -> None:
        self._sketcher.add(cells.tile, transform, self._sums)
        self._n_cells += len(cells.totals)

    def found(self) -> GeneProducts:
        product = self._sketcher.product(self._sums)
        return GeneProducts(product, *self._sums[1:], self._n_cells)


class _GramSums:
    """Genes lie in the order that the first cells suggest, until all are there."""

    def __init__(self, n_genes: int) -> None:
        self._sums = np.zeros((n_genes, n_genes)), np.zeros(n_genes), np.zeros(n_genes)
        self._ranking: Ranking | None = None
        self._n_cells = 0

    def add(self, cells: Cells, transform: Transform) -> None:
        if self._ranking is None:
            self._ranking = Ranking.of(cells.tile, len(self._sums[1]))
        add_sparse_gram(cells.tile, transform, self._ranking, self._sums, 1)
        self._n_cells += len(cells.totals)

    def found(self) -> GeneProducts:
        assert self._ranking is not None, "a task has stretches"
        return GeneProducts(*self._ranking.by_gene(*self._sums), self._n_cells)


@dataclass(frozen=True, slots=True)
class _Sums:
    rows: Rows
    normalisation: Normalisation
    what: Summing

    def __call__(self, cuts: Cuts) -> GeneProducts:
        sums, m = self.what.begin(), self.rows.shape[1]
        for start, stop in cuts:
            cells = self.rows.read(start, stop)
            sums.add(cells, self.normalisation.transform(cells, m))
        return sums.found()


@dataclass(frozen=True)
class _Scores:
    rows: Rows
    normalisation: Normalisation
    onto: Float64
    offset: Float64

    @cached_property
    def _sketcher(self) -> Sketcher:
        return Sketcher(self.onto)

    def __call__(self, cuts: Cuts) -> NDArray[np.float32]:
        cells = self.rows.read(*cuts[0])
        transform = self.normalisation.transform(cells, len(self.onto))
        product = self._sketcher.project(cells.tile, transform)
        return (product - self.offset).astype(np.float32)
