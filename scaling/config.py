"""Everything that decides the result of an integration, and what it may cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.preparing import PrepareConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class IntegrateConfig:
    """Options of the main job.

    Parameters
    ----------
    prepare
        Which cells and genes take part.
    inmf
        The factorisation; its ``random_state`` seeds everything.
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

    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    inmf: INMFConfig = field(default_factory=INMFConfig)
    align: AlignConfig = field(default_factory=AlignConfig)
    embed: EmbedConfig = field(default_factory=EmbedConfig)
    label_key: str | None = None
    n_threads: int = 1
    memory_limit_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, as a run stores them."""
        return asdict(self)
