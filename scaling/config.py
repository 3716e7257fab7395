"""Everything that decides the result of an integration, and what it may cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.factors.dropping import checked_factors
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.preparing import PrepareConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class OpenConfig:
    """Which counts are integrated; opening the sources checks it.

    Parameters
    ----------
    sources
        Paths and URLs as they were given, "AnnData" for one in memory.
    join
        Genes of several sources; None for an atlas that was open already,
        whose other options here are not known either.
    layer, raw
        Where a source's counts are, if not in ``X``.
    gene_id_column
        Column of ``var`` that identifies genes; None for their names.
    allow_non_integer
        Whether values need not be whole numbers.
    """

    sources: tuple[str, ...] = ()
    join: Literal["inner", "outer"] | None = "inner"
    layer: str | None = None
    raw: bool = False
    gene_id_column: str | None = None
    allow_non_integer: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegrateConfig:
    """Options of the main job.

    Parameters
    ----------
    opening
        Which counts.
    prepare
        Which cells and genes take part.
    inmf
        The factorisation; its ``random_state`` seeds everything.
    drop_factors
        Factors that are found but that alignment and what follows leave out.
    align
        How loadings are brought onto one scale.
    embed
        Neighbours, clusters and layout.
    label_key
        Column of ``obs`` to score the result against; None for no scores.
    n_threads
        Threads; the result does not depend on it.
    memory_limit_bytes
        Limit of the process tree; None for no limit.
    """

    opening: OpenConfig = field(default_factory=OpenConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    inmf: INMFConfig = field(default_factory=INMFConfig)
    drop_factors: tuple[int, ...] = ()
    align: AlignConfig = field(default_factory=AlignConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    label_key: str | None = None
    n_threads: int = 1
    memory_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        dropped = checked_factors(self.drop_factors, self.inmf.n_components)
        object.__setattr__(self, "drop_factors", dropped)

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, as a run stores them."""
        return asdict(self)
