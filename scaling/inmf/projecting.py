"""Loadings of any cells against fixed metagenes, read in the atlas's own order.

A dataset that was fitted uses W + V_i and its stored scale; one that is new uses W
alone, so shared genes only, and its own root mean squares, or those of all fitted cells
together where it has fewer than 100 cells, whose own say little. Genes that the cells do
not measure are masked, genes that the metagenes do not know count only towards cell totals.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.folding import add_turned
from tigon.kernels.cpu.metagenes import MetageneTable
from tigon.kernels.cpu.step import loadings, minibatch_step
from tigon.kernels.moments import cell_sums
from tigon.kernels.tile import TileStatistics
from tigon.scaling.cells import CellFilter
from tigon.scaling.datasets import Datasets
from tigon.scaling.first_pass import first_pass
from tigon.scaling.genes import inverse_rms
from tigon.scaling.inmf.arriving import gene_positions
from tigon.scaling.inmf.known import Known
from tigon.scaling.inmf.solving import Solution, explained
from tigon.scaling.inmf.state import Problem
from tigon.scaling.inmf.tiles import cut_tiles, metagenes_of
from tigon.scaling.selecting import GeneSelection, select
from tigon.scaling.statistics import BLOCK_CELLS
from tigon.storage.progress import Progress, silent
from tigon.storage.scattering import WriteRows
from tigon.storage.views.reopening import AtlasReference, reference

log = logging.getLogger("tigon")

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas

FEWEST_CELLS = 100
"""Cells of a new dataset that are scaled by their own root mean squares."""


@dataclass(frozen=True, slots=True)
class Query:
    """Cells to be solved, and what they are solved against.

    Attributes
    ----------
    datasets
        Dataset of each cell of the atlas; -1 for one that is left out.
    genes
        Atlas position of each gene of the model, int64, shape (m,); -1 for an absent one.
    problem
        Masks, scales, sizes and lambda of these datasets.
    W, V
        Metagenes, float32, shapes (k, m) and (d, k, m).
    """

    datasets: Datasets
    genes: NDArray[np.int64]
    problem: Problem
    W: NDArray[np.float32]
    V: NDArray[np.float32]


def make_query(
    atlas: Atlas,
    datasets: Datasets,
    known: Known,
    engine: ThreadEngine,
    progress: Progress = silent,
) -> Query:
    """Find masks, scales and V of the datasets to be solved.

    Raises
    ------
    InputError
        The atlas has none of the genes.

    Notes
    -----
    One pass over the atlas if a new dataset has 100 cells or more, none otherwise.
    """
    genes = gene_positions(atlas, known.genes)
    present = datasets.measured[:, np.maximum(genes, 0)] & (genes >= 0)
    names = [known.fitted_as(name) for name in datasets.names]
    new = np.array([name not in known.V for name in names], bool)
    scale = np.zeros(present.shape)
    scale[new] = known.pooled_scale()
    enough = new & (datasets.sizes >= FEWEST_CELLS)
    if (new & ~enough).any():
        few = [name for name, is_few in zip(datasets.names, new & ~enough, strict=True) if is_few]
        log.warning(
            "%d new datasets have fewer than %d cells (%s): they are scaled as the fitted cells "
            "are together",
            len(few),
            FEWEST_CELLS,
            ", ".join(few[:5]),
        )
    if enough.any():
        statistics = first_pass(atlas, datasets, CellFilter(), engine, progress)
        scale[enough] = inverse_rms(statistics, datasets, np.maximum(genes, 0))[enough]
    if known.shared is not None:
        present[new] &= known.shared
    V = np.zeros((len(names), *known.W.shape), np.float32)
    lam = np.zeros(len(names))  # of no account where V is zero
    for d, name in enumerate(names):
        if not new[d]:
            present[d] &= known.measured[name]
            scale[d] = known.scale[name]
            V[d] = known.V[name] * present[d]
            lam[d] = known.lam[name]
    problem = Problem(datasets.sizes, present, scale * present, lam, known.shared)
    return Query(datasets, genes, problem, known.W, V)


def project(
    atlas: Atlas,
    query: Query,
    tol: float,
    engine: ThreadEngine,
    write: WriteRows,
    progress: Progress = silent,
) -> None:
    """Solve every cell of the query, handing on atlas positions and loadings.

    Notes
    -----
    One pass over the atlas; holds the blocks in flight and 12 k m bytes for each dataset.
    """
    for _ in _solved(atlas, query, _metagenes(query), tol, engine, write, progress, sums=False):
        pass


def project_with_sums(
    atlas: Atlas,
    query: Query,
    tol: float,
    engine: ThreadEngine,
    write: WriteRows,
    progress: Progress = silent,
) -> Solution:
    """As :func:`project`, with the statistics of the loadings and their objective.

    Returns
    -------
    Solution
        Exact sums over the cells of the query, and F by traces as a fit reports it.

    Notes
    -----
    One pass over the atlas; holds 8 k m bytes for each dataset besides, and for each that
    a block in flight touches.
    """
    d, k, m = query.V.shape
    A, B = np.zeros((d, k, k)), np.zeros((d, k, m))
    squared_norm, n_unfinished = 0.0, 0
    metagenes = _metagenes(query)
    for i, found in _solved(atlas, query, metagenes, tol, engine, write, progress, sums=True):
        A[i] += found.A
        add_turned(B[i], found.B)
        squared_norm += found.squared_norm
        n_unfinished += found.n_unfinished
    objective = squared_norm + explained(query.problem, metagenes, query.W, query.V, A, B)
    return Solution(A, B, objective, n_unfinished)


def _metagenes(query: Query) -> list[MetageneTable]:
    problem = query.problem
    return [metagenes_of(problem, query.W, query.V, i) for i in range(problem.n_datasets)]


@dataclass(frozen=True, slots=True)
class _Tile:
    """Atlas positions (n,), loadings (n, k), dataset and sums of a tile."""

    positions: NDArray[np.int64]
    H: NDArray[np.float32]
    dataset: int
    sums: TileStatistics | None


@dataclass(frozen=True, slots=True)
class _Solver:
    """Reads a block of the atlas and solves it, one tile after the other."""

    atlas: AtlasReference
    n_cells: int
    selection: GeneSelection
    codes: NDArray[np.int32]
    metagenes: list[MetageneTable]
    tol: float
    sums: bool

    def __call__(self, start: int) -> list[_Tile]:
        block = self.atlas.get().read(start, min(start + BLOCK_CELLS, self.n_cells))
        of_no_kind = np.zeros(block.n_genes, np.uint8)
        totals = cell_sums(block.indptr, block.indices, block.values, of_no_kind, 0).totals
        cells = select(block, self.selection, self.codes, totals)
        tiles = []
        for tile in cut_tiles(cells):
            table, sums = self.metagenes[tile.dataset], None
            if self.sums:
                H, sums = minibatch_step(tile.cells(), table, self.tol)
            else:
                H = loadings(tile.cells(), table, self.tol)[0]
            tiles.append(_Tile(cells.positions[tile.rows], H, tile.dataset, sums))
        return tiles


def _solved(
    atlas: Atlas,
    query: Query,
    metagenes: list[MetageneTable],
    tol: float,
    engine: ThreadEngine,
    write: WriteRows,
    progress: Progress,
    *,
    sums: bool,
) -> Iterator[tuple[int, TileStatistics]]:
    """Write the loadings of all tiles in order, and yield their dataset and sums if wanted."""
    selection = GeneSelection.of(query.genes, atlas.n_genes)
    codes, n_cells = query.datasets.codes, atlas.n_cells
    solver = _Solver(reference(atlas), n_cells, selection, codes, metagenes, tol, sums)
    done = 0
    for tiles in engine.ordered_map(solver, range(0, n_cells, BLOCK_CELLS)):
        for tile in tiles:
            write(tile.positions, tile.H)
            if tile.sums is not None:
                yield tile.dataset, tile.sums
        done = min(done + BLOCK_CELLS, n_cells)
        progress("solving loadings", done, n_cells)
