"""Cells that have no known label, and are therefore not scored."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tigon.storage.runs.run import Run


def count_unscored(run: Run) -> dict[str, int]:
    """Cells by the word that stands for no label, "" where there is none; empty without scores."""
    from tigon.scaling.embedding.scores import NO_LABEL

    key = run.config.get("label_key")
    if not run.scores or key not in run.obs:
        return {}
    column = run.obs[key]
    words = column.astype(object).where(column.notna(), "").astype(str).str.strip()
    counts = words[words.str.lower().isin(NO_LABEL)].value_counts()
    return {str(word): int(n) for word, n in counts.items()}


def tell_unscored(counts: Mapping[str, int]) -> str:
    """What :func:`count_unscored` found as text: ``416 cells labelled 'unassigned'``."""
    return " and ".join(
        f"{n:,} cell{'' if n == 1 else 's'} {f'labelled {word!r}' if word else 'without a label'}"
        for word, n in counts.items()
    )
