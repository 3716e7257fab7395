"""A sample of the cells: short stretches from all over the matrix, held in memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tigon.scaling.pca.rows import Cells, Rows

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

SAMPLE_CELLS, SAMPLE_BYTES = 8192, 64 * 2**20
"""Most cells of a sample, and bytes that they decode to."""

_SHORTEST = 128
"""Cells of a stretch at least: chunks are decoded whole."""


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Stretches of cells that are held."""

    stretches: tuple[Cells, ...]
    n_genes: int
    n_bytes: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells and genes."""
        return sum(len(cells.totals) for cells in self.stretches), self.n_genes

    def cuts(self) -> list[tuple[int, int]]:
        """Numbers of the stretches."""
        return [(i, i + 1) for i in range(len(self.stretches))]

    def read(self, start: int, stop: int) -> Cells:
        """One stretch."""
        assert stop == start + 1, "stretches are read one by one"
        return self.stretches[start]


@dataclass(frozen=True, slots=True)
class _Read:
    rows: Rows

    def __call__(self, cut: tuple[int, int]) -> Cells:
        return self.rows.read(*cut)


def sample(rows: Rows, engine: ThreadEngine, rng: np.random.Generator) -> SampledRows:
    """Short stretches of cells."""
    n_cells, n_genes = rows.shape
    cell_bytes = max(1, rows.n_bytes // max(1, n_cells))
    n_wanted = max(1, min(SAMPLE_CELLS, SAMPLE_BYTES // cell_bytes))
    cuts = rows.cuts()
    chosen = np.sort(rng.permutation(len(cuts))[: max(1, n_wanted // _SHORTEST)])
    length = -(-n_wanted // len(chosen))
    short = [(cuts[i][0], min(cuts[i][0] + length, cuts[i][1])) for i in chosen.tolist()]
    found = tuple(engine.ordered_map(_Read(rows), short))
    n_read = sum(len(cells.totals) for cells in found)
    return SampledRows(found, n_genes, n_read * cell_bytes)
