"""Where block Krylov iterations begin: the components of a sample, and random directions.

A sample of some thousand cells fits in memory and tells most of the leading directions, which
saves about three passes over all cells. What it misses, the random directions and the
probe find: a start never decides a result, only how many passes it takes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.pca.certificate import PROBES
from tigon.scaling.pca.config import PCAConfig
from tigon.scaling.pca.krylov import GUARD, block_krylov
from tigon.scaling.pca.passes import Passes
from tigon.scaling.pca.rows import Cells, Rows
from tigon.storage.progress import silent

if TYPE_CHECKING:
    from tigon.scaling.pca.operator import Operator

Float64 = NDArray[np.float64]

SAMPLE_CELLS, SAMPLE_BYTES = 8192, 64 * 2**20
"""Most cells of a sample, and bytes that they decode to."""

SAMPLE_PASSES = 5
"""Over the sample."""

RANDOM = 8
"""Random directions that a start has besides."""


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


def sample(passes: Passes, rng: np.random.Generator) -> SampledRows:
    """Short stretches of cells from all over the matrix."""
    rows, (n_cells, n_genes) = passes.rows, passes.rows.shape
    cell_bytes = max(1, rows.n_bytes // max(1, n_cells))
    n_wanted = max(1, min(SAMPLE_CELLS, SAMPLE_BYTES // cell_bytes))
    cuts = rows.cuts()
    chosen = np.sort(rng.permutation(len(cuts))[: max(1, n_wanted // _SHORTEST)])
    length = -(-n_wanted // len(chosen))
    short = [(cuts[i][0], min(cuts[i][0] + length, cuts[i][1])) for i in chosen.tolist()]
    found = tuple(passes.engine.ordered_map(_Read(rows), short))
    n_read = sum(len(cells.totals) for cells in found)
    passes.bytes_read += n_read * cell_bytes
    return SampledRows(found, n_genes, n_read * cell_bytes)


_SHORTEST = 128
"""Cells of a stretch at least: chunks are decoded whole."""


def start_of(operator: Operator, config: PCAConfig, seed: np.random.SeedSequence) -> Float64:
    """Directions to begin with, shape (m, l)."""
    from tigon.scaling.pca.operator import Operator

    whole = operator.passes
    chosen, random = map(np.random.default_rng, seed.spawn(2))
    held = Passes(sample(whole, chosen), whole.normalisation, whole.engine.local, silent)
    n_cells, m = held.rows.shape
    n = min(config.n_components + GUARD, n_cells - 1, m)
    others = random.standard_normal((m, min(RANDOM, m)))
    if n < 1:
        return others
    drawn = random.standard_normal((m, min(n + GUARD, m)))
    probe = random.standard_normal((m, PROBES))
    of_sample = Operator(held, center=config.center, scale=config.scale)
    found = block_krylov(of_sample.product, drawn, probe, n, config.tol, SAMPLE_PASSES)
    return np.hstack([found.vectors, others])
