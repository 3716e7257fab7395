"""What an atlas or a run is, as plain facts and as text for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isinf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.unscored import count_unscored, tell_unscored
from tigon.wording import (
    known_scores,
    tell_added,
    tell_bytes,
    tell_certificate,
    tell_consensus,
    tell_seconds,
    tell_settings,
)

if TYPE_CHECKING:
    import pandas as pd

    from tigon.storage.atlas import Atlas
    from tigon.storage.runs.run import Run

Facts = dict[str, Any]

_MOST_VALUES = 12
"""A column with more distinct values is summed up by their number or range."""

_OWN = "tigon_"
_ADDED = " (added by Tigon)"


def is_run(path: str) -> bool:
    """Whether a run is at ``path``."""
    from tigon.storage.runs.run import MARKS

    return any((Path(path) / "uns" / "tigon" / mark).exists() for mark in MARKS)


def describe_atlas(atlas: Atlas, path: str) -> Facts:
    """Sizes, datasets and columns of an atlas or of any source."""
    obs = atlas.obs
    return {
        # Only for an atlas of Tigon's own are these known without a pass.
        "kind": "file" if atlas.n_nonzeros is None else "atlas",
        "path": path,
        "n_cells": atlas.n_cells,
        "n_genes": atlas.n_genes,
        "n_nonzeros": atlas.n_nonzeros,
        "n_bytes": size_on_disk(path),
        "digest": None if atlas.n_nonzeros is None else atlas.digest,
        "datasets": _count_codes(atlas.source_names, atlas.source_codes),
        "obs": {str(name): _describe_column(obs[name]) for name in obs.columns},
    }


def describe_run(run: Run) -> Facts:
    """Sizes, result and configuration of a run."""
    obs = run.obs
    clusters = {}
    if "tigon_cluster" in obs:
        clusters = obs["tigon_cluster"].astype(str).value_counts().to_dict()
    return {
        "kind": "run",
        "path": str(run.path),
        "n_cells": len(obs),
        "n_genes": len(run.genes),
        **(_describe_factors(run) if run.has_factors else _describe_components(run)),
        "datasets": dict(zip(run.datasets, run.n_cells.tolist(), strict=True)),
        "clusters": {str(name): int(n) for name, n in clusters.items()},
        "scores": run.scores,
        "not_scored": count_unscored(run),
        "peak_memory_bytes": run.peak_memory_bytes,
        "memory_limit_bytes": run.memory_limit_bytes,
        "time_s": sum(run.timings_s.values()),
        "n_bytes": size_on_disk(str(run.path)),
        "obsm": list(run.obsm_names),
        "obs": {str(name): _describe_column(obs[name]) for name in obs.columns},
        "command": run.command,
        "config": run.config,
        "versions": run.versions,
        "notices": run.notices,
    }


def _describe_factors(run: Run) -> Facts:
    from tigon.scaling.recalling import shared_genes

    shared = shared_genes(run)
    return {
        "n_shared_genes": None if shared is None else int(shared.sum()),
        "n_components": int(run.loadings.shape[1]),
        "dropped_factors": list(run.config.get("drop_factors", ())),
        "objective": run.objective,
        "consensus": run.consensus,
    }


def _describe_components(run: Run) -> Facts:
    from dataclasses import asdict

    found = asdict(run.components)
    by_gene = ("vectors", "mean", "deviation")
    told = {name: value for name, value in found.items() if name not in by_gene}
    arrays = ("variance", "variance_ratio", "singular_values", "residuals")
    told |= {name: found[name].tolist() for name in arrays}
    if isinf(found["completeness"]):
        told["completeness"] = None
    return {
        "n_components": run.components.n_components,
        "components": told,
        "certificate": tell_certificate(run.components),
    }


def tell_atlas(facts: Facts) -> str:
    """Facts of :func:`describe_atlas` as text."""
    return lay_out(
        [
            (facts["kind"], facts["path"]),
            ("cells", f"{facts['n_cells']:,}"),
            ("genes", f"{facts['n_genes']:,}"),
            ("non-zeros", _or_unknown(facts["n_nonzeros"], "{:,}")),
            # Behind a URL nobody says how large it is.
            *([] if facts["n_bytes"] is None else [("on disk", tell_bytes(facts["n_bytes"]))]),
            *([] if facts["digest"] is None else [("digest", facts["digest"])]),
            ("datasets", tell_counts(facts["datasets"])),
            *_tell_columns(facts["obs"]),
        ]
    )


def tell_run(facts: Facts) -> str:
    """The result of a run in a few lines."""
    result = _tell_components(facts) if "components" in facts else _tell_factors(facts)
    limit = facts["memory_limit_bytes"]
    return lay_out(
        [
            ("run", facts["path"]),
            ("cells", f"{facts['n_cells']:,}"),
            ("genes", f"{facts['n_genes']:,}" + _tell_shared(facts)),
            ("datasets", tell_counts(facts["datasets"])),
            *result,
            *_tell_clusters(facts),
            (
                "peak memory",
                tell_bytes(facts["peak_memory_bytes"])
                + (f" of {tell_bytes(limit)}" if limit is not None else ""),
            ),
            ("time", _tell_time(facts)),
            *([("report", facts["report"])] if facts.get("report") else []),
        ]
    )


def _tell_time(facts: Facts) -> str:
    """Of a command that has just ended all of it; of a run what was written down with it."""
    if "elapsed_s" in facts:
        return tell_seconds(facts["elapsed_s"])
    return f"{tell_seconds(facts['time_s'])}, without start and report"


def _tell_components(facts: Facts) -> list[tuple[str, str]]:
    found = facts["components"]
    share = sum(found["variance_ratio"])
    return [
        ("components", f"{facts['n_components']}, {share:.1%} of the variance"),
        ("exactness", facts["certificate"]),
        ("solver", f"{found['solver']}: {found['reason']}"),
        (
            "passes",
            f"{found['n_passes']} over the counts, {tell_bytes(found['bytes_read'])} decoded",
        ),
    ]


def _tell_factors(facts: Facts) -> list[tuple[str, str]]:
    return [
        ("factors", f"{facts['n_components']}" + _tell_dropped(facts["dropped_factors"])),
        ("objective", f"{facts['objective']:.6g}"),
        *([("consensus", tell_consensus(facts["consensus"]))] if facts["consensus"] else []),
    ]


def _tell_clusters(facts: Facts) -> list[tuple[str, str]]:
    """Clusters and their scores, where there are clusters."""
    if not facts["clusters"]:
        return []
    n_clusters = len(facts["clusters"].keys() - {"unassigned"})
    n_unassigned = facts["clusters"].get("unassigned", 0)
    unassigned = f" ({n_unassigned:,} cells unassigned)" if n_unassigned else ""
    scores = facts["scores"]
    told = [score.mention(scores[name]) for name, score in known_scores(scores).items()]
    unscored = tell_unscored(facts["not_scored"])
    return [
        ("clusters", f"{n_clusters}{unassigned}"),
        *([("scores", ", ".join(told))] if told else []),
        *([("not scored", unscored)] if unscored else []),
    ]


def _tell_shared(facts: Facts) -> str:
    n_shared = facts.get("n_shared_genes")
    if n_shared is None:
        return ""
    return f" ({n_shared:,} shared, {facts['n_genes'] - n_shared:,} unshared)"


def tell_run_in_full(facts: Facts) -> str:
    """Facts of :func:`describe_run` as text, with what made the run."""
    config = [(f"  {name}", value) for name, value in tell_settings(facts["config"])]
    rest = lay_out(
        [
            ("on disk", tell_bytes(facts["n_bytes"])),
            ("matrices", ", ".join(facts["obsm"])),
            *_tell_parts("layout", facts["config"].get("layouts", {})),
            *_tell_parts("clusters", facts["config"].get("clusterings", {})),
            *_tell_stability(facts.get("consensus", {})),
            *_tell_columns(facts["obs"]),
            ("command", facts["command"]),
        ]
    )
    return "\n".join([tell_run(facts), rest, "configuration", lay_out(config)])


def _tell_parts(what: str, parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was added to the run, a line each."""
    return [(f"{what} {name}", tell_added(made)) for name, made in parts.items()]


def _tell_stability(consensus: Mapping[str, Any]) -> list[tuple[str, str]]:
    told = [f"{value:.2f}" for value in consensus.get("stability", ())]
    return [("stability by factor", ", ".join(told))] if told else []


def tell_export(facts: Facts) -> str:
    """What ``tigon export`` wrote, as text."""
    return lay_out(
        [
            ("file", facts["path"]),
            ("cells", f"{facts['n_cells']:,}"),
            ("genes", f"{facts['n_genes']:,}"),
            ("counts", "yes" if facts["counts"] else "none: name their source with --atlas"),
            ("on disk", tell_bytes(facts["n_bytes"])),
        ]
    )


def size_on_disk(path: str) -> int | None:
    """Bytes of a file or folder; None for a URL."""
    place = Path(path)
    if place.is_file():
        return place.stat().st_size
    if not place.is_dir():
        return None
    return sum(file.stat().st_size for file in place.rglob("*") if file.is_file())


def _tell_dropped(numbers: list[int]) -> str:
    return f" ({', '.join(map(str, numbers))} dropped)" if numbers else ""


def _count_codes(names: Iterable[str], codes: Any) -> dict[str, int]:
    import numpy as np

    names = list(names)
    counts = np.bincount(codes, minlength=len(names))
    return {name: int(n) for name, n in zip(names, counts, strict=True)}


def _describe_column(column: pd.Series[Any]) -> Facts:
    """Type, gaps, and the values of a column or their range."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    facts: Facts = {"type": str(column.dtype), "n_missing": int(column.isna().sum())}
    counts = column.astype(object).value_counts()
    facts["n_values"] = len(counts)
    if len(counts) <= _MOST_VALUES:
        facts["values"] = {str(value): int(n) for value, n in counts.items()}
    elif is_numeric_dtype(column.dtype) and not is_bool_dtype(column.dtype):
        facts["range"] = [column.min(), column.max()]
    return facts


def _tell_columns(columns: Mapping[str, Facts]) -> list[tuple[str, str]]:
    lines = [
        (f"  {name}", _tell_column(facts) + (_ADDED if name.startswith(_OWN) else ""))
        for name, facts in columns.items()
    ]
    return [("columns of obs", ""), *lines] if lines else []


def _tell_column(facts: Facts) -> str:
    if "values" in facts:
        text = tell_counts(facts["values"])
    elif "range" in facts:
        low, high = facts["range"]
        text = f"{low:.6g} to {high:.6g}"
    else:
        text = f"{facts['n_values']:,} different values"
    return text + (f"; {facts['n_missing']:,} missing" if facts["n_missing"] else "")


def tell_counts(counts: Mapping[str, int]) -> str:
    """Names with their numbers, long lists cut short."""
    shown = [f"{name} {n:,}" for name, n in list(counts.items())[:_MOST_VALUES]]
    more = len(counts) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def _or_unknown(value: int | None, layout: str) -> str:
    return "not known without reading" if value is None else layout.format(value)


def lay_out(rows: Iterable[tuple[str, str]]) -> str:
    """Names and values in two columns; rows without a value are headings."""
    rows = [(name, value) for name, value in rows if value or not name.startswith(" ")]
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)
