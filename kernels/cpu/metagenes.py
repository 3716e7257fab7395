"""Metagenes as the kernels of cells read them: a table of rows by gene, and a Gram matrix."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.aligned import aligned_empty
from tigon.kernels.cpu.grams import sum_halves, sum_metagenes
from tigon.kernels.cpu.panels import padded_rows, row_width
from tigon.kernels.cpu.sweep import SolverGram
from tigon.kernels.tile import Metagenes

_RANGE_GENES = 512
"""Genes that are taken together; fixed, so that results never depend on the threads."""


@dataclass(frozen=True, slots=True)
class MetageneTable:
    """What the cells of a dataset are solved against, as the kernels read it.

    Attributes
    ----------
    table
        L^T times the gene scale, float32, shape (m, width): rows padded as in
        :mod:`tigon.kernels.cpu.panels`, zero for genes that are not measured.
    gram
        G = L L^T + lambda V V^T over the measured genes, float64, shape (k, k).
    solver
        The same in float32, as the solver reads it.
    scale
        Gene scale, float64, shape (m,).
    """

    table: NDArray[np.float32]
    gram: NDArray[np.float64]
    solver: SolverGram
    scale: NDArray[np.float64]

    @classmethod
    def laid_out(cls, metagenes: Metagenes) -> MetageneTable:
        """The same metagenes, padded and blocked; copies m k + k^2 entries."""
        gram = metagenes.gram
        return cls(
            padded_rows(metagenes.scaled),
            gram.astype(np.float64),
            SolverGram.of(gram.astype(np.float32)),
            metagenes.scale,
        )


class Tabulation:
    """A table in the making, of which ranges of genes can be made at once.

    Parameters
    ----------
    W, V
        Metagenes, float32, shapes (k, m); V is zero for genes that are not measured.
    lam
        lambda.
    scale
        Gene scale, float64, shape (m,).
    measured
        Genes that the dataset measures, bool, shape (m,).
    """

    def __init__(
        self,
        W: NDArray[np.float32],
        V: NDArray[np.float32],
        lam: float,
        scale: NDArray[np.float64],
        measured: NDArray[np.bool_],
    ) -> None:
        self._k, self._m = W.shape
        self._width = row_width(self._k, np.float32)
        self._metagenes = W, V, float(lam)
        self._genes = np.ascontiguousarray(measured).view(np.uint8), np.ascontiguousarray(scale)
        self._table = aligned_empty(self._m * self._width, np.float32)

    @property
    def ranges(self) -> list[slice]:
        """Ranges of genes."""
        starts = range(0, self._m, _RANGE_GENES)
        return [slice(start, min(start + _RANGE_GENES, self._m)) for start in starts]

    def take(self, genes: slice) -> NDArray[np.float64]:
        """Fill the table for a range; returns what it adds to G, on and below the diagonal."""
        G = np.zeros((self._k, self._k))
        sum_metagenes(
            *self._metagenes, *self._genes, self._table, self._width, genes.start, genes.stop, G
        )
        return G

    def whole(self) -> MetageneTable:
        """The table, of one range after the other."""
        return self.finish([self.take(genes) for genes in self.ranges])

    def finish(self, parts: Sequence[NDArray[np.float64]]) -> MetageneTable:
        """The whole table; ``parts`` are of all ranges, in their order."""
        G, solver = sum_halves(np.array(parts))
        table = self._table.reshape(self._m, self._width)
        return MetageneTable(table, G, SolverGram(*solver), self._genes[1])
