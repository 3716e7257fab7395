"""The report page: one file that needs nothing else, not even a network."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import numpy as np

from tigon.factor_calls import listed
from tigon.report.components import describe_components
from tigon.report.factors import MAX_DOTS, cell_shares, describe_factors, mean_shares
from tigon.report.facts import (
    Groups,
    describe_datasets,
    describe_scores,
    group_run,
    owned_clusters,
)
from tigon.report.figures import draw_composition, draw_heatmap, draw_history, kind_of_steps
from tigon.report.grouping import Grouping, printable
from tigon.report.scatter import draw_cells, scatter
from tigon.report.template import fill_in
from tigon.scaling.factors.dropping import kept_factors
from tigon.scaling.recalling import shared_genes
from tigon.storage.publish import published
from tigon.storage.runs.run import Run
from tigon.unscored import count_unscored, tell_unscored
from tigon.wording import HEADLINE, METHODS, tell_added, tell_consensus, tell_settings

log = logging.getLogger("tigon")


def write_report(
    run: Run | str | Path,
    out: str | Path,
    *,
    label_key: str | None = None,
    overwrite: bool = False,
    seed: int = 0,
) -> Path:
    """Write the report page of a run.

    Parameters
    ----------
    run
        The run, or where it is.
    out
        The page to make, an HTML file.
    label_key
        Column of ``obs`` to show as labels. None: the ``label_key`` of the
        run's configuration, where it has one.
    overwrite
        Replace a page that is already there.
    seed
        Of the order in which points are drawn, and of their sample.

    Returns
    -------
    Path
        Where the page is.

    Raises
    ------
    OutputExistsError
        ``out`` exists and ``overwrite`` is False.
    InputError
        There is no run, or it has no column ``label_key``.

    Notes
    -----
    Warns where ``label_key`` is given and the run has no picture to colour.
    Two passes over the loadings and one over the picture. Pictures show at most
    100,000 cells, and say so.
    """
    run = run if isinstance(run, Run) else Run.open(run)
    # Principal components are a picture themselves.
    if run.has_factors and label_key is not None and "X_umap" not in run.obsm_names:
        log.warning(
            "the labels of %s are not shown: they colour the picture of the cells, and %s has "
            "none; `tigon integrate` draws one unless --no-umap is given",
            label_key,
            run.path,
        )
    with published(out, overwrite=overwrite) as aside:
        aside.write_text(render(run, label_key=label_key, seed=seed), encoding="utf-8")
    return Path(out)


def render(run: Run, *, label_key: str | None = None, seed: int = 0) -> str:
    """The page as text."""
    groups = group_run(run, label_key)
    every = {**_describe_run(run, groups), "pictures": _draw_pictures(run, groups, seed)}
    if not run.has_factors:
        clusters = _describe_composition(groups.clusters, groups.datasets)
        found = {**clusters, **describe_components(run, groups, seed)}
        return fill_in("components.html", **every, aligned=False, **found)
    return fill_in(
        "page.html",
        **every,
        **_describe_fit(run),
        objective_figure=draw_history(run.history),
        **_describe_factors(run, groups),
    )


def _describe_run(run: Run, groups: Groups) -> dict[str, Any]:
    scores = describe_scores(run.scores)
    shared = shared_genes(run)
    timings = sorted(run.timings_s.items(), key=lambda item: -item[1])
    return {
        "title": printable(run.path.name),
        "command": printable(run.command),
        "n_cells": len(run.obs),
        "n_genes": len(run.genes),
        "n_unshared": 0 if shared is None else int((~shared).sum()),
        "groups": groups,
        "datasets": describe_datasets(run, groups.datasets),
        "notices": [printable(notice) for notice in run.notices],
        "scores": list(scores.values()),
        "headline": [
            scores[name] for name in HEADLINE if not math.isnan(run.scores.get(name, math.nan))
        ],
        "unscored": printable(tell_unscored(count_unscored(run))),
        "config": _settings(run),
        "versions": sorted(run.versions.items()),
        "timings": timings,
        "total_s": sum(run.timings_s.values()),
        "peak_bytes": run.peak_memory_bytes,
        "limit_bytes": run.memory_limit_bytes,
    }


def _describe_fit(run: Run) -> dict[str, Any]:
    return {
        "steps": kind_of_steps(run.history),
        "n_components": len(run.W),
        "objective": run.objective,
        "consensus": tell_consensus(run.consensus) if run.consensus else "",
        "stability": run.consensus.get("stability", []),
    }


def _settings(run: Run) -> list[tuple[str, str]]:
    return [(printable(name), printable(value)) for name, value in tell_settings(run.config)]


def _draw_pictures(run: Run, groups: Groups, seed: int) -> list[dict[str, Any]]:
    """The layouts that the run has, each by dataset, cluster and label."""
    inside = (groups.clusters, *groups.added)
    shown = [
        (grouping, any(grouping is each for each in inside)) for grouping in groups.coloured_by
    ]
    return [
        _draw_layout(run, method, shown, seed)
        for method in METHODS
        if f"X_{method}" in run.obsm_names
    ]


def _draw_layout(
    run: Run, method: str, shown: list[tuple[Grouping, bool]], seed: int
) -> dict[str, Any]:
    name, title = f"X_{method}", METHODS[method]
    points = draw_cells(run.obsm(name), seed)
    made = run.config.get("layouts", {}).get(name)
    return {
        "method": method,
        "title": title,
        "made": "" if made is None else printable(tell_added(made)),
        "n_points": len(points.cells),
        "panels": [
            (grouping, scatter(points, grouping, layout=title, names_inside=inside))
            for grouping, inside in shown
        ],
    }


def _describe_factors(run: Run, groups: Groups) -> dict[str, Any]:
    by = groups.clusters or groups.datasets
    aligned = "X_inmf_aligned" in run.obsm_names
    listing = listed(run, n_threads=1)
    kept = kept_factors(len(run.W), listing.dropped if aligned else ())
    moved = run.config.get("align", {}).get("align") != "none"
    shares = mean_shares(cell_shares(run, aligned=aligned), len(kept), by)
    means = np.zeros((len(by.names), len(run.W)))
    means[:, kept] = shares
    return {
        "aligned": aligned and moved,
        "by": by,
        "max_dots": MAX_DOTS,
        "factors": describe_factors(run, listing, groups.datasets, by, means),
        "heatmap": draw_heatmap(shares, by, kept),
        **_describe_composition(groups.clusters, groups.datasets),
    }


def _describe_composition(clusters: Grouping | None, datasets: Grouping) -> dict[str, Any]:
    if clusters is None or len(datasets.names) == 1:
        return {"composition": None, "owned": []}
    return {
        "composition": draw_composition(clusters, datasets),
        "owned": owned_clusters(clusters, datasets),
    }
