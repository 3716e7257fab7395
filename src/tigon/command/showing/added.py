"""Layouts and clusters that were added to a run, as plain facts and as text for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.command.showing.describe import Facts, lay_out, tell_counts
from tigon.wording import tell_added, tell_bytes, tell_seconds

if TYPE_CHECKING:
    from tigon.storage.runs.run import Run


def describe_layout(run: Run, name: str) -> Facts:
    """What was added, and how."""
    made = run.config["layouts"][name]
    return {"kind": "layout", "path": str(run.path), "name": name, **made}


def describe_clusters(run: Run, name: str) -> Facts:
    """What was added, how, and the cells of each cluster."""
    import numpy as np

    from tigon.storage.encoding import key
    from tigon.storage.runs.columns import categories_of

    made = run.config["clusterings"][key(name)]
    column = categories_of(run, name)
    assert column is not None, "it was added"
    sizes = np.bincount(np.asarray(column.codes), minlength=len(column.names)).tolist()
    clusters = dict(zip(column.names, sizes, strict=True))
    facts = {"kind": "clusters", "path": str(run.path), "name": name}
    return {**facts, **made, "clusters": clusters}


def tell_layout(facts: Facts) -> str:
    """Facts of :func:`describe_layout` as text."""
    return lay_out(
        [
            ("run", facts["path"]),
            ("layout", f'obsm["{facts["name"]}"], {tell_added(facts)}'),
            *_tell_cost(facts),
            ("picture", f"tigon report {facts['path']}{_again(facts['path'])}"),
        ]
    )


def _again(path: str) -> str:
    """What ``tigon report`` needs besides, where there is a page that lacks the layout."""
    from tigon.main_job import report_path

    return " --overwrite" if report_path(Path(path)).exists() else ""


def tell_clusters(facts: Facts) -> str:
    """Facts of :func:`describe_clusters` as text."""
    scores = [f"{name.upper()} {facts[name]:.3f}" for name in ("ari", "nmi") if name in facts]
    return lay_out(
        [
            ("run", facts["path"]),
            ("column", f'obs["{facts["name"]}"], {tell_added(facts)}'),
            ("clusters", tell_counts(facts["clusters"])),
            *([("scores", ", ".join(scores))] if scores else []),
            *_tell_cost(facts),
        ]
    )


def _tell_cost(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [
        ("peak memory", tell_bytes(facts["peak_memory_bytes"])),
        ("time", tell_seconds(facts["time_s"])),
    ]
