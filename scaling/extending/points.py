"""The cells of a run as points: the rows of one of its matrices.

A matrix is taken as it is, and cells are compared by Euclidean distances between its rows;
but loadings (``X_inmf``) become points of ``tigon.scaling.embedding.space``, each factor
divided by its root mean square and dropped ones left out, as in a main job that aligns nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.rows import divide, read_tile, tiles
from tigon.scaling.embedding.space import to_space
from tigon.scaling.factors.dropping import kept_factors, without_factors
from tigon.scaling.recalling import dropped_factors
from tigon.scaling.transferring import factor_scale
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress
from tigon.storage.rows import RowReader
from tigon.storage.runs.columns import categories_of
from tigon.storage.runs.run import Run

LOADINGS = "X_inmf"
ALIGNED = "X_inmf_aligned"
_WANTED = (ALIGNED, "X_pca", LOADINGS)
"""What is taken where nothing is named: the first of these that the run has."""


@dataclass(frozen=True, slots=True)
class SpaceRows:
    """Loadings read as points.

    Attributes
    ----------
    rows
        Loadings, float32, shape (n, k).
    scale
        What each factor is divided by, float64, shape (k,).
    """

    rows: RowReader
    scale: NDArray[np.float64]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the points."""
        return self.rows.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of their coordinates."""
        return np.dtype(np.float32)

    def read(self, start: int, stop: int) -> NDArray[np.float32]:
        """Points of cells ``start`` to ``stop``."""
        return to_space(divide(read_tile(self.rows, start, stop), self.scale))


def choose_matrix(run: Run, use: str | None) -> str:
    """The matrix that ``use`` names, or the one that is taken where it names none.

    Raises
    ------
    InputError
        The run does not have it, or it has not a row of numbers for each cell.
    """
    if use is None:
        there = [name for name in _WANTED if name in run.obsm_names]
        if not there:
            raise InputError(
                f"the run {run.path} has none of {', '.join(_WANTED)}: name the matrix to take "
                f"with --use; it has {', '.join(run.obsm_names) or 'none'}"
            )
        return there[0]
    rows = run.obsm(use)
    if len(rows.shape) != 2 or not rows.shape[1] or rows.dtype.kind not in "fiu":
        raise InputError(
            f"{use} is an array of {rows.dtype} of the shape {rows.shape}: a row of numbers for "
            "each cell is needed; choose another matrix with --use"
        )
    return use


def points_of(run: Run, use: str) -> RowReader:
    """The matrix ``use`` as points, shape (n, k), streamed."""
    if use != LOADINGS:
        return run.obsm(use)
    dropped = dropped_factors(run)
    kept = kept_factors(run.loadings.shape[1], dropped)
    scale = factor_scale(run.A, run.n_cells)[kept]
    return SpaceRows(without_factors(run.loadings, dropped), scale.astype(np.float64))


def find_assigned(rows: RowReader, use: str, progress: Progress) -> NDArray[np.bool_]:
    """Which cells take part, bool, shape (n,): all, or of loadings those that have any.

    Raises
    ------
    InputError
        A row holds what is no finite number.

    Notes
    -----
    One pass over the matrix.
    """
    n = rows.shape[0]
    assigned = np.ones(n, dtype=bool)
    n_wrong, first = 0, -1
    for start, stop in tiles(n):
        with np.errstate(over="ignore"):  # beyond float32 is told below
            tile = read_tile(rows, start, stop)
        wrong = ~np.isfinite(tile).all(axis=1)
        if wrong.any() and not n_wrong:
            first = start + int(wrong.argmax())
        n_wrong += int(wrong.sum())
        if use in (LOADINGS, ALIGNED):
            assigned[start:stop] = tile.any(axis=1)
        progress("looking at cells", stop, n)
    if n_wrong:
        raise InputError(
            f"{n_wrong:,} of {n:,} rows of {use} hold NaN or infinite numbers (the first is row "
            f"{first:,}, from 0): cells are compared by finite float32 numbers; mend the matrix, "
            "or choose another with --use"
        )
    return assigned


def dataset_codes(run: Run, n_cells: int) -> NDArray[np.int32]:
    """Dataset of each cell, int32, shape (n_cells,); 0 for all where the run tells of none."""
    found = categories_of(run, "tigon_dataset")
    if found is None:
        return np.zeros(n_cells, dtype=np.int32)
    codes = np.asarray(found.codes).astype(np.int32)
    codes[codes < 0] = len(found.names)
    return codes
