"""Landmarks, neighbours, graph, clusters, layout and placing."""

from __future__ import annotations

import threading
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score
from tqdm.auto import tqdm

from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.embedding.embedding import embed
from tigon.scaling.embedding.graph import shared_neighbors
from tigon.scaling.embedding.landmarks import landmarks, quotas
from tigon.scaling.embedding.layout import _Told, umap_layout
from tigon.scaling.embedding.leiden import by_size, leiden
from tigon.scaling.embedding.neighbors import Neighbors, nearest, neighbors
from tigon.scaling.embedding.placing import place_coordinates, place_labels
from tigon.scaling.embedding.rows import gather
from tigon.scaling.embedding.space import to_space
from tigon.storage.errors import InputError
from tigon.storage.rows import ArrayRows

SHORT = dict(n_layout_epochs=20)


def islands(n: int = 400, *, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Loadings of cells of four types, two factors each, and the types."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 4, n)
    H = rng.gamma(1.0, 0.03, (n, 8))
    H[np.arange(n), 2 * types] += rng.gamma(8.0, 0.2, n)
    H[np.arange(n), 2 * types + 1] += rng.gamma(8.0, 0.1, n)
    return H.astype(np.float32), types


def points(n: int = 300, *, seed: int = 0) -> NDArray[np.float32]:
    return to_space(islands(n, seed=seed)[0])


def distances(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    differences = a[:, None, :].astype(np.float64) - b[None, :, :].astype(np.float64)
    return np.sqrt((differences**2).sum(axis=2))


class TestLandmarks:
    def test_few_cells_are_all_landmarks(self) -> None:
        codes = np.zeros(100, dtype=np.int32)
        assert np.array_equal(landmarks(codes, 100, seed=0), np.arange(100))

    def test_a_sample_is_sorted_unique_and_seeded(self) -> None:
        codes = np.repeat(np.arange(3, dtype=np.int32), (6000, 3000, 50))
        first = landmarks(codes, 1000, seed=0)
        assert len(first) == 1000
        assert (np.diff(first) > 0).all()
        assert np.array_equal(first, landmarks(codes, 1000, seed=0))
        assert not np.array_equal(first, landmarks(codes, 1000, seed=1))

    def test_small_datasets_keep_their_floor_and_large_ones_their_proportion(self) -> None:
        codes = np.repeat(np.arange(3, dtype=np.int32), (6000, 3000, 50))
        n = np.bincount(codes[landmarks(codes, 1000, seed=0)])
        # A floor of 1000 / (2 * 3) each, of which the third has but 50; what is left
        # goes to the other two in proportion to their other cells.
        left = 1000 - 2 * 166 - 50
        assert n[2] == 50
        assert n[0] == pytest.approx(166 + left * 5834 / (5834 + 2834), abs=1)
        assert n[1] == pytest.approx(166 + left * 2834 / (5834 + 2834), abs=1)

    def test_only_eligible_cells_are_chosen(self) -> None:
        codes = np.zeros(500, dtype=np.int32)
        eligible = np.arange(500) % 2 == 1
        assert (landmarks(codes, 100, seed=0, eligible=eligible) % 2 == 1).all()
        assert len(landmarks(codes, 400, seed=0, eligible=eligible)) == 250

    @pytest.mark.parametrize("sizes", [(10, 0, 7), (1000, 1, 1), (5, 5, 5, 5), (3333, 3333, 3334)])
    @pytest.mark.parametrize("wanted", [9, 100, 1001])
    def test_quotas_add_up_and_fit(self, sizes: tuple[int, ...], wanted: int) -> None:
        n = np.array(sizes)
        taken = quotas(n, wanted)
        assert taken.sum() == min(wanted, n.sum())
        assert ((taken >= 0) & (taken <= n)).all()


def test_rows_are_gathered_in_order() -> None:
    matrix = np.arange(40_000, dtype=np.float32).reshape(-1, 2)
    positions = np.array([0, 5, 16_383, 16_384, 19_999])
    assert np.array_equal(gather(ArrayRows(matrix), positions), matrix[positions])


def test_the_space_is_that_of_hellinger() -> None:
    H, _ = islands(50)
    H[3] = 0
    shares = H / np.maximum(H.sum(axis=1, keepdims=True), 1e-30)
    expected = distances(np.sqrt(shares), np.sqrt(shares))
    assert np.allclose(distances(to_space(H), to_space(H)), expected, atol=1e-6)
    assert (to_space(H)[3] == 0).all()


class TestNeighbors:
    def test_they_are_the_nearest(self) -> None:
        X = points()
        found = neighbors(X, 12)
        D = distances(X, X)
        np.fill_diagonal(D, np.inf)
        assert np.allclose(found.distances, np.sort(D, axis=1)[:, :12], atol=1e-4)
        assert (found.indices != np.arange(len(X))[:, None]).all()
        rows = np.arange(len(X))[:, None]
        assert np.allclose(D[rows, found.indices], found.distances, atol=1e-4)

    def test_duplicates_are_neighbours_of_each_other_not_of_themselves(self) -> None:
        X = np.repeat(points(3), 30, axis=0)
        found = neighbors(X, 5)
        assert (found.indices != np.arange(90)[:, None]).all()
        assert (found.indices // 30 == np.arange(90)[:, None] // 30).all()

    def test_fewer_cells_than_neighbours(self) -> None:
        assert neighbors(points(4), 20).indices.shape == (4, 3)
        assert neighbors(points(1), 20).indices.shape == (1, 0)
        assert nearest(points(2), points(300), 5).indices.shape == (2, 5)
        assert nearest(points(300)[:0], points(300), 5).indices.shape == (0, 5)


class TestGraph:
    def test_weights_are_jaccard_of_the_neighbourhoods(self) -> None:
        near = neighbors(points(), 10).indices
        sets = [{cell, *row} for cell, row in enumerate(near.tolist())]
        expected = {
            (a, b): len(sets[a] & sets[b]) / len(sets[a] | sets[b])
            for a in range(len(sets))
            for b in range(a + 1, len(sets))
        }
        expected = {pair: w for pair, w in expected.items() if w >= 1 / 15}
        graph = shared_neighbors(near)
        found = dict(zip(map(tuple, graph.edges.tolist()), graph.weights.tolist(), strict=True))
        assert found.keys() == expected.keys()
        assert all(found[pair] == pytest.approx(w, rel=1e-6) for pair, w in expected.items())

    def test_tiles_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        from tigon.scaling.embedding import graph

        near = neighbors(points(), 10).indices
        whole = shared_neighbors(near)
        monkeypatch.setattr(graph, "_TILE_CELLS", 7)
        tiled = shared_neighbors(near)
        order = np.lexsort(whole.edges.T[::-1])
        tiled_order = np.lexsort(tiled.edges.T[::-1])
        assert np.array_equal(whole.edges[order], tiled.edges[tiled_order])
        assert np.array_equal(whole.weights[order], tiled.weights[tiled_order])


class TestLeiden:
    def test_islands_are_found_and_numbered_by_size(self) -> None:
        H, types = islands(800)
        graph = shared_neighbors(neighbors(to_space(H), 20).indices).to_igraph()
        clusters = leiden(graph, 0.3, seed=0)
        assert adjusted_rand_score(types, clusters) > 0.99
        assert (np.diff(np.bincount(clusters)) <= 0).all()

    def test_the_seed_decides_and_igraph_is_left_as_it_was(self) -> None:
        import random

        graph = shared_neighbors(neighbors(points(800), 5).indices).to_igraph()
        first = leiden(graph, 3.0, seed=0)
        random.seed(1)
        before = random.random()
        random.seed(1)
        assert np.array_equal(first, leiden(graph, 3.0, seed=0))
        assert random.random() == before, "the global generator was drawn from"

    def test_numbers_by_size_then_first_cell(self) -> None:
        assert by_size(np.array([7, 3, 3, 9, 9, 5])).tolist() == [2, 0, 0, 1, 1, 3]

    def test_cells_without_edges_are_clusters_of_their_own(self) -> None:
        graph = shared_neighbors(np.empty((3, 0), dtype=np.int32)).to_igraph()
        assert leiden(graph, 1.0, seed=0).tolist() == [0, 1, 2]


class TestLayout:
    def test_islands_stay_apart_and_the_seed_decides(self) -> None:
        H, types = islands(400)
        X = to_space(H)
        near = neighbors(X, 15)
        layout = umap_layout(X, near, seed=0, n_epochs=100)
        assert layout.shape == (400, 2)
        assert layout.dtype == np.float32
        spot = nearest(layout, layout, 11).indices[:, 1:]
        assert (types[spot] == types[:, None]).mean() > 0.98
        assert np.array_equal(layout, umap_layout(X, near, seed=0, n_epochs=100))

    def test_what_is_compiled_for_the_graph_is_kept(self) -> None:
        from umap.umap_ import compute_membership_strengths, smooth_knn_dist

        X = points(100)
        umap_layout(X, neighbors(X, 15), seed=0, n_epochs=1)
        for kernel in (smooth_knn_dist, compute_membership_strengths):
            kept = {path.name for path in Path(kernel.stats.cache_path).iterdir()}
            name = f"{kernel.py_func.__module__.split('.')[-1]}.{kernel.py_func.__name__}-"
            assert any(other.startswith(name) and other.endswith(".nbc") for other in kept)

    def test_epochs_are_told(self, capfd: pytest.CaptureFixture[str]) -> None:
        X = points(3000)
        near, told = neighbors(X, 15), []

        def tell(stage: str, done: int, total: int, **_: float) -> None:
            told.append((stage, done, total))

        layout = umap_layout(X, near, seed=0, n_epochs=150, progress=tell)
        assert {(stage, total) for stage, _, total in told} == {("layout (epochs)", 150)}
        done = [done for _, done, _ in told]
        assert done == sorted(set(done))
        assert (done[0], done[-1]) == (0, 150)
        assert np.array_equal(layout, umap_layout(X, near, seed=0, n_epochs=150))
        assert capfd.readouterr() == ("", "")

    def test_each_epoch_can_be_told_and_what_fails_is_raised_at_the_end(self) -> None:
        told: list[int] = []

        def tell(stage: str, done: int, total: int, **_: float) -> None:
            told.append(done)
            if done == 7:
                raise ValueError("the file is closed")  # which tqdm takes for its own

        bar = _Told(tell, 10)
        at_once = bar.options() | {"mininterval": 0, "miniters": 1}
        assert list(tqdm(range(10), **at_once)) == list(range(10))
        assert told == list(range(8))
        with pytest.raises(ValueError, match="the file is closed"):
            bar.end()
        other = threading.Thread(target=lambda: list(tqdm([1], file=StringIO())), daemon=True)
        other.start()
        other.join(20)
        assert not other.is_alive()  # bars of other threads go on

    @pytest.mark.parametrize("n", [0, 1, 3, 5])
    def test_a_handful_of_cells_has_a_layout(self, n: int) -> None:
        X = points(300)[:n]
        layout = umap_layout(X, neighbors(X, 15), seed=0, n_epochs=5)
        assert layout.shape == (n, 2)
        assert np.isfinite(layout).all()

    def test_cells_that_coincide_are_no_obstacle(self) -> None:
        X = np.repeat(points(300)[:2], 40, axis=0)
        layout = umap_layout(X, neighbors(X, 10), seed=0, n_epochs=5)
        assert np.isfinite(layout).all()

    def test_one_factor_is_enough(self) -> None:
        X = np.ones((30, 1), dtype=np.float32)
        assert np.isfinite(umap_layout(X, neighbors(X, 10), seed=0, n_epochs=5)).all()


class TestPlacing:
    def test_the_heaviest_label_wins(self) -> None:
        near = Neighbors(
            np.array([[0, 1, 2], [2, 1, 0]], dtype=np.int32),
            np.array([[0.0, 1.0, 1.0], [0.5, 0.5, 0.5]], dtype=np.float32),
        )
        labels = np.array([3, 1, 1], dtype=np.int32)
        # 1 against 2/e, then 1 against 2 of equal weight.
        assert place_labels(near, labels).tolist() == [3, 1]

    def test_coordinates_are_a_mean_over_the_same_label(self) -> None:
        near = Neighbors(
            np.array([[0, 1, 2]], dtype=np.int32), np.array([[1.0, 1.0, 1.0]], dtype=np.float32)
        )
        spots = np.array([[0, 0], [2, 4], [100, 100]], dtype=np.float32)
        labels = np.array([0, 0, 1], dtype=np.int32)
        placed = place_coordinates(near, spots, labels, np.array([0], dtype=np.int32))
        assert np.allclose(placed, [[1, 2]])

    def test_a_landmark_on_the_spot(self) -> None:
        near = Neighbors(np.zeros((1, 2), dtype=np.int32), np.zeros((1, 2), dtype=np.float32))
        spots, labels = np.array([[5, 6]], dtype=np.float32), np.array([0], dtype=np.int32)
        placed = place_coordinates(near, spots, labels, place_labels(near, labels))
        assert np.allclose(placed, [[5, 6]])


def run(
    H: NDArray[np.float32], config: EmbedConfig, **options: int
) -> tuple[NDArray[np.int32], NDArray[np.float32], NDArray[np.int64]]:
    written: list[NDArray[np.float32]] = []
    clusters, among, _ = embed(
        ArrayRows(to_space(H)),
        np.zeros(len(H), dtype=np.int32),
        (H > 0).any(axis=1),
        config,
        0,
        lambda start, rows: written.append(rows),
        **options,
    )
    return clusters, np.concatenate(written), among.positions


def test_the_rest_is_placed_where_it_belongs() -> None:
    H, types = islands(3000)
    clusters, layout, positions = run(H, EmbedConfig(n_landmarks=500, **SHORT))
    assert len(positions) == 500
    rest = np.setdiff1d(np.arange(3000), positions)
    assert adjusted_rand_score(types[rest], clusters[rest]) > 0.99
    assert np.isfinite(layout).all()
    spot = nearest(layout[rest], layout[positions], 5).indices
    assert (types[positions][spot] == types[rest][:, None]).mean() > 0.97


def test_threads_and_tiles_leave_the_result_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    from tigon.scaling.embedding import rows

    H, _ = islands(2000)
    config = EmbedConfig(n_landmarks=500, **SHORT)
    clusters, layout, _ = run(H, config)
    monkeypatch.setattr(rows.tiles, "__defaults__", (177,))
    tiled, tiled_layout, _ = run(H, config, n_threads=2)
    assert np.array_equal(clusters, tiled)
    # Distances come from matrix products, whose last bits follow the shape.
    assert np.allclose(layout, tiled_layout, atol=1e-3)


def test_cells_without_loadings_are_in_no_cluster_and_on_the_page() -> None:
    H, _ = islands(400)
    H[::40] = 0
    clusters, layout, positions = run(H, EmbedConfig(**SHORT))
    assert (clusters[::40] == -1).all()
    assert (np.delete(clusters, np.s_[::40]) >= 0).all()
    assert np.isfinite(layout).all()
    assert not np.isin(np.arange(0, 400, 40), positions).any()
    others = np.delete(layout, np.s_[::40], axis=0)
    assert (layout[::40] <= others.min(axis=0)).all()


def test_no_cell_with_loadings() -> None:
    clusters, layout, positions = run(np.zeros((5, 3), dtype=np.float32), EmbedConfig(**SHORT))
    assert clusters.tolist() == [-1] * 5
    assert layout.tolist() == [[0, 0]] * 5
    assert len(positions) == 0


def test_without_a_layout_nothing_is_written() -> None:
    H, types = islands(300)

    def write(start: int, rows: NDArray[np.float32]) -> None:
        raise AssertionError("a layout was written")

    codes, assigned = np.zeros(300, dtype=np.int32), np.ones(300, dtype=bool)
    clusters, among, _ = embed(
        ArrayRows(to_space(H)), codes, assigned, EmbedConfig(umap=False), 0, write
    )
    assert among.coordinates is None
    assert adjusted_rand_score(types, clusters) > 0.99


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_landmarks=5), "n_landmarks is too small"),
        (dict(n_landmarks=10**6), "n_landmarks is too large"),
        (dict(n_neighbors=1), "n_neighbors is too small"),
        (dict(resolution=0.0), "resolution is not positive"),
        (dict(min_dist=2.0), "min_dist is out of range"),
        (dict(n_layout_epochs=0), "n_layout_epochs is too small"),
    ],
)
def test_options_are_refused_early(change: dict[str, float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        EmbedConfig(**change)
