"""Loadings of any cells against fixed metagenes, read in the atlas's own order.

A dataset that was fitted uses W + V_i and its stored scale; one that is new uses
W alone and its own root mean squares. Genes that the cells do not measure are
masked, genes that the metagenes do not know count only towards cell totals.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.step import loadings
from tigon.kernels.moments import cell_sums
from tigon.scaling.cells import CellFilter
from tigon.scaling.datasets import Datasets
from tigon.scaling.genes import inverse_rms
from tigon.scaling.inmf.solving import WriteCells
from tigon.scaling.inmf.state import Problem
from tigon.scaling.inmf.tiles import cut_tiles, metagenes_of
from tigon.scaling.selecting import GeneSelection, select
from tigon.scaling.statistics import BLOCK_CELLS, first_pass
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.views.reopening import reference

log = logging.getLogger("tigon")

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas


@dataclass(frozen=True, slots=True)
class FittedMetagenes:
    """What is needed to solve cells.

    Attributes
    ----------
    genes
        Names of the m genes.
    W
        Shared metagenes, float32, shape (k, m).
    V
        Dataset-specific metagenes by dataset, float32, shape (k, m) each.
    measured
        Which genes each fitted dataset measures, bool, shape (m,) each.
    scale
        One over the root mean square of each gene, float64, shape (m,) each.
    lam
        lambda.
    merged
        Name of the pooled dataset that a small one was fitted in.
    """

    genes: Sequence[str]
    W: NDArray[np.float32]
    V: Mapping[str, NDArray[np.float32]]
    measured: Mapping[str, NDArray[np.bool_]]
    scale: Mapping[str, NDArray[np.float64]]
    lam: float
    merged: Mapping[str, str]

    def fitted_as(self, name: str) -> str:
        """Name under which the cells of a dataset were fitted."""
        return self.merged.get(name, name)


def project(
    atlas: Atlas,
    datasets: Datasets,
    fitted: FittedMetagenes,
    tol: float,
    engine: ThreadEngine,
    write: WriteCells,
    progress: Progress = silent,
) -> None:
    """Solve every cell of ``datasets``, handing on atlas positions and loadings.

    Raises
    ------
    InputError
        The atlas measures none of the genes.

    Notes
    -----
    One pass over the atlas, and one before it if any dataset is new.
    """
    genes = _positions(atlas, fitted.genes)
    problem, V = _query(atlas, datasets, fitted, genes, engine, progress)
    selection = GeneSelection.of(genes, atlas.n_genes)
    metagenes = [metagenes_of(problem, fitted.W, V, d) for d in range(problem.n_datasets)]
    unmarked = np.zeros(atlas.n_genes, bool)
    shared, n_cells = reference(atlas), atlas.n_cells

    def solve(start: int) -> list[tuple[NDArray[np.int64], NDArray[np.float32]]]:
        block = shared.get().read(start, min(start + BLOCK_CELLS, n_cells))
        totals = cell_sums(block.indptr, block.indices, block.values, unmarked).totals
        cells = select(block, selection, datasets.codes, totals)
        return [
            (cells.positions[t.cells.rows], loadings(t.cells, metagenes[t.dataset], tol)[0])
            for t in cut_tiles(cells)
        ]

    done = 0
    for solved in engine.ordered_map(solve, range(0, atlas.n_cells, BLOCK_CELLS)):
        for positions, H in solved:
            write(positions, H)
        done = min(done + BLOCK_CELLS, atlas.n_cells)
        progress("solving loadings", done, atlas.n_cells)


def _positions(atlas: Atlas, genes: Sequence[str]) -> NDArray[np.int64]:
    """Atlas position of each gene, -1 where the atlas does not have it."""
    where = {str(name): i for i, name in enumerate(atlas.var.index)}
    positions = np.array([where.get(str(name), -1) for name in genes], np.int64)
    if (positions < 0).all():
        raise InputError(
            f"none of the {len(genes)} genes of the model is in the data (model: {genes[0]!r}, "
            f"data: {str(atlas.var.index[0])!r}): names must match; rename the genes, or open "
            "the data with another gene_id_column"
        )
    missing = int((positions < 0).sum())
    if missing:
        log.warning(
            "%d of the model's %d genes are not in the data: loadings rest on the others",
            missing,
            len(genes),
        )
    return positions


def _query(
    atlas: Atlas,
    datasets: Datasets,
    fitted: FittedMetagenes,
    genes: NDArray[np.int64],
    engine: ThreadEngine,
    progress: Progress,
) -> tuple[Problem, NDArray[np.float32]]:
    """Masks, scales and V of the datasets to be solved."""
    present = datasets.measured[:, np.maximum(genes, 0)] & (genes >= 0)
    names = [fitted.fitted_as(name) for name in datasets.names]
    known = [name in fitted.V for name in names]
    own = None
    if not all(known):
        statistics = first_pass(atlas, datasets, CellFilter(), engine, progress)
        own = inverse_rms(statistics, datasets, np.maximum(genes, 0))
    V = np.zeros((len(known), *fitted.W.shape), np.float32)
    scale = np.zeros(present.shape)
    for d, name in enumerate(names):
        if known[d]:
            present[d] &= fitted.measured[name]
            scale[d] = fitted.scale[name] * present[d]
            V[d] = fitted.V[name] * present[d]
        else:
            assert own is not None
            scale[d] = own[d] * present[d]
    return Problem(datasets.sizes, present, scale, fitted.lam), V
