"""Passes over the cells: sums for the genes, and scores of the cells.

A task sums some stretches one after the other, so many that the sums, which are as large as
the result, do not outweigh them; sums of tasks are added in their order. How many
depends on the shape of the result alone: neither on threads nor on workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.sketches import Sketcher, Transform, add_sparse_gram, mirror
from tigon.kernels.sketches import GeneProducts
from tigon.scaling.pca.rows import Cells, Rows
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent

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
            Counts below zero, which have no logarithm.
        """
        counts = cells.tile.counts
        if self.log1p and counts.dtype.kind == "f" and counts.min(initial=0) < 0:
            raise InputError(
                f"an entry is {counts.min():g}: log1p needs values of zero or above; leave it out, "
                "or pass counts"
            )
        n = len(cells.totals)
        scale = np.ones(n)
        if self.target_sum is not None:
            scale = np.divide(
                self.target_sum, cells.totals, out=np.zeros(n), where=cells.totals > 0
            )
        return Transform(scale, np.ones(n_genes), self.log1p)


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

    def sketch(self, Q: Float64, **figures: float) -> GeneProducts:
        """Y^T (Y Q) of all cells, shape (m, l), and moments: one pass."""
        return self._summed(_Sketch(self.rows, self.normalisation, Q), 8 * Q.size, figures)

    def gram(self) -> GeneProducts:
        """Y^T Y of all cells, shape (m, m), and moments: one pass."""
        m = self.rows.shape[1]
        found = self._summed(_Gram(self.rows, self.normalisation), 8 * m * m, {})
        mirror(found.product)
        return found

    def scores(self, onto: Float64, offset: Float64) -> Iterator[NDArray[np.float32]]:
        """Rows of Y Q' - offset, float32, a stretch of cells after the other: one pass."""
        self._count()
        task = _Scores(self.rows, self.normalisation, onto, offset)
        return self._mapped(task, self.rows.cuts(), f"scores (pass {self.n_passes})", {})

    def _summed(
        self, task: Callable[[Cuts], GeneProducts], n_bytes: int, figures: dict[str, float]
    ) -> GeneProducts:
        self._count()
        cuts = self.rows.cuts()
        size = min(_MOST_STRETCHES, -(-n_bytes // _STRETCH_BYTES))
        tasks = [tuple(cuts[i : i + size]) for i in range(0, len(cuts), size)]
        name = f"sums over cells (pass {self.n_passes})"
        total: GeneProducts | None = None
        for found in self._mapped(task, tasks, name, figures):
            total = found if total is None else _onto(total, found)
        assert total is not None, "shapes without cells are refused before"
        return total

    def _count(self) -> None:
        self.n_passes += 1
        self.bytes_read += self.rows.n_bytes

    def _mapped(
        self, task: Any, tasks: list[Any], name: str, figures: dict[str, float]
    ) -> Iterator[Any]:
        for n, found in enumerate(self.engine.ordered_map(task, tasks), 1):
            yield found
            self.progress(f"{name}, parts", n, len(tasks), **figures)


def _onto(total: GeneProducts, found: GeneProducts) -> GeneProducts:
    """Both together, in the arrays of the first."""
    for name in ("product", "sums", "squares"):
        array = getattr(total, name)
        array += getattr(found, name)
    return GeneProducts(total.product, total.sums, total.squares, total.n_cells + found.n_cells)


@dataclass(frozen=True, slots=True)
class _Sketch:
    rows: Rows
    normalisation: Normalisation
    Q: Float64

    def __call__(self, cuts: Cuts) -> GeneProducts:
        sketcher, n_cells = Sketcher(self.Q), 0
        sums = sketcher.zeros()
        for start, stop in cuts:
            cells = self.rows.read(start, stop)
            sketcher.add(cells.tile, self.normalisation.transform(cells, len(self.Q)), sums)
            n_cells += len(cells.totals)
        return GeneProducts(sketcher.product(sums), sums[1], sums[2], n_cells)


@dataclass(frozen=True, slots=True)
class _Gram:
    rows: Rows
    normalisation: Normalisation

    def __call__(self, cuts: Cuts) -> GeneProducts:
        m, n_cells = self.rows.shape[1], 0
        out, sums = np.zeros((m, m)), np.zeros(m)
        for start, stop in cuts:
            cells = self.rows.read(start, stop)
            transform = self.normalisation.transform(cells, m)
            add_sparse_gram(cells.tile, transform, out, sums, 1)
            n_cells += len(cells.totals)
        return GeneProducts(out, sums, out.diagonal().copy(), n_cells)


@dataclass(frozen=True, slots=True)
class _Scores:
    rows: Rows
    normalisation: Normalisation
    onto: Float64
    offset: Float64

    def __call__(self, cut: tuple[int, int]) -> NDArray[np.float32]:
        cells = self.rows.read(*cut)
        transform = self.normalisation.transform(cells, len(self.onto))
        product = Sketcher(self.onto).project(cells.tile, transform)
        return (product - self.offset).astype(np.float32)
