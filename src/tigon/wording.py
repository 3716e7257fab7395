"""How durations, sizes, scores and settings are told, on a terminal and on the page alike."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tigon.storage.runs.components import Components

_MOST_ITEMS = 5
"""A setting that is a longer list is cut short."""


@dataclass(frozen=True, slots=True)
class Score:
    """How a score is told.

    Attributes
    ----------
    name
        What it is called.
    meaning
        What it says, in a line.
    layout
        Format of its value.
    phrase
        Its value within a list of scores.
    """

    name: str
    meaning: str
    layout: str = ".3f"
    phrase: str = ""

    def tell(self, value: float) -> str:
        """The value."""
        return "–" if math.isnan(value) else format(value, self.layout)

    def mention(self, value: float) -> str:
        """The value with its name."""
        return (self.phrase or f"{self.name} {{}}").format(self.tell(value))


SCORES = {
    "ari": Score("ARI", "adjusted Rand index of clusters and labels: 1 is the same partition"),
    "best_ari": Score("best ARI", "over Leiden resolutions"),
    "best_resolution": Score(
        "its resolution", "the Leiden resolution of the best ARI", "g", "at resolution {}"
    ),
    "nmi": Score("NMI", "normalised mutual information of clusters and labels: 1 is the same"),
    "knn_accuracy": Score("kNN accuracy", "labels guessed from the 15 nearest cells"),
    "mixing": Score("mixing", "datasets among neighbours, as a share of perfect mixing"),
    "n_scored": Score(
        "cells scored", "those with a label that were clustered and laid out", ",.0f", "of {} cells"
    ),
}
HEADLINE = ("ari", "nmi", "knn_accuracy", "mixing")
"""The scores to show where there is room for few."""


def known_scores(scores: Mapping[str, float]) -> dict[str, Score]:
    """How each of ``scores`` is told: the known ones first, in their order."""
    others = sorted(set(scores) - set(SCORES))
    told = SCORES | {name: Score(name.replace("_", " "), "", "g") for name in others}
    return {name: score for name, score in told.items() if name in scores}


def tell_consensus(consensus: Mapping[str, Any]) -> str:
    """How far several starts agree, in a line."""
    stability, objectives = consensus["stability"], consensus["objectives"]
    least = min(stability)
    text = (
        f"of {len(objectives)} starts (F {min(objectives):.6g} to {max(objectives):.6g}), "
        f"stability of the factors {sum(stability) / len(stability):.2f} "
        f"(least {least:.2f}, factor {stability.index(least)})"
    )
    best, n_updates = consensus["best_start"], consensus.get("n_updates", 0)
    if best >= 0:
        text += f"; start {best + 1} was better and taken instead"
    if n_updates:
        text += f"; before {n_updates} update{'s' if n_updates > 1 else ''} of the run"
    return text


METHODS = {"umap": "UMAP", "tsne": "t-SNE"}
"""What layouts are called, as part of their names too: ``X_tsne``."""


_ADDED = {
    "resolution": "resolution {:g}",
    "n_neighbors": "{} neighbours",
    "min_dist": "least distance {:g}",
    "perplexity": "perplexity {:g}",
}


def tell_added(made: Mapping[str, Any]) -> str:
    """What a layout or clusters that were added to a run are of, and how they were made."""
    how = METHODS[made["method"]] if "method" in made else "Leiden"
    told = [layout.format(made[name]) for name, layout in _ADDED.items() if name in made]
    text = f"{how} of {made['use']} ({', '.join(told)})"
    if made["n_used"] < made["n_cells"]:
        text += f", of a sample of {made['n_used']:,} of {made['n_cells']:,} cells"
    return text


def tell_certificate(found: Components) -> str:
    """What is proven of principal components, in a line."""
    largest = float(found.own_residuals.max())
    text = f"residuals up to {largest:.2g} of the singular value ({found.tol:g} asked for), "
    if found.completeness <= 1:
        return text + "none larger than the last is missing"
    if math.isinf(found.completeness):
        return text + "whether a larger one is missing is not known"
    return text + f"none {found.completeness:.3g} times as large as the last is missing"


def tell_seconds(seconds: float) -> str:
    """A duration: ``8.1 s``, ``2 min 05 s``, ``1 h 07 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"


def tell_bytes(n_bytes: float | None) -> str:
    """A size: ``1.5 GiB``; "unknown" for None."""
    from tigon.scaling.budget import format_bytes

    return "unknown" if n_bytes is None else format_bytes(n_bytes)


def tell_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as (dotted name, value), long lists cut short."""
    for name, value in settings.items():
        if isinstance(value, Mapping):
            yield from tell_settings(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", _tell_setting(value)


def _tell_setting(value: Any) -> str:
    if not isinstance(value, list | tuple):
        return str(value)
    shown = ", ".join(map(str, value[:_MOST_ITEMS]))
    more = len(value) - _MOST_ITEMS
    return f"{shown} and {more:,} more" if more > 0 else shown
