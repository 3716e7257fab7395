"""How well hidden genes of held-out cells are predicted.

Loadings h minimise |x - h L|^2 + lambda |h V|^2 over the genes that are not hidden; over
the hidden ones, with L and x of these alone,

    error = sum_c |x_c - h_c L|^2 = |X|^2 - 2 tr(B L^T) + tr(L L^T A),

so that sums A = H^T H and B = H^T X are all that is kept of a cell. The error is told as a
share of |X|^2 over the hidden entries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.cpu.metagenes import MetageneTable
from tigon.kernels.cpu.step import loadings, minibatch_step
from tigon.kernels.tile import TileStatistics
from tigon.scaling.choosing.folds import Fold
from tigon.scaling.inmf.consensus import Metagenes, products
from tigon.scaling.inmf.cutting import reads_of
from tigon.scaling.inmf.state import Problem
from tigon.scaling.inmf.tiles import add_statistics, cut_tiles, metagenes_of
from tigon.storage.errors import InputError
from tigon.storage.packs.reader import PackPart

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine


def hidden_error(
    fold: Fold, problem: Problem, found: Metagenes, tol: float, engine: ThreadEngine
) -> float:
    """Error of the prediction, as a share of the squares of what was hidden.

    Parameters
    ----------
    fold
        Cells and hidden genes.
    problem, found
        Masks, scales and lambda, and the metagenes.
    tol
        Tolerance of the loadings.
    engine
        Where it runs.

    Notes
    -----
    One pass over the held-out cells; holds 16 k m bytes for every dataset.
    """
    tables = _tables(problem, found, ~fold.hidden)
    scales = problem.scale * fold.hidden
    # Solved against what is seen, summed over what is hidden.
    tables = [replace(table, scale=scales[i]) for i, table in enumerate(tables)]
    sums: dict[int, TileStatistics] = {}
    for statistics in engine.ordered_map(
        _Sums(fold.held_out, tables, tol), reads_of((0, fold.held_out.n_cells))
    ):
        for dataset, of_block in statistics.items():
            add_statistics(sums, dataset, of_block)
    error, squares = 0.0, 0.0
    for i, of_dataset in sums.items():
        L = (found.W.astype(np.float64) + found.V[i]) * (fold.hidden & problem.measured[i])
        explained = 2.0 * float((of_dataset.B.T * L).sum()) - float(
            (products(L, L) * of_dataset.A).sum()
        )
        error += of_dataset.squared_norm - explained
        squares += of_dataset.squared_norm
    assert squares > 0, "check_hidden has seen that there are counts"
    return error / squares


def check_hidden(fold: Fold) -> None:
    """Refuse a fold of which nothing is hidden: there is no error to tell.

    Raises
    ------
    InputError
        None of the held-out cells has a count in one of the hidden genes.

    Notes
    -----
    Reads until it finds one.
    """
    for cut in reads_of((0, fold.held_out.n_cells)):
        block = fold.held_out.read(*cut)
        of = np.repeat(block.datasets, np.diff(block.indptr))
        scaled = fold.problem.scale[of, block.genes] * block.counts
        if (scaled[fold.hidden[block.genes]] > 0).any():
            return
    raise InputError(
        f"the {fold.held_out.n_cells} cells held out in fold {fold.number + 1} have no counts in "
        f"the {int(fold.hidden.sum())} genes hidden of them: there is nothing to predict; set "
        "--n-folds lower, or --n-cells, --n-genes or --hidden-share higher"
    )


def held_out_loadings(
    fold: Fold,
    problem: Problem,
    found: Metagenes,
    n_cells: int,
    tol: float,
    engine: ThreadEngine,
) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Loadings (n, k) and datasets (n,) of the first ``n_cells`` held out, from all genes."""
    part = fold.held_out
    n = min(n_cells, part.n_cells)
    tables = _tables(problem, found, np.ones(problem.n_genes, bool))
    H = list(engine.ordered_map(_Loadings(part, tables, tol), reads_of((0, n))))
    return np.concatenate(H), part.datasets(0, n)


def _tables(problem: Problem, found: Metagenes, seen: NDArray[np.bool_]) -> list[MetageneTable]:
    """What cells are solved against over the genes that are seen."""
    masked = replace(problem, measured=problem.measured & seen, scale=problem.scale * seen)
    return [metagenes_of(masked, found.W, {i: V * seen}, i) for i, V in enumerate(found.V)]


@dataclass(frozen=True, slots=True)
class _Sums:
    """Sums of a block by dataset."""

    part: PackPart
    tables: list[MetageneTable]
    tol: float

    def __call__(self, cut: tuple[int, int]) -> dict[int, TileStatistics]:
        sums: dict[int, TileStatistics] = {}
        for tile in cut_tiles(self.part.stored(*cut)):
            found = minibatch_step(tile.cells(), self.tables[tile.dataset], self.tol)[1]
            add_statistics(sums, tile.dataset, found)
        return sums


@dataclass(frozen=True, slots=True)
class _Loadings:
    """Loadings of a block."""

    part: PackPart
    tables: list[MetageneTable]
    tol: float

    def __call__(self, cut: tuple[int, int]) -> NDArray[np.float32]:
        H = np.zeros((cut[1] - cut[0], len(self.tables[0].gram)), np.float32)
        for tile in cut_tiles(self.part.stored(*cut)):
            H[tile.rows] = loadings(tile.cells(), self.tables[tile.dataset], self.tol)[0]
        return H
