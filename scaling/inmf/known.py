"""What a fit leaves for cells that come later: metagenes, and sums over the cells it read.

With L_i = W + V_i the sums give F of those cells for any metagenes, without reading them:

    F_i = |X_i|^2 - 2 tr(B_i L_i^T) + tr(G_i A_i).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.inmf.solving import explained
from tigon.scaling.inmf.state import Problem
from tigon.scaling.inmf.tiles import metagenes_of
from tigon.storage.errors import InputError


@dataclass(frozen=True, slots=True)
class Known:
    """A fit: metagenes and statistics by dataset.

    Attributes
    ----------
    genes
        Names of the m genes.
    W
        Shared metagenes, float32, shape (k, m).
    V
        Dataset-specific metagenes by dataset, float32, shape (k, m) each.
    A, B
        H_i^T H_i and H_i^T X_i, float64, shapes (k, k) and (k, m) each.
    measured
        Which genes each dataset measures, bool, shape (m,) each.
    scale
        One over the root mean square of each gene, float64, shape (m,) each.
    squares
        Sum of the squared scaled counts of each gene, float64, shape (m,) each.
    n_cells
        Cells of each dataset.
    lam
        lambda of each dataset.
    merged
        Name of the pooled dataset that a small one was fitted in.
    shared
        At which genes W may differ from zero, bool, shape (m,); None for all.
    """

    genes: Sequence[str]
    W: NDArray[np.float32]
    V: Mapping[str, NDArray[np.float32]]
    A: Mapping[str, NDArray[np.float64]]
    B: Mapping[str, NDArray[np.float64]]
    measured: Mapping[str, NDArray[np.bool_]]
    scale: Mapping[str, NDArray[np.float64]]
    squares: Mapping[str, NDArray[np.float64]]
    n_cells: Mapping[str, int]
    lam: Mapping[str, float]
    merged: Mapping[str, str]
    shared: NDArray[np.bool_] | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the datasets, in order."""
        return tuple(self.V)

    @property
    def n_components(self) -> int:
        """Number of factors k."""
        return len(self.W)

    def fitted_as(self, name: str) -> str:
        """Name under which the cells of a dataset were fitted."""
        return self.merged.get(name, name)

    def pooled_scale(self) -> NDArray[np.float64]:
        """Scale of the cells of all datasets together, float64, shape (m,).

        One over the root of the mean of the datasets' mean squares, weighted by their
        cells; a dataset that does not measure a gene has no say, and 0 is the scale of a
        gene that none detects.
        """
        squares, weights = np.zeros(len(self.genes)), np.zeros(len(self.genes))
        for name, scale in self.scale.items():
            found = np.divide(1.0, scale**2, out=np.zeros(len(scale)), where=scale > 0)
            squares += self.n_cells[name] * found * self.measured[name]
            weights += self.n_cells[name] * self.measured[name]
        pooled = np.zeros(len(squares))
        np.divide(np.sqrt(weights), np.sqrt(squares), out=pooled, where=squares > 0)
        return pooled

    def objective(self) -> float:
        """F of the cells that were read, with the present metagenes and their loadings then."""
        total = 0.0
        for name in self.names:
            problem = Problem(
                np.array([self.n_cells[name]]),
                self.measured[name][None],
                self.scale[name][None],
                self.lam[name],
                self.shared,
            )
            V = self.V[name][None]
            table = metagenes_of(problem, self.W, V, 0)
            total += float(self.squares[name].sum())
            total += explained(problem, [table], self.W, V, self.A[name][None], self.B[name][None])
        return total

    def without(self, names: Iterable[str]) -> Known:
        """The same less some datasets; the metagenes stay.

        Raises
        ------
        InputError
            One is not there, or none would be left.
        """
        names = set(names)
        unknown = sorted(names - set(self.names))
        if unknown:
            raise InputError(
                f"{unknown[0]!r} is no dataset of the run: there are {', '.join(self.names)}; "
                "name one of these with --drop"
            )
        if names == set(self.names):
            raise InputError(
                f"all {len(names)} datasets are to be dropped: at least one must stay; "
                "integrate the new data alone instead"
            )
        kept: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name != "merged" and isinstance(value, Mapping):
                kept[field.name] = {name: value[name] for name in value if name not in names}
        merged = {was: now for was, now in self.merged.items() if now not in names}
        return replace(self, **kept, merged=merged)


def own_squares(scale: NDArray[np.float64], n_cells: int) -> NDArray[np.float64]:
    """Squares of cells that are scaled by their own root mean squares, shape (m,)."""
    return np.where(scale > 0, float(max(n_cells - 1, 1)), 0.0)
