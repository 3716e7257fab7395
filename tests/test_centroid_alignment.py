"""Centroid alignment, and the warning of groups that are merged with others."""

from __future__ import annotations

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import anndata
import numpy as np
import pytest
from atlases import planted as atlas
from numpy.typing import NDArray

import tigon
from tigon.scaling import recalling
from tigon.scaling.alignment.aligning import AlignmentResult, align
from tigon.scaling.alignment.centroids import find_offsets, memberships
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.alignment.offsets import Sums, fit_offsets
from tigon.scaling.alignment.passes import Passes
from tigon.scaling.arranging import align_cells
from tigon.scaling.embedding import rows as rows_module
from tigon.scaling.embedding.neighbors import neighbors
from tigon.scaling.embedding.scores import knn_accuracy, label_codes, mixing
from tigon.scaling.embedding.space import to_space
from tigon.scaling.engine import ThreadEngine
from tigon.storage.progress import silent
from tigon.storage.rows import ArrayRows, RowFile
from tigon.storage.runs.run import Run

Loadings = NDArray[np.float32]
Codes = NDArray[np.int32]

K = 8
PRIVATE = 3
"""The type that only the second dataset has."""

PROFILES = {"a factor of its own": {5: 1.0}, "a shared factor": {0: 0.6, 5: 0.5}}
PROFILES |= {"two shared factors": {0: 0.5, 1: 0.5}}


def planted(
    profile: dict[int, float], *, n: int = 1200, seed: int = 0
) -> tuple[Loadings, Codes, NDArray[np.int64]]:
    """Three types that two datasets share, and one of the second; its loadings are stretched."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, 2, n).astype(np.int32)
    types = rng.integers(0, 3, n)
    H = rng.gamma(2, 0.02, (n, K))
    H[np.arange(n), types] += rng.gamma(10, 0.1, n)
    private = np.flatnonzero((codes == 1) & (rng.random(n) < 0.25))
    H[private] = rng.gamma(2, 0.02, (len(private), K))
    for factor, strength in profile.items():
        H[private, factor] += strength * rng.gamma(10, 0.1, len(private))
    types[private] = PRIVATE
    H[codes == 1] *= rng.uniform(1, 2, K)
    H[codes == 1, 7] += 0.3
    return H.astype(np.float32), codes, types


def run_of(
    H: Loadings, codes: Codes, method: str = "centroid", n_threads: int = 1
) -> tuple[Loadings, AlignmentResult]:
    points = np.full_like(H, np.nan)

    def write(start: int, rows: Loadings) -> None:
        points[start : start + len(rows)] = rows

    config = AlignConfig(align=method)  # type: ignore[arg-type]
    n_datasets = int(codes.max()) + 1
    with ThreadEngine(n_threads) as engine:
        result = align(ArrayRows(H), codes, n_datasets, config, 0, engine, write)
    return points, result


def mixed(points: Loadings, codes: Codes) -> float:
    return mixing(neighbors(points, 30).indices, codes)


def own_neighbours(points: Loadings, is_private: NDArray[np.bool_]) -> float:
    """Share of private cells among the nearest of private cells."""
    return float(is_private[neighbors(points, 15).indices[is_private]].mean())


@pytest.mark.parametrize("profile", PROFILES)
def test_shared_types_mix_and_a_private_one_is_not_merged(profile: str) -> None:
    H, codes, types = planted(PROFILES[profile])
    shared, private = types != PRIVATE, types == PRIVATE
    before, _ = run_of(H, codes, "none")
    after, result = run_of(H, codes)
    assert mixed(before[shared], codes[shared]) < 0.4
    assert mixed(after[shared], codes[shared]) > 0.85
    assert own_neighbours(after, private) > 0.85
    assert own_neighbours(after, private) > own_neighbours(before, private) - 0.1
    assert not result.merged


def test_a_private_group_that_quantile_maps_merge_is_warned_of() -> None:
    H, codes, types = planted(PROFILES["two shared factors"])
    points, result = run_of(H, codes, "quantile")
    assert own_neighbours(points, types == PRIVATE) < 0.7, "it is merged"
    (group,) = result.merged
    assert group.dataset == 1
    assert group.share == pytest.approx((types[codes == 1] == PRIVATE).mean(), abs=0.05)
    assert group.fresh > 0.85
    assert "that only 'stim' has" in group.warning("stim", 5)
    assert "compare with --align none" in group.warning("stim", 5)


def test_offsets_solve_the_ridge_regression() -> None:
    """The arrow's solution against the normal equations, with the variances it found."""
    rng = np.random.default_rng(0)
    n, d, k = 400, 4, 5
    codes = rng.integers(0, d, n)
    points = to_space(rng.gamma(1, 1, (n, k)).astype(np.float32)).astype(np.float64)
    points += 0.1 * rng.random((d, k))[codes]
    points /= np.linalg.norm(points, axis=1, keepdims=True)
    near = memberships(points)
    groups = [np.flatnonzero(codes == i) for i in range(d)]
    found = fit_offsets(Sums.of_cells(points, near, groups))
    for j in range(k):
        r = near[:, j]
        N = np.array([r[cells].sum() for cells in groups])
        means = np.array([r[cells] @ points[cells] for cells in groups]) / N[:, None]
        spread = sum(
            (r[g] * ((points[g] - means[i]) ** 2).sum(1)).sum() for i, g in enumerate(groups)
        )
        share = np.array([(r[cells] ** 2).sum() for cells in groups]) / N
        within = spread / (N - share).sum()
        overall = N @ means / N.sum()
        noise = within * (share * (1 - N / N.sum())).sum()
        between = (N @ ((means - overall) ** 2).sum(1) - noise) / (N.sum() - (N**2).sum() / N.sum())
        if between <= 0:
            assert not found[:, j].any()
            continue
        design = np.column_stack([np.ones(n), np.eye(d)[codes]])
        penalty = np.diag([0.0] + [max(1.0, within / between)] * d)
        system = design.T @ (r[:, None] * design) + penalty
        solved = np.linalg.solve(system, design.T @ (r[:, None] * points))
        np.testing.assert_allclose(found[:, j], solved[1:], rtol=1e-9, atol=1e-12)
    assert found.any()


def test_without_differences_nothing_is_moved_far() -> None:
    """Datasets drawn at random of one population; offsets are shrunk to their noise."""
    rng = np.random.default_rng(1)
    H, _, _ = planted(PROFILES["a shared factor"])
    codes = rng.integers(0, 20, len(H)).astype(np.int32)
    before, _ = run_of(H, codes, "none")
    after, _ = run_of(H, codes)
    assert np.sqrt(np.square(after - before).sum(axis=1).mean()) < 0.03


def test_one_dataset_and_cells_without_loadings_stay() -> None:
    H, codes, _ = planted(PROFILES["a shared factor"])
    H[::50] = 0
    alone = np.zeros_like(codes)
    assert run_of(H, alone)[0].tobytes() == run_of(H, alone, "none")[0].tobytes()
    points, result = run_of(H, codes)
    assert not points[::50].any()
    assert (result.joint_clusters[::50] == -1).all()
    rest = np.delete(np.arange(len(H)), np.s_[::50])
    np.testing.assert_allclose(np.square(points[rest]).sum(axis=1), 1, rtol=1e-5)
    assert np.array_equal(result.joint_clusters[rest], points[rest].argmax(axis=1))


def test_many_datasets_and_many_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dataset in every other tile, one without cells, and rounds that converge."""
    monkeypatch.setattr(rows_module.tiles, "__defaults__", (64,))
    H, codes, _ = planted(PROFILES["a shared factor"])
    codes = (codes + 2 * (np.arange(len(H)) // 100)).astype(np.int32)
    codes[codes == 3] = 2
    scale = np.sqrt(np.square(H, dtype=np.float64).mean(axis=0))
    with ThreadEngine(2) as engine:
        passes = Passes(ArrayRows(H), codes, np.bincount(codes), engine, silent)
        found = find_offsets(passes, scale)
    assert 2 <= len(found.rounds) < 10
    assert not found.rounds[-1][3].any()
    points = to_space((H / scale.astype(np.float32)).astype(np.float32)).astype(np.float64)
    moved = points
    for offsets in found.rounds:
        less = np.einsum("cj,cjf->cf", memberships(moved), offsets[codes])
        moved = np.maximum(points - less, 0)
        moved /= np.linalg.norm(moved, axis=1, keepdims=True)
    np.testing.assert_allclose(found.move(points.astype(np.float32), codes), moved, atol=1e-6)


@pytest.mark.parametrize("method", ["centroid", "quantile"])
def test_threads_do_not_matter(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows_module.tiles, "__defaults__", (64,))
    H, codes, _ = planted(PROFILES["two shared factors"])
    one, two = (run_of(H, codes, method, n_threads) for n_threads in (1, 2))
    assert one[0].tobytes() == two[0].tobytes()
    assert one[1].joint_clusters.tobytes() == two[1].joint_clusters.tobytes()
    assert one[1].merged == two[1].merged


@pytest.fixture(scope="module")
def data() -> anndata.AnnData:
    return atlas(n=400, m=60, k=3, d=2).adata


@pytest.mark.parametrize("method", ["quantile", "none"])
def test_the_option_reaches_the_run_and_its_update(
    data: anndata.AnnData, tmp_path: Path, method: str
) -> None:
    options = dict(batch_key="batch", n_components=3, n_epochs=2, umap=False, report=False)
    run = tigon.integrate(data, out=tmp_path / "a.zarr", align=method, **options)
    assert run.config["align"]["align"] == method
    again = tigon.update(run, None, tmp_path / "b.zarr", drop=["b1"], report=False)
    for made in (run, again):
        codes = made.obs["tigon_dataset"].cat.codes.to_numpy().astype(np.int32)
        expected, _ = run_of(np.asarray(made.loadings), codes, method)
        assert np.asarray(made.obsm("X_inmf_aligned")).tobytes() == expected.tobytes()


def test_runs_from_before_there_was_a_choice_are_of_quantiles() -> None:
    before = cast(Run, SimpleNamespace(config={"align": {"n_quantiles": 30, "reference": 1}}))
    expected = AlignConfig(align="quantile", n_quantiles=30, reference=1)
    assert recalling.align_config(before) == expected


def test_what_is_merged_is_in_the_notices(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    H, codes, _ = planted(PROFILES["two shared factors"])
    loadings = RowFile(tmp_path / "loadings", H.shape)
    loadings.write(0, H)
    aligned = RowFile(tmp_path / "aligned", H.shape)
    config = AlignConfig(align="quantile")
    with ThreadEngine(1) as engine, caplog.at_level(logging.WARNING, "tigon"):
        align_cells(loadings, codes, ("ctrl", "stim"), config, 0, engine, aligned, silent)
    (message,) = caplog.messages
    assert message.startswith("alignment may have merged a group that only 'stim' has")


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "least_mixing", "least_accuracy"),
    [("kang_pbmc_stim", 0.92, 0.91), ("baron_mouse_pancreas", 0.6, 0.95)],
)
def test_real_data_are_integrated_without_a_warning(
    shared_data: Path, name: str, least_mixing: float, least_accuracy: float
) -> None:
    adata = anndata.read_h5ad(shared_data / f"{name}.h5ad")
    model = tigon.OnlineINMF(n_components=20, lam=5.0, n_genes=2000, random_state=0)
    H = model.fit(adata, batch_key="batch").transform(adata, batch_key="batch")
    codes = np.unique(adata.obs["batch"].astype(str), return_inverse=True)[1].astype(np.int32)
    points, result = run_of(H, codes)
    labels = label_codes(adata.obs["label"].astype(str).to_numpy(np.str_))
    known = labels >= 0
    near = neighbors(points[known], 30).indices
    assert mixing(near, codes[known]) >= least_mixing
    assert knn_accuracy(near[:, :15], labels[known]) >= least_accuracy
    assert not result.merged
