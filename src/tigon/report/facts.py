"""What the page says about a run, gathered before it is laid out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from tigon.report.figures import cross_table
from tigon.report.grouping import Grouping, group_cells
from tigon.storage.errors import InputError
from tigon.storage.runs.run import Run
from tigon.wording import known_scores

# A dataset that holds this share of a cluster, from less than half of all cells, is named.
_OWN_SHARE = 0.9


@dataclass(frozen=True)
class Groups:
    """The groupings of the cells that the page shows; None where the run has none.

    ``added`` are columns of clusters that were added to the run.
    """

    datasets: Grouping
    clusters: Grouping | None
    labels: Grouping | None
    added: tuple[Grouping, ...] = ()

    @property
    def coloured_by(self) -> list[Grouping]:
        """What pictures of the cells are coloured by; one dataset is no colour."""
        others = [each for each in (self.clusters, *self.added, self.labels) if each is not None]
        if len(self.datasets.names) > 1:
            return [self.datasets, *others]
        return others or [replace(self.datasets, title="")]


def group_run(run: Run, label_key: str | None) -> Groups:
    """The datasets, clusters and labels of a run.

    Parameters
    ----------
    run
        The run.
    label_key
        Column of ``obs`` with labels. None: the one that the run was scored with.

    Raises
    ------
    InputError
        The column is not there.
    """
    obs = run.obs
    if label_key is not None and label_key not in obs:
        raise InputError(
            f"the run has no column {label_key!r} to show as labels: "
            f"choose one of {', '.join(map(str, obs.columns))}"
        )
    key = label_key or run.config.get("label_key")
    clusters = group_cells("cluster", obs["tigon_cluster"]) if "tigon_cluster" in obs else None
    return Groups(
        datasets=group_cells("dataset", _dataset_column(run), run.datasets),
        clusters=clusters,
        labels=group_cells(str(key), obs[key]) if key in obs else None,
        added=tuple(
            group_cells(name, obs[name])
            for name in run.config.get("clusterings", {})
            if name in obs and name not in ("tigon_cluster", key)
        ),
    )


def _dataset_column(run: Run) -> pd.Series[Any]:
    if "tigon_dataset" in run.obs:
        return run.obs["tigon_dataset"]
    return pd.Series(run.datasets[0], index=run.obs.index)


def describe_datasets(run: Run, datasets: Grouping) -> list[dict[str, Any]]:
    """Cells, share and typical depth of every dataset."""
    obs = run.obs
    depths = [name for name in ("total_counts", "n_genes_by_counts") if name in obs]
    medians = obs[depths].groupby(datasets.codes).median().to_numpy(dtype=float)
    return [
        {
            "name": name,
            "colour": colour,
            "n_cells": size,
            "share": size / len(obs),
            "depths": medians[code].tolist(),
        }
        for code, (name, colour, size) in enumerate(
            zip(datasets.names, datasets.colours, datasets.sizes.tolist(), strict=True)
        )
    ]


def owned_clusters(clusters: Grouping, datasets: Grouping) -> list[str]:
    """Sentences that name clusters which come nearly all from one dataset."""
    table = cross_table(clusters, datasets)
    top = table.argmax(axis=1)
    sentences = []
    for row, (name, size) in enumerate(zip(clusters.names, clusters.sizes.tolist(), strict=True)):
        owner = int(top[row])
        share = table[row, owner] / size
        if share >= _OWN_SHARE and datasets.sizes[owner] < 0.5 * len(datasets.codes):
            sentences.append(
                f"Cluster {name}: {share:.0%} of its {size:,} cells are from "
                f"{datasets.names[owner]}."
            )
    return sentences


def describe_scores(scores: Mapping[str, float]) -> dict[str, tuple[str, str, str]]:
    """(name, value, meaning) of every score."""
    return {
        key: (score.name, score.tell(scores[key]), score.meaning)
        for key, score in known_scores(scores).items()
    }
