"""Options of neighbours, clusters and layout."""

from __future__ import annotations

from dataclasses import dataclass

from tigon.scaling.checking import check_number, check_whole
from tigon.scaling.embedding.landmarks import N_LANDMARKS
from tigon.storage.errors import InputError

MAX_LANDMARKS = 200_000
"""Neighbours are searched exactly: the time grows with the square of the landmarks."""


@dataclass(frozen=True, kw_only=True, slots=True)
class EmbedConfig:
    """Options of neighbours, clusters and layout, checked when made.

    Parameters
    ----------
    n_landmarks
        With more than twice as many cells, a sample of so many is clustered
        and laid out, and the rest is placed among them.
    n_neighbors
        Neighbours of a cell in the graph.
    resolution
        Resolution of the Leiden clusters; higher means more of them.
    n_placing
        Landmarks among which a cell is placed.
    umap
        Whether to lay the cells out in two dimensions.
    min_dist
        Least distance of cells in the layout.
    n_layout_epochs
        Epochs of the layout; None for 500 up to 10,000 landmarks, 200 above.
    """

    n_landmarks: int = N_LANDMARKS
    n_neighbors: int = 20
    resolution: float = 0.4
    n_placing: int = 15
    umap: bool = True
    min_dist: float = 0.1
    n_layout_epochs: int | None = None

    def __post_init__(self) -> None:
        self._check_types()
        for name, least in (("n_landmarks", 100), ("n_neighbors", 2), ("n_placing", 1)):
            value = getattr(self, name)
            if value < least:
                raise InputError(f"{name} is too small ({value}): give {least} or more")
        if self.n_landmarks > MAX_LANDMARKS:
            raise InputError(
                f"n_landmarks is too large ({self.n_landmarks:,}): the limit is "
                f"{MAX_LANDMARKS:,}; give fewer, the rest is placed among them"
            )
        if not 0 < self.resolution < float("inf"):
            raise InputError(f"resolution is not positive and finite ({self.resolution}): try 0.4")
        if not 0 <= self.min_dist <= 1:
            raise InputError(f"min_dist is out of range ({self.min_dist}): give 0 to 1")
        if self.n_layout_epochs is not None and self.n_layout_epochs < 1:
            raise InputError(
                f"n_layout_epochs is too small ({self.n_layout_epochs}): give 1 or more"
            )

    def _check_types(self) -> None:
        for name in ("n_landmarks", "n_neighbors", "n_placing"):
            check_whole(name, getattr(self, name))
        if self.n_layout_epochs is not None:
            check_whole("n_layout_epochs", self.n_layout_epochs)
        for name in ("resolution", "min_dist"):
            check_number(name, getattr(self, name))
