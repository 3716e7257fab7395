"""Options of layouts and clusters that are made of a matrix of a run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tigon.scaling.budget import n_landmarks
from tigon.scaling.checking import check_number, check_whole
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.embedding.landmarks import N_LANDMARKS
from tigon.scaling.embedding.tsne import NEIGHBORS_PER_PERPLEXITY
from tigon.storage.errors import InputError

Method = Literal["umap", "tsne"]

_OF_UMAP = {"n_neighbors": 20, "min_dist": 0.1}
_OF_TSNE = {"perplexity": 30.0}
_LEAST_PERPLEXITY = 2


@dataclass(frozen=True, kw_only=True, slots=True)
class LayoutConfig:
    """Options of a layout, checked when made.

    Parameters
    ----------
    method
        "umap" or "tsne".
    n_neighbors
        Of UMAP: neighbours of a cell; None for 20.
    min_dist
        Of UMAP: least distance of cells in the layout; None for 0.1.
    perplexity
        Of t-SNE: how many cells each is near to; None for 30.
    n_epochs
        Epochs; None for the default of the method.
    n_landmarks
        With more than twice as many cells, a sample of so many is laid out, and
        the rest is placed among them.
    n_placing
        Landmarks among which a cell is placed.
    random_state
        Decides landmarks and layout.

    Raises
    ------
    InputError
        An option is out of range, or is of the other method.
    """

    method: Method = "umap"
    n_neighbors: int | None = None
    min_dist: float | None = None
    perplexity: float | None = None
    n_epochs: int | None = None
    n_landmarks: int = N_LANDMARKS
    n_placing: int = 15
    random_state: int = 0

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise InputError(f"method is {self.method!r}: there are 'umap' and 'tsne'; choose one")
        own, others = (_OF_UMAP, _OF_TSNE) if self.method == "umap" else (_OF_TSNE, _OF_UMAP)
        for name in others:
            if getattr(self, name) is not None:
                raise InputError(
                    f"{name} is given ({getattr(self, name)}): it is no option of the method "
                    f"{self.method}, which has {', '.join(own)}; leave it out"
                )
        for name, default in own.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        check_random_state(self.random_state)
        if self.n_epochs is not None:
            check_whole("n_epochs", self.n_epochs)
            if self.n_epochs < 1:
                raise InputError(f"n_epochs is too small ({self.n_epochs}): give 1 or more")
        if self.perplexity is not None:
            check_number("perplexity", self.perplexity)
            if not _LEAST_PERPLEXITY <= self.perplexity < float("inf"):
                raise InputError(
                    f"perplexity is out of range ({self.perplexity}): give "
                    f"{_LEAST_PERPLEXITY} or more"
                )
        self.embed_config()  # checks what the main job has too

    def embed_config(self) -> EmbedConfig:
        """What of it the main job has as well."""
        given = {"n_neighbors": self.n_neighbors, "min_dist": self.min_dist}
        return EmbedConfig(
            n_landmarks=self.n_landmarks,
            n_placing=self.n_placing,
            n_layout_epochs=self.n_epochs,
            **{name: value for name, value in given.items() if value is not None},  # type: ignore[arg-type]
        )

    @property
    def n_sought(self) -> int:
        """Neighbours of a landmark that the layout rests on."""
        if self.perplexity is not None:
            return int(NEIGHBORS_PER_PERPLEXITY * self.perplexity)
        assert self.n_neighbors is not None, "it has a default"
        return self.n_neighbors

    @property
    def name(self) -> str:
        """Where scanpy looks for the layout."""
        return f"X_{self.method}"

    def check_cells(self, n_cells: int) -> None:
        """Refuse fewer cells than the options need.

        Raises
        ------
        InputError
            There are too few.
        """
        check_enough(n_cells)
        n_cells = n_landmarks(n_cells, self.embed_config())
        if self.n_sought < n_cells:
            return
        if self.perplexity is not None:
            most = (n_cells - 1) // NEIGHBORS_PER_PERPLEXITY
            raise InputError(
                f"perplexity {self.perplexity:g} is too large for {n_cells:,} cells: a cell's "
                f"{self.n_sought} nearest others are looked at; "
                + (
                    f"give --perplexity {most} or less"
                    if most >= _LEAST_PERPLEXITY
                    else "take --method umap"
                )
            )
        check_neighbors(self.n_sought, n_cells)

    @property
    def options(self) -> dict[str, Any]:
        """Those of the method and those of both, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterConfig:
    """Options of clusters, checked when made.

    Parameters
    ----------
    name
        Column of ``obs`` that they become.
    resolution, n_neighbors, n_landmarks, n_placing
        As for :class:`tigon.scaling.embedding.config.EmbedConfig`.
    random_state
        Decides landmarks and clusters.

    Raises
    ------
    InputError
        An option is out of range.
    """

    name: str = "tigon_cluster"
    resolution: float = 0.4
    n_neighbors: int = 20
    n_landmarks: int = N_LANDMARKS
    n_placing: int = 15
    random_state: int = 0

    def __post_init__(self) -> None:
        # A column is a folder of the run: others would be stored under another name, or hidden.
        if not self.name.strip() or "/" in self.name or self.name.startswith("."):
            raise InputError(
                f"name is {self.name!r}: a column of obs has a name, without '/' and no dot at "
                "its beginning; choose another"
            )
        if self.name in ("_index", "tigon_dataset"):
            raise InputError(f"name is {self.name!r}: that column is another's; choose another")
        check_random_state(self.random_state)
        self.embed_config()  # checks what the main job has too

    def embed_config(self) -> EmbedConfig:
        """As the main job has them, without a layout."""
        return EmbedConfig(
            n_landmarks=self.n_landmarks,
            n_neighbors=self.n_neighbors,
            resolution=self.resolution,
            n_placing=self.n_placing,
            umap=False,
        )

    def check_cells(self, n_cells: int) -> None:
        """Refuse fewer cells than the options need.

        Raises
        ------
        InputError
            There are too few.
        """
        check_enough(n_cells)
        check_neighbors(self.n_neighbors, n_landmarks(n_cells, self.embed_config()))


def check_random_state(random_state: Any) -> None:
    """Refuse what cannot seed.

    Raises
    ------
    InputError
        It is no whole number from 0 to 2^32 - 1.
    """
    check_whole("random_state", random_state)
    if not 0 <= random_state < 2**32:
        raise InputError(f"random_state is out of range ({random_state}): give 0 to 4294967295")


def check_enough(n_cells: int) -> None:
    """Refuse fewer cells than three, of which each has two others.

    Raises
    ------
    InputError
        There are fewer.
    """
    if n_cells < 3:
        told = ("are no cells", "is 1 cell", "are 2 cells")[n_cells]
        raise InputError(f"there {told} to compare: 3 are the least; take a run of more")


def check_neighbors(n_neighbors: int, n_cells: int) -> None:
    """Refuse more neighbours than there are other cells.

    Raises
    ------
    InputError
        There are fewer others.
    """
    if n_neighbors >= n_cells:
        raise InputError(
            f"n_neighbors is too large ({n_neighbors}): each of {n_cells:,} cells has "
            f"{n_cells - 1:,} others; give --n-neighbors {n_cells - 1} or less"
        )
