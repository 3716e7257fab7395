"""From the loadings of all cells to aligned points, clusters, layout and scores."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.aligning import align
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.embedding.embedding import embed
from tigon.scaling.embedding.scores import scores
from tigon.scaling.embedding.space import to_space
from tigon.storage.progress import Progress, silent, whole_stage
from tigon.storage.rows import RowFile, RowReader

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine


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


def arrange_cells(
    loadings: RowReader,
    codes: NDArray[np.int32],
    n_datasets: int,
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
    codes, n_datasets
        Dataset of each cell, int32, shape (n,), and how many there are.
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
    Six passes over the loadings, one more over the points.
    """
    n = len(codes)
    aligned = RowFile(folder / "aligned", (n, loadings.shape[1]))
    layout = RowFile(folder / "layout", (n, 2)) if embed_config.umap else None

    def write_points(start: int, rows: NDArray[np.float32]) -> None:
        aligned.write(start, to_space(rows))

    def write_layout(start: int, rows: NDArray[np.float32]) -> None:
        assert layout is not None, "it is asked for"
        layout.write(start, rows)

    joint = align(
        loadings, codes, n_datasets, align_config, seed, engine, write_points, progress
    ).joint_clusters
    clusters, among = embed(
        aligned,
        codes,
        joint >= 0,
        embed_config,
        seed,
        write_layout,
        progress,
        n_threads=engine.n_threads,
    )
    at, scored = among.positions, dict[str, float]()
    if labels is not None:
        with whole_stage(progress, "scores", len(at)):
            scored = scores(
                among.points,
                among.graph,
                codes[at],
                among.clusters,
                labels[at],
                seed=seed,
                n_threads=engine.n_threads,
            )
    return Arranged(aligned, layout, clusters, at, scored)
