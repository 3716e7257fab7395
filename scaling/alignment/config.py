"""Options of the alignment."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal, get_args

from tigon.storage.errors import InputError

Method = Literal["centroid", "quantile", "none"]
"""Centroid alignment, quantile normalisation in joint clusters, or nothing at all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class AlignConfig:
    """Options of the alignment, checked when made; all but ``align`` are of quantile maps.

    Parameters
    ----------
    align
        How datasets are brought together.
    n_quantiles
        Pieces of the quantile map.
    n_neighbors
        Votes on a cell's joint cluster, its own among them; 1 for no vote.
    min_cells
        Cells a dataset needs in a cluster for its loadings there to be mapped.
    n_sampled
        Cells sampled for the quantiles of a dataset in a cluster, at most.
    n_voters
        Cells of a dataset that may vote, at most.
    reference
        Number of the dataset whose quantiles the others take on; None for the
        mean over datasets, weighted by their cells in the cluster.
    """

    align: Method = "centroid"
    n_quantiles: int = 50
    n_neighbors: int = 10
    min_cells: int = 20
    n_sampled: int = 1000
    n_voters: int = 2000
    reference: int | None = None

    def __post_init__(self) -> None:
        if self.align not in get_args(Method):
            raise InputError(
                f"align is {self.align!r}: it is one of {', '.join(get_args(Method))}; choose one"
            )
        for name, least in (
            ("n_quantiles", 1),
            ("n_neighbors", 1),
            ("min_cells", 2),
            ("n_sampled", 2),
            ("n_voters", 1),
        ):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name} is too small ({value}): give {least} or more")
        if self.reference is not None and self.reference < 0:
            raise InputError(
                f"reference is negative ({self.reference}): give the number of a dataset"
            )
        self._check_method()

    def _check_method(self) -> None:
        """Refuse options that the method would not look at."""
        if self.align == "quantile":
            return
        for option in fields(self):
            value = getattr(self, option.name)
            if option.name != "align" and value != option.default:
                raise InputError(
                    f"{option.name} is given ({value}) and align is {self.align!r}: it is an "
                    "option of quantile maps; leave it out or choose align='quantile'"
                )
