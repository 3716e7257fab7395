"""Alignment: joint clusters and quantile normalisation, and what all methods share."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

from tigon.scaling.alignment.aligning import AlignmentResult, align
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.alignment.passes import Passes
from tigon.scaling.alignment.quantile_mapping import find_maps, mapped_loadings
from tigon.scaling.alignment.scales import scales
from tigon.scaling.embedding import rows as rows_module
from tigon.scaling.engine import ThreadEngine
from tigon.storage.errors import InputError
from tigon.storage.progress import silent
from tigon.storage.rows import ArrayRows

Loadings = NDArray[np.float32]
Codes = NDArray[np.int32]

K = 6


def planted(n: int = 600, *, seed: int = 0, shift: float = 3.0) -> tuple[Loadings, Codes]:
    """Two datasets of three types, a factor each; the second's loadings stretched and raised."""
    rng = np.random.default_rng(seed)
    types = rng.integers(0, 3, n)
    codes = rng.integers(0, 2, n).astype(np.int32)
    H = rng.gamma(100.0, 0.001, (n, K))  # narrow, so that no unused factor is the strongest
    H[np.arange(n), types] += rng.gamma(40.0, 0.05, n)
    second = codes == 1
    H[second] *= rng.uniform(1.5, shift, K)
    H[second, 3] += 0.6
    return H.astype(np.float32), codes


@dataclass(frozen=True)
class Mapped:
    """What quantile maps found."""

    joint_clusters: NDArray[np.int32]
    scale: NDArray[np.float64]
    mapped: NDArray[np.bool_]


def run(
    H: Loadings, codes: Codes, config: AlignConfig | None = None, *, seed: int = 0
) -> tuple[Loadings, Mapped]:
    """Loadings mapped by quantiles."""
    with ThreadEngine(1) as engine:
        passes = Passes(ArrayRows(H), codes, np.bincount(codes), engine, silent)
        scale = scales(passes)
        found = find_maps(passes, scale, config or AlignConfig(align="quantile"), seed)
        mapped = [rows for _, rows in passes.run("", mapped_loadings(passes, scale, found))]
    result = Mapped(found.joint_clusters, scale.overall, found.maps.group > 0)
    return np.concatenate(mapped), result


def aligned_points(
    H: Loadings, codes: Codes, config: AlignConfig, seed: int = 0
) -> tuple[Loadings, AlignmentResult]:
    """Points as they are written."""
    points = np.full_like(H, np.nan)

    def write(start: int, rows: Loadings) -> None:
        points[start : start + len(rows)] = rows

    with ThreadEngine(1) as engine:
        result = align(
            ArrayRows(H), codes, int(codes.max()) + 1, config, seed, engine, write, silent
        )
    assert not np.isnan(points).any()
    return points, result


def gap(loadings: Loadings, codes: Codes, clusters: NDArray[np.int32]) -> float:
    """Largest difference between datasets of the quartiles of a factor in a cluster."""
    differences = [
        np.abs(
            np.quantile(loadings[(clusters == j) & (codes == 0)], (0.25, 0.5, 0.75), axis=0)
            - np.quantile(loadings[(clusters == j) & (codes == 1)], (0.25, 0.5, 0.75), axis=0)
        ).max()
        for j in range(3)
    ]
    return float(max(differences))


def test_a_planted_shift_is_aligned() -> None:
    H, codes = planted()
    aligned, result = run(H, codes)
    scaled = H / result.scale.astype(np.float32)
    before = gap(scaled, codes, result.joint_clusters)
    after = gap(aligned, codes, result.joint_clusters)
    assert before > 0.5
    # Quartiles of ~100 cells read off 50 pieces.
    assert after < 0.05


def test_one_dataset_is_only_scaled() -> None:
    H, _ = planted()
    aligned, result = run(H, np.zeros(len(H), dtype=np.int32))
    assert np.array_equal(aligned, H / result.scale.astype(np.float32))
    assert not result.mapped.any()
    assert np.allclose(np.square(aligned).mean(axis=0), 1, rtol=1e-5)


def test_a_private_cluster_is_not_erased() -> None:
    """Cells of one dataset, strong in a factor that the other never uses."""
    H, codes = planted()
    private = np.flatnonzero(codes == 1)[:60]
    H[:, 5] = 0
    H[private] = 0
    H[private, 5] = np.random.default_rng(1).gamma(40.0, 0.05, 60)
    aligned, result = run(H, codes)
    assert (result.joint_clusters[private] == 5).all()
    assert np.array_equal(aligned[private], H[private] / result.scale.astype(np.float32)), (
        "nothing to map onto, so nothing may change"
    )


@pytest.mark.parametrize("reference", [None, 0, 1])
def test_a_factor_that_the_reference_lacks_stays(reference: int | None) -> None:
    """In a shared cluster, one dataset does not use a factor that the other does."""
    H, codes = planted()
    H[codes == 0, 4] = 0
    aligned, result = run(H, codes, AlignConfig(align="quantile", reference=reference))
    used = (codes == 1) & (H[:, 4] > 0)
    assert result.mapped.sum() >= 3
    assert (aligned[used, 4] > 0).mean() > 0.98  # the smallest may tie with zero
    if reference == 0:
        assert np.array_equal(aligned[used, 4], H[used, 4] / np.float32(result.scale[4]))


def test_maps_keep_the_order_within_a_dataset_and_cluster() -> None:
    H, codes = planted()
    aligned, result = run(H, codes)
    for dataset in range(2):
        for cluster in range(3):
            cells = np.flatnonzero((codes == dataset) & (result.joint_clusters == cluster))
            for f in range(K):
                order = np.argsort(H[cells, f], kind="stable")
                assert (np.diff(aligned[cells[order], f]) >= -1e-6).all()


def test_quantiles_beyond_the_sample_are_not_clamped() -> None:
    """LIGER sets every value above the sample's largest to one number."""
    H, codes = planted(4000)
    aligned, result = run(H, codes, AlignConfig(align="quantile", n_sampled=50))
    cells = np.flatnonzero((codes == 1) & (result.joint_clusters == 0))
    top = cells[np.argsort(H[cells, 0])[-10:]]
    assert len(np.unique(aligned[top, 0])) == 10


def test_cells_without_loadings_stay_zero_and_unassigned() -> None:
    H, codes = planted()
    H[::50] = 0
    aligned, result = run(H, codes)
    assert (result.joint_clusters[::50] == -1).all()
    assert (aligned[::50] == 0).all()
    assert (np.delete(result.joint_clusters, np.s_[::50]) >= 0).all()


def test_permuting_the_cells_permutes_the_result() -> None:
    H, codes = planted()
    H[100:120] = H[80:100]  # equal distances must not be decided by position
    codes[100:120] = codes[80:100]
    aligned, result = run(H, codes)
    order = np.random.default_rng(3).permutation(len(H))
    aligned_p, result_p = run(H[order], codes[order])
    assert np.array_equal(result_p.joint_clusters, result.joint_clusters[order])
    # The scales are sums in another order: float64, then rounded to float32.
    assert np.allclose(aligned_p, aligned[order], rtol=1e-5, atol=1e-6)


def test_the_vote_does_not_follow_itself() -> None:
    """All vote on first clusters, so a chain of cells does not topple like dominoes."""
    from tigon.scaling.alignment.clusters import Voters, vote

    line = np.array([0, 1, 2, 3, 4, 5, 6], dtype=np.float32)[:, None]
    loadings = np.hstack([line, np.zeros_like(line)])
    own = np.array([0, 0, 1, 0, 1, 1, 1], dtype=np.int32)
    positions = np.arange(7)
    voted = vote(Voters(positions, loadings, own), positions, loadings, own, 3)
    assert voted.tolist() == [0, 0, 0, 1, 1, 1, 1]


def brute_force_vote(H: Loadings, own: NDArray[np.int32], n_neighbors: int) -> list[int]:
    voted = []
    for cell in range(len(H)):
        distances = ((H.astype(np.float64) - H[cell]) ** 2).sum(axis=1)
        distances[cell] = np.inf
        near = distances <= np.sort(distances)[n_neighbors - 2]
        votes = np.bincount(own[near], minlength=H.shape[1])
        votes[own[cell]] += 1
        winners = np.flatnonzero(votes == votes.max())
        voted.append(int(own[cell] if own[cell] in winners else winners[0]))
    return voted


@pytest.mark.parametrize("n_neighbors", [2, 5, 20])
def test_the_vote_is_that_of_the_nearest(n_neighbors: int) -> None:
    from tigon.scaling.alignment.clusters import Voters, vote

    rng = np.random.default_rng(5)
    H = rng.integers(0, 4, (150, 4)).astype(np.float32)  # many equal distances
    own = rng.integers(0, 4, 150).astype(np.int32)
    positions = np.arange(150)
    voted = vote(Voters(positions, H, own), positions, H, own, n_neighbors)
    assert voted.tolist() == brute_force_vote(H, own, n_neighbors)


def test_quantiles_are_type_7_and_the_map_goes_through_them() -> None:
    from tigon.scaling.alignment.quantiles import quantile_maps, quantiles

    rng = np.random.default_rng(2)
    a, b = (rng.gamma(2, 1, (300, 2)).astype(np.float32) for _ in range(2))
    q, r = quantiles(a, 10), quantiles(b, 10)
    by_hand = np.sort(a[:, 0].astype(np.float64))[299 * 3 // 10 : 299 * 3 // 10 + 2]
    assert q[3, 0] == pytest.approx(by_hand[0] + (0.3 * 299 % 1) * (by_hand[1] - by_hand[0]))
    maps = quantile_maps({(0, 0): (q, r)}, 1, 2, 10)
    mapped = maps.apply(q.astype(np.float32), np.ones(11, dtype=np.int32))
    assert np.allclose(mapped, r, rtol=1e-5)
    inside = np.linspace(q[1, 0], q[-2, 0], 40, dtype=np.float32)
    both = np.column_stack([inside, inside])
    assert np.allclose(
        maps.apply(both, np.ones(40, dtype=np.int32))[:, 0],
        np.interp(inside, q[:, 0], r[:, 0]),
        rtol=1e-5,
    )


def test_few_cells_are_scaled_and_not_mapped() -> None:
    H, codes = planted()
    few = np.flatnonzero(codes == 1)[:10]
    kept = np.sort(np.concatenate([np.flatnonzero(codes == 0), few]))
    H, codes = H[kept], codes[kept]
    aligned, result = run(H, codes)
    assert not result.mapped.any()
    assert np.array_equal(aligned, H / result.scale.astype(np.float32))


METHODS = {
    "centroid": AlignConfig(),
    "quantile": AlignConfig(align="quantile", n_voters=300, n_sampled=100),
    "none": AlignConfig(align="none"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(("n_threads", "read_cells"), [(1, 37), (2, 1000), (2, 37)])
def test_threads_and_storage_leave_the_bytes_alone(
    monkeypatch: pytest.MonkeyPatch, n_threads: int, read_cells: int, method: str
) -> None:
    monkeypatch.setattr(rows_module.tiles, "__defaults__", (256,))  # a plan of many tasks
    H, codes = planted(3000)
    config = METHODS[method]
    expected, expected_result = aligned_points(H, codes, config)

    @dataclass
    class Pieces:
        """Rows put together from pieces, in another memory layout."""

        shape: tuple[int, ...] = H.shape

        def read(self, start: int, stop: int) -> Loadings:
            cuts = [*range(start, stop, read_cells), stop]
            return np.asfortranarray(np.concatenate([H[a:b] for a, b in pairwise(cuts)]))

    written: list[Loadings] = []
    with ThreadEngine(n_threads) as engine:
        result = align(
            Pieces(), codes, 2, config, 0, engine, lambda start, rows: written.append(rows)
        )
    assert len(written) >= 8
    assert np.concatenate(written).tobytes() == expected.tobytes()
    assert result.joint_clusters.tobytes() == expected_result.joint_clusters.tobytes()


def test_the_seed_decides_the_sample() -> None:
    H, codes = planted(3000)
    config = AlignConfig(align="quantile", n_voters=200, n_sampled=50)
    first, _ = run(H, codes, config, seed=0)
    again, _ = run(H, codes, config, seed=0)
    other, _ = run(H, codes, config, seed=1)
    assert first.tobytes() == again.tobytes()
    assert first.tobytes() != other.tobytes()


def test_a_sample_aligns_almost_like_all_cells() -> None:
    H, codes = planted(6000)
    _, whole = run(H, codes, AlignConfig(align="quantile", n_voters=6000, n_sampled=6000))
    aligned, sampled = run(H, codes, AlignConfig(align="quantile", n_voters=500, n_sampled=300))
    assert (whole.joint_clusters == sampled.joint_clusters).mean() > 0.99
    assert gap(aligned, codes, sampled.joint_clusters) < 0.25


def test_progress_counts_every_cell() -> None:
    H, codes = planted()
    seen: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int, **figures: float) -> None:
        seen.append((stage, done, total))

    with ThreadEngine(1) as engine:
        align(ArrayRows(H), codes, 2, AlignConfig(), 0, engine, lambda start, rows: None, progress)
    assert seen[-1] == ("aligning", len(H), len(H))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(n_quantiles=0), "n_quantiles is too small"),
        (dict(n_neighbors=0), "n_neighbors is too small"),
        (dict(min_cells=1), "min_cells is too small"),
        (dict(reference=-1), "reference is negative"),
    ],
)
def test_options_are_refused_early(change: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        replace(AlignConfig(), **change)


def test_options_that_would_not_be_looked_at_are_refused() -> None:
    with pytest.raises(InputError, match="align is 'centroids': it is one of centroid, quantile"):
        replace(AlignConfig(), align="centroids")
    for given in (dict(reference=0), dict(n_quantiles=20)):
        with pytest.raises(InputError, match="it is an option of quantile maps"):
            replace(AlignConfig(), **given)


def test_what_cannot_be_aligned_is_refused() -> None:
    H, codes = planted()
    with pytest.raises(InputError, match="wrong number of cells"):
        aligned_points(H, codes[:-1], AlignConfig())
    with pytest.raises(InputError, match="reference is no dataset"):
        aligned_points(H, codes, AlignConfig(align="quantile", reference=2))
    with ThreadEngine(1) as engine, pytest.raises(InputError, match="out of range"):
        align(ArrayRows(H), codes, 1, AlignConfig(), 0, engine, lambda start, rows: None)
    H[3, 2] = np.nan
    with pytest.raises(InputError, match="not finite"):
        aligned_points(H, codes, AlignConfig())
