"""Everything that decides the result of a job, and what it may cost."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tigon.scaling.config import OpenConfig
from tigon.scaling.pca.config import PCAConfig
from tigon.scaling.preparing import PrepareConfig

_OF_FACTORS = ("n_unshared", "small_datasets")
"""Choices of cells and genes that only a factorisation has."""

TARGET_SUM = 10_000.0
"""What the counts of a cell are scaled to add up to where nothing else is asked for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DecomposeConfig:
    """Options of a job of principal components.

    Parameters
    ----------
    opening
        Which counts.
    prepare
        Which cells and genes take part.
    pca
        The decomposition; its ``random_state`` seeds everything.
    label_key
        Column of ``obs`` that the report colours cells by; None for none.
    n_threads
        Threads; the result does not depend on it.
    memory_limit_bytes
        Limit of the process tree; None for no limit.
    """

    opening: OpenConfig = field(default_factory=OpenConfig)
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    pca: PCAConfig = field(default_factory=lambda: PCAConfig(target_sum=TARGET_SUM, log1p=True))
    label_key: str | None = None
    n_threads: int = 1
    memory_limit_bytes: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Nested plain values, as a run stores them."""
        found = asdict(self)
        found["prepare"] = {n: v for n, v in found["prepare"].items() if n not in _OF_FACTORS}
        return found
