"""Choosing cells without rewriting the atlas."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.checking import check_number
from tigon.storage.errors import InputError
from tigon.storage.gene_kinds import MITOCHONDRIAL

if TYPE_CHECKING:
    import pandas as pd

    from tigon.kernels.moments import CellSums
    from tigon.storage import Atlas


@dataclass(frozen=True, kw_only=True, slots=True)
class CellFilter:
    """Limits that a cell must meet to take part.

    Parameters
    ----------
    min_genes
        Fewest detected genes.
    min_counts
        Smallest total count.
    max_mito
        Largest share of counts in mitochondrial genes, 0 to 1.
    """

    min_genes: int = 0
    min_counts: float = 0
    max_mito: float = 1.0

    def __post_init__(self) -> None:
        for name in ("min_genes", "min_counts", "max_mito"):
            check_number(name, getattr(self, name))
        for option, least in (("--min-genes", self.min_genes), ("--min-counts", self.min_counts)):
            if not least >= 0:
                raise InputError(f"{option} is {least}: the least is 0, which is no limit")
        if not 0 <= self.max_mito <= 1:
            raise InputError(
                f"--max-mito is {self.max_mito}: it is a share between 0 and 1; "
                "for five percent use 0.05"
            )

    def __str__(self) -> str:
        """The limits that were set, as a user sets them."""
        given = [f for f in fields(self) if getattr(self, f.name) != f.default]
        told = [f"--{f.name.replace('_', '-')} {getattr(self, f.name)}" for f in given]
        return ", ".join(told) or "no limits"

    def passes(self, cells: CellSums) -> NDArray[np.bool_]:
        """Which cells of a block meet the limits, shape (n,)."""
        return (
            (cells.n_genes >= self.min_genes)
            & (cells.totals >= self.min_counts)
            & (cells.of_kinds[:, MITOCHONDRIAL - 1] <= self.max_mito * cells.totals)
        )


def chosen_cells(atlas: Atlas, expression: str | None) -> NDArray[np.bool_] | None:
    """Cells that an expression selects, as :func:`select_cells`; None for all of them.

    Without an expression the table of the cells is not read.
    """
    return None if expression is None else select_cells(atlas.obs, expression)


def select_cells(obs: pd.DataFrame, expression: str) -> NDArray[np.bool_]:
    """Cells for which an expression over the columns of ``obs`` is true.

    Parameters
    ----------
    obs
        Cell annotations.
    expression
        As for ``pandas.DataFrame.query``.

    Returns
    -------
    ndarray of bool, shape (n_cells,)

    Raises
    ------
    InputError
        The expression cannot be read, is not true-or-false, or selects nothing.
    """
    try:
        chosen = np.asarray(obs.eval(expression, engine="python"))
    except Exception as error:  # pandas raises many types here
        _point_to_option(expression, obs)
        columns = ", ".join(map(str, obs.columns))
        raise InputError(
            f"--cells {expression!r} cannot be evaluated ({error}): it is an expression over the "
            f"columns of obs ({columns}); for instance --cells \"label == 'B cell'\""
        ) from error
    if chosen.shape != (len(obs),) or chosen.dtype != bool:
        raise InputError(
            f"--cells {expression!r} is not true or false for every cell: compare a column with "
            'a value, for instance "n_genes > 500"'
        )
    if not chosen.any():
        raise InputError(
            f"--cells {expression!r} selects none of {len(obs)} cells: at least one is needed; "
            "relax the expression"
        )
    return chosen


_OPTIONS = {
    "n_genes_by_counts": "--min-genes",
    "total_counts": "--min-counts",
    "pct_counts_mt": "--max-mito (a share: 0.05 for five percent)",
}
"""What a run says of its cells is not known before the counts are read."""


def _point_to_option(expression: str, obs: pd.DataFrame) -> None:
    """Refuse an expression over what only a run knows, with the option that does the same."""
    for column, option in _OPTIONS.items():
        if column in expression and column not in obs:
            raise InputError(
                f"--cells {expression!r} names {column}, which is counted while the job runs and "
                f"is no column of obs yet: use {option}"
            )
