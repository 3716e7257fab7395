"""From the loadings of all cells to aligned points, clusters, layout and scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.aligning import align
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.alignment.overcorrection import MERGED
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.embedding.embedding import SAMPLED, embed
from tigon.scaling.embedding.scores import scores
from tigon.scaling.factors.dropping import factor_number
from tigon.storage.progress import Progress, silent, whole_stage
from tigon.storage.rows import RowFile, RowReader

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine

log = logging.getLogger("tigon")


@dataclass(frozen=True, slots=True)
class Arranged:
    """Cells as a run shows them.

    Attributes
    ----------
    aligned
        Points of the space of ``tigon.scaling.embedding.space``, float32, (n, k).
    layout
        Coordinates, float32, (n, 2); None where none were asked for.
    clusters
        Cluster of each cell, int32, (n,); -1 without loadings.
    landmarks
        Positions of the cells that were clustered and laid out, int64.
    scores
        Scores by name; none without labels.
    """

    aligned: RowFile
    layout: RowFile | None
    clusters: NDArray[np.int32]
    landmarks: NDArray[np.int64]
    scores: dict[str, float]


def lasting(notices: Sequence[str]) -> list[str]:
    """Notices of a run that still hold when its cells are arranged anew."""
    return [notice for notice in notices if not notice.startswith((MERGED, SAMPLED))]


def arrange_cells(
    loadings: RowReader,
    codes: NDArray[np.int32],
    names: Sequence[str],
    labels: NDArray[np.str_] | None,
    align_config: AlignConfig,
    embed_config: EmbedConfig,
    seed: int,
    folder: Path,
    engine: ThreadEngine,
    progress: Progress = silent,
) -> Arranged:
    """Align, cluster and lay out all cells.

    Parameters
    ----------
    loadings
        H, float32, shape (n, k).
    codes, names
        Dataset of each cell, int32, shape (n,), and the names of the datasets.
    labels
        Known label of each cell, "" for none; None for no scores.
    align_config, embed_config, seed
        Options.
    folder
        An existing folder, for points and layout.
    engine, progress
        Where it runs and who is told.

    Notes
    -----
    The passes of the alignment over the loadings, two more over the points.
    """
    aligned = RowFile(folder / "aligned", (len(codes), loadings.shape[1]))
    layout = RowFile(folder / "layout", (len(codes), 2)) if embed_config.umap else None
    joint = align_cells(loadings, codes, names, align_config, seed, engine, aligned, progress)
    some = None if labels is None else labels.__getitem__
    clusters, at, scored = embed_cells(
        aligned, codes, joint >= 0, some, embed_config, seed, engine, layout, progress
    )
    return Arranged(aligned, layout, clusters, at, scored)


def align_cells(
    loadings: RowReader,
    codes: NDArray[np.int32],
    names: Sequence[str],
    config: AlignConfig,
    seed: int,
    engine: ThreadEngine,
    aligned: RowFile,
    progress: Progress,
) -> NDArray[np.int32]:
    """Joint clusters, int32, shape (n,), -1 for cells without loadings; writes ``aligned``.

    Warns of groups that the alignment may have merged with cells that they are not like.
    """
    found = align(loadings, codes, len(names), config, seed, engine, aligned.write, progress)
    for group in found.merged:
        factor = factor_number(loadings, group.factor)
        log.warning(group.warning(names[group.dataset], factor))
    return found.joint_clusters


def embed_cells(
    aligned: RowFile,
    codes: NDArray[np.int32],
    assigned: NDArray[np.bool_],
    labels: Callable[[NDArray[np.int64]], NDArray[np.str_]] | None,
    config: EmbedConfig,
    seed: int,
    engine: ThreadEngine,
    layout: RowFile | None,
    progress: Progress,
) -> tuple[NDArray[np.int32], NDArray[np.int64], dict[str, float]]:
    """Clusters of all cells, positions of the landmarks, and scores if there are labels.

    ``labels`` gives the known labels of cells at some positions; coordinates go to ``layout``.
    """

    def write_layout(start: int, rows: NDArray[np.float32]) -> None:
        assert layout is not None, "it is asked for"
        layout.write(start, rows)

    n_threads = engine.n_threads
    clusters, among, graph = embed(
        aligned, codes, assigned, config, seed, write_layout, progress, n_threads=n_threads
    )
    at = among.positions
    if labels is None:
        return clusters, at, {}
    with whole_stage(progress, "scores", len(at)):
        scored = scores(
            among.points,
            graph,
            codes[at],
            among.clusters,
            labels(at),
            seed=seed,
            n_threads=n_threads,
        )
    return clusters, at, scored
