"""Neighbours, clusters and layout of all cells.

Up to twice ``n_landmarks`` cells all are landmarks: they get a graph of shared
neighbours, Leiden clusters and a UMAP layout. Above, a sample of them does, and
the rest is placed among the landmarks in one pass. Cells without loadings are in
no cluster (-1) and lie together in a corner of the layout.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.embedding.graph import SharedNeighbors, shared_neighbors
from tigon.scaling.embedding.landmarks import landmarks
from tigon.scaling.embedding.layout import umap_layout
from tigon.scaling.embedding.leiden import leiden
from tigon.scaling.embedding.neighbors import Neighbors, nearest, neighbors
from tigon.scaling.embedding.placing import place_coordinates, place_labels
from tigon.scaling.embedding.rows import WriteRows, gather, read_tile, tiles, within
from tigon.scaling.memory import give_back
from tigon.storage.progress import Progress, silent, whole_stage
from tigon.storage.rows import RowReader

log = logging.getLogger("tigon")

UNASSIGNED = -1
"""Cluster of a cell without loadings."""

SAMPLED = "clusters and layout are of a sample"
"""What the notice of landmarks begins with."""


@dataclass(frozen=True, slots=True)
class Landmarks:
    """The landmarks and what the other cells are placed by.

    Attributes
    ----------
    positions
        Positions among all cells, ascending, int64, shape (m,).
    points
        The cells as points, float32, shape (m, k).
    clusters
        Leiden clusters, the largest 0, int32, shape (m,).
    coordinates
        Layout, float32, shape (m, 2); None where none was asked for.
    """

    positions: NDArray[np.int64]
    points: NDArray[np.float32]
    clusters: NDArray[np.int32]
    coordinates: NDArray[np.float32] | None


def embed(
    rows: RowReader,
    dataset_codes: NDArray[np.int32],
    assigned: NDArray[np.bool_],
    config: EmbedConfig,
    seed: int,
    write: WriteRows,
    progress: Progress = silent,
    *,
    n_threads: int = 1,
) -> tuple[NDArray[np.int32], Landmarks, SharedNeighbors]:
    """Cluster all cells, and write their coordinates.

    Parameters
    ----------
    rows
        Cells as points of the space of ``tigon.scaling.embedding.space``,
        float32, shape (n_cells, k).
    dataset_codes
        Dataset of each cell, int32, shape (n_cells,).
    assigned
        Which cells have loadings, bool, shape (n_cells,).
    config
        Options.
    seed
        Decides landmarks, clusters and layout.
    write
        Takes the coordinates, float32, two columns, in order; not called where
        no layout was asked for.
    progress
        Told of the cells of each stage.
    n_threads
        Threads of the search for neighbours.

    Returns
    -------
    clusters
        Cluster of each cell, int32, shape (n_cells,); -1 without loadings.
    landmarks
        The landmarks and what was found on them.
    graph
        Their shared neighbours.
    """
    chosen = choose_landmarks(dataset_codes, assigned, config.n_landmarks, seed)
    points = gather(rows, chosen)
    m = len(points)
    near = find_neighbors(points, config.n_neighbors, progress, n_threads=n_threads)
    with whole_stage(progress, "clusters", m):
        graph = shared_neighbors(near.indices)
        found = leiden(graph.to_igraph(), config.resolution, seed=seed)
    give_back()
    coordinates = None
    if config.umap:
        coordinates = umap_layout(
            points,
            near,
            seed=seed,
            min_dist=config.min_dist,
            n_epochs=config.n_layout_epochs,
            progress=progress,
        )
    among = Landmarks(chosen, points, found, coordinates)
    clusters = place_cells(
        rows, assigned, among, config.n_placing, write, progress, n_threads=n_threads
    )
    return clusters, among, graph


def choose_landmarks(
    dataset_codes: NDArray[np.int32],
    assigned: NDArray[np.bool_],
    n_landmarks: int,
    seed: int,
    *,
    sampled: str = SAMPLED,
) -> NDArray[np.int64]:
    """Positions of the landmarks; tells when they are a sample, and what is of them."""
    n = int(assigned.sum())
    if n <= 2 * n_landmarks:
        return np.flatnonzero(assigned)
    log.warning(
        "%s of %s of %s cells; the others are placed among them",
        sampled,
        f"{n_landmarks:,}",
        f"{n:,}",
    )
    return landmarks(dataset_codes, n_landmarks, seed=seed, eligible=assigned)


def find_neighbors(
    points: NDArray[np.float32], n_neighbors: int, progress: Progress, *, n_threads: int
) -> Neighbors:
    """Nearest other landmarks of each, told as a stage."""
    with whole_stage(progress, "neighbours", len(points)):
        return neighbors(points, n_neighbors, n_threads=n_threads)


def place_cells(
    rows: RowReader,
    assigned: NDArray[np.bool_],
    among: Landmarks,
    n_placing: int,
    write: WriteRows,
    progress: Progress = silent,
    *,
    n_threads: int = 1,
) -> NDArray[np.int32]:
    """Clusters of all cells, int32, shape (n_cells,), -1 for those without loadings; one pass.

    Landmarks keep theirs, the others are placed among ``n_placing`` of them; coordinates, where
    landmarks have any, go to ``write`` in order.
    """
    n = rows.shape[0]
    clusters = np.full(n, UNASSIGNED, dtype=np.int32)
    for start, stop in tiles(n):
        clusters[start:stop], coordinates = _place(
            rows, start, assigned[start:stop], among, n_placing, n_threads
        )
        if coordinates is not None:
            write(start, coordinates)
        progress("placing cells", stop, n)
    return clusters


def _place(
    rows: RowReader,
    start: int,
    assigned: NDArray[np.bool_],
    among: Landmarks,
    n_placing: int,
    n_threads: int,
) -> tuple[NDArray[np.int32], NDArray[np.float32] | None]:
    """Clusters (n,) and coordinates (n, 2) of a tile: landmarks keep theirs."""
    stop = start + len(assigned)
    own = within(among.positions, start, stop)
    at = among.positions[own] - start
    others = assigned.copy()
    others[at] = False
    points = read_tile(rows, start, stop)[others]
    near = nearest(points, among.points, n_placing, n_threads=n_threads)
    clusters = np.full(len(assigned), UNASSIGNED, dtype=np.int32)
    clusters[at] = among.clusters[own]
    clusters[others] = placed = place_labels(near, among.clusters)
    if among.coordinates is None:
        return clusters, None
    coordinates = np.tile(_corner(among.coordinates), (len(assigned), 1))
    coordinates[at] = among.coordinates[own]
    coordinates[others] = place_coordinates(near, among.coordinates, among.clusters, placed)
    return clusters, coordinates


def _corner(coordinates: NDArray[np.float32]) -> NDArray[np.float32]:
    """Where cells without loadings lie: beside the layout, float32, shape (2,)."""
    if not len(coordinates):
        return np.zeros(2, dtype=np.float32)
    corner: NDArray[np.float32] = coordinates.min(axis=0) - 0.05 * np.ptp(coordinates, axis=0)
    return corner
