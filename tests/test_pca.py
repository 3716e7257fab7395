"""Principal components: exactness, the certificate, sources, bad input."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import Any

import anndata
import numpy as np
import pandas as pd
import pytest
import scipy.linalg
from scipy import sparse

import tigon
from tigon.scaling.pca import sampling
from tigon.scaling.pca.certificate import MISSED, PROBES, completeness_of
from tigon.scaling.pca.decomposing import not_converged
from tigon.scaling.pca.krylov import block_krylov, to_come

pytestmark = pytest.mark.usefixtures("one_blas_thread")


def dense_counts(n: int, m: int, seed: int) -> np.ndarray:
    """Counts with some programmes in them, shape (n, m)."""
    rng = np.random.default_rng(seed)
    rates = rng.gamma(0.3, 2.0, (n, 6)) @ rng.gamma(0.3, 1.0, (6, m)) + 0.05
    return rng.poisson(rates)


def flat_tail(rng: np.random.Generator, n: int = 900, m: int = 300) -> np.ndarray:
    """Sixty programmes over noise that is as large as the last of them."""
    strengths = np.concatenate([[60.0, 30.0], np.linspace(12, 3, 58)])
    signal = rng.standard_normal((n, 60)) * strengths @ rng.standard_normal((60, m)) / np.sqrt(m)
    return signal + 2.0 * rng.standard_normal((n, m))


SPECTRA = {
    "flat tail": lambda n: np.concatenate([np.linspace(10, 5, 20), np.full(n - 20, 4.9)]),
    "clusters": lambda n: np.repeat([50.0, 20.0, 19.99, 5.0, 1.0], n // 5 + 1)[:n],
    "rank deficient": lambda n: np.concatenate([np.linspace(9, 1, 12), np.zeros(n - 12)]),
    "one dominant": lambda n: np.concatenate([[1e4], np.linspace(2, 1, n - 1)]),
    "fast decay": lambda n: 100 * 0.8 ** np.arange(n),
}


def with_spectrum(spectrum: np.ndarray, n: int, seed: int = 0) -> np.ndarray:
    """A matrix (n, m) of given singular values."""
    rng = np.random.default_rng(seed)
    U = np.linalg.qr(rng.standard_normal((n, len(spectrum))))[0]
    V = np.linalg.qr(rng.standard_normal((len(spectrum), len(spectrum))))[0]
    return (U * spectrum) @ V.T


def exact(matrix: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, singular values and components of a centred matrix."""
    U, s, Vt = np.linalg.svd(matrix - matrix.mean(axis=0), full_matrices=False)
    return U[:, :k] * s[:k], s, Vt


def sine(found: np.ndarray, true: np.ndarray) -> float:
    """Of the largest angle between two subspaces, given as rows."""
    return float(np.sin(scipy.linalg.subspace_angles(found.T, true.T).max()))


@pytest.mark.parametrize("center", [True, False])
@pytest.mark.parametrize("scale", [True, False])
def test_gram_is_the_decomposition_of_numpy(center: bool, scale: bool) -> None:
    X = dense_counts(400, 90, seed=1).astype(float)
    X[:, 7] = 3.0
    about = X - X.mean(axis=0) if center else X
    deviation = np.where(np.ptp(X, axis=0) > 0, X.std(axis=0, ddof=1), 1.0)
    A = about / deviation if scale else about
    _, s, Vt = np.linalg.svd(A, full_matrices=False)
    model = tigon.PCA(10, solver="gram", center=center, scale=scale)
    scores = model.fit_transform(sparse.csr_array(X))
    np.testing.assert_allclose(model.singular_values_, s[:10], rtol=1e-9)
    assert sine(model.components_, Vt[:10]) < 1e-6
    np.testing.assert_allclose(scores, A @ model.components_.T, rtol=1e-4, atol=1e-4)
    total = (A**2).sum()
    np.testing.assert_allclose(model.explained_variance_ratio_, s[:10] ** 2 / total, rtol=1e-8)
    assert model.n_passes_ == 2 - 1
    assert model.completeness_ == 1.0


def test_results_are_those_of_scikit_learn() -> None:
    from sklearn.decomposition import PCA, TruncatedSVD

    X = dense_counts(300, 60, seed=2).astype(float)
    theirs = PCA(5, svd_solver="full").fit(X)
    ours = tigon.PCA(5).fit(X)
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_", "mean_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(theirs, name), rtol=1e-7)
    truncated = TruncatedSVD(5, algorithm="arpack").fit(X)
    ours = tigon.TruncatedSVD(5).fit(X)
    for name in ("explained_variance_", "explained_variance_ratio_", "singular_values_"):
        np.testing.assert_allclose(getattr(ours, name), getattr(truncated, name), rtol=1e-6)


def test_normalisation_is_on_the_fly() -> None:
    X = dense_counts(200, 40, seed=3).astype(float)
    totals = X.sum(axis=1, keepdims=True)
    Y = np.log1p(X / totals * 1e4)
    _, s, _ = exact(Y, 5)
    for solver in ("gram", "krylov"):
        model = tigon.PCA(5, solver=solver, target_sum=1e4, log1p=True, tol=1e-6).fit(X)
        np.testing.assert_allclose(model.singular_values_, s[:5], rtol=1e-8)


def test_no_cells_have_no_scores() -> None:
    model = tigon.PCA(2).fit(dense_counts(30, 20, seed=8))
    assert model.transform(np.zeros((0, 20))).shape == (0, 2)


@pytest.mark.parametrize("name", SPECTRA)
def test_the_certificate_holds_on_adversarial_spectra(name: str) -> None:
    n, m, k = 400, 160, 20
    X = with_spectrum(SPECTRA[name](m), n)
    _, s, _ = exact(X, k)
    model = tigon.PCA(k, solver="krylov", random_state=3).fit(X)
    bound = model.residuals_ * model.singular_values_[0]
    nearest = np.abs(model.singular_values_[:, None] - s[None]).min(axis=1)
    assert (nearest <= bound + 1e-7 * s[0]).all()
    assert model.converged_
    # What was not found is no larger than was told.
    deflated = X - X.mean(axis=0)
    deflated -= deflated @ model.components_.T @ model.components_
    left = np.linalg.norm(deflated, 2)
    last = max(model.singular_values_[-1], 1e-7 * s[0])
    assert left <= last * model.completeness_ + bound.max() + 1e-7 * s[0]


@pytest.mark.parametrize("offset", [0.0, 1e2, 1e4, 1e6, 1e8])
def test_residuals_of_gram_know_of_rounding(offset: float) -> None:
    """Sums of large means leave little of what differs; of low rank the rest is rounding."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((500, 12)) @ rng.standard_normal((12, 40)) + offset
    _, s, _ = exact(X, 15)
    model = tigon.PCA(15, solver="gram", tol=0.03).fit(X)
    nearest = np.abs(model.singular_values_[:, None] - s[None]).min(axis=1)
    assert (nearest <= model.residuals_ * model.singular_values_[0]).all()
    assert model.converged_ == (offset < 1e5)


def test_what_is_to_come_is_told_by_the_last_passes() -> None:
    assert to_come([0.0, 50.0, 90.0, 98.0]) == pytest.approx(8 * 0.2 / 0.8 / 98)
    assert to_come([0.0, 50.0, 50.0]) == 0.0
    assert to_come([0.0, 50.0]) == np.inf, "one pass tells nothing"
    assert to_come([0.0, 50.0, 60.0, 75.0]) == np.inf, "each brings more than the last"


def test_iterations_go_on_until_the_variance_has_settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Residuals are small long before it has, where nothing is apart."""
    monkeypatch.setattr(sampling, "SAMPLE_CELLS", 40)
    X = np.random.default_rng(0).standard_normal((300, 600))
    _, s, _ = exact(X, 30)
    model = tigon.PCA(30, solver="krylov", tol=0.5).fit(X)
    assert model.converged_
    assert 1 - (model.singular_values_**2).sum() / (s[:30] ** 2).sum() < 2e-3


def test_krylov_at_the_default_tolerance_explains_what_there_is() -> None:
    X = flat_tail(np.random.default_rng(0))
    _, s, Vt = exact(X, 50)
    model = tigon.PCA(50, solver="krylov").fit(X)
    found = model.singular_values_
    assert model.converged_
    assert 1 - (found**2).sum() / (s[:50] ** 2).sum() < 1e-3
    assert (found <= s[:50] * (1 + 1e-12)).all(), "Ritz values never exceed the true ones"
    gaps = np.minimum(np.append(np.inf, s[:19] / s[1:20]) - 1, s[:20] / s[1:21] - 1)
    cosines = np.abs((model.components_[:20] * Vt[:20]).sum(axis=1))
    assert (cosines[gaps > 0.01] >= 0.999).all()


def test_a_direction_that_the_start_misses_is_found_out() -> None:
    """The probe goes where the start has no part at all."""
    rng = np.random.default_rng(0)
    m, k = 400, 10
    axes = np.linalg.qr(rng.standard_normal((m, m)))[0]
    values = np.concatenate([[30.0], np.linspace(20, 10, 30), np.linspace(3, 0, m - 31)])
    C = (axes * values) @ axes.T
    planted = axes[:, 0]
    start = rng.standard_normal((m, 40))
    start -= np.outer(planted, planted @ start)
    nothing, probe = np.zeros((m, PROBES)), rng.standard_normal((m, PROBES))
    blind = block_krylov(lambda Q: C @ Q, start, nothing, k, 1e-3, 8)
    assert blind.values[0] < 21, "without a probe the planted direction is missed"
    found = block_krylov(lambda Q: C @ Q, start, probe, k, 1e-3, 8)
    assert found.converged
    np.testing.assert_allclose(found.values[0], 30.0)
    assert abs(found.vectors[:, 0] @ planted) > 0.999999


def test_vectors_that_are_exact_do_not_hide_a_larger_one() -> None:
    """Nothing is left to improve, and what the probe has of it at first is too little."""
    m, k = 400, 10
    values = np.concatenate([np.linspace(10, 9.5, 20) ** 2, [12.0**2], np.ones(m - 21)])
    probe = np.random.default_rng(0).standard_normal((m, PROBES))
    found = block_krylov(lambda Q: values[:, None] * Q, np.eye(m, 20), probe, k, 0.03, 8)
    assert found.converged
    np.testing.assert_allclose(np.sqrt(found.values[0]), 12.0, rtol=1e-3)


@pytest.mark.parametrize("first", [1e7, 5e7])
def test_a_first_value_that_dwarfs_all_others_hides_none(first: float) -> None:
    """Beside it, C G has parts of the others that are near the rounding of its columns."""
    rng = np.random.default_rng(0)
    m, k = 300, 10
    axes = np.linalg.qr(rng.standard_normal((m, m)))[0]
    sigma = np.concatenate([[first, 8.0], np.linspace(4, 3, 30), np.linspace(2.9, 0.1, m - 32)])
    C = (axes * sigma**2) @ axes.T
    start, probe = axes[:, [0, *range(2, 22)]], rng.standard_normal((m, PROBES))
    found = block_krylov(lambda Q: C @ Q, start, probe, k, 0.03, 8)
    assert found.converged
    # Squares are summed: what is told of values is up to the rounding of the first square.
    np.testing.assert_allclose(found.values[1], 64.0, atol=1e-15 * first**2)


@pytest.mark.parametrize("m", [50, 50_000])
def test_completeness_is_of_the_quantile_of_the_probe(m: int) -> None:
    """Of two columns and a degree of one it can be written down."""
    values, rest = np.array([4.0, 1.0]), np.array([[1.0, 1.0], [3.0, 4.0]])
    least = np.sqrt(-2 * np.log1p(-MISSED / m))
    # f(x) = x is at most f(1 / 4) |rest| / least.
    expected = np.sqrt(0.25 * 5.0 / least)
    np.testing.assert_allclose(completeness_of(values, rest, 1, 1, m), expected, rtol=1e-6)


def test_completeness_bounds_what_a_few_passes_leave_out() -> None:
    """Few passes over a spectrum without gaps: values are missed, but none larger than told."""
    rng = np.random.default_rng(0)
    A = with_spectrum(np.linspace(10, 1, 300), 600)
    start, probe = rng.standard_normal((300, 40)), rng.standard_normal((300, PROBES))
    for passes in (2, 3, 4):
        found = block_krylov(lambda Q: A.T @ (A @ Q), start, probe, 30, 1e-4, passes)
        assert not found.converged
        left = np.linalg.norm(A - A @ found.vectors @ found.vectors.T, 2)
        last = np.sqrt(found.values[-1])
        assert last * 1.001 < left <= last * found.completeness


@pytest.mark.parametrize("max_passes", [2, 20])
def test_a_sample_of_few_cells_tells_few_directions(
    monkeypatch: pytest.MonkeyPatch, max_passes: int
) -> None:
    """Fewer than are wanted; of a matrix of low rank they look good enough at once."""
    monkeypatch.setattr(sampling, "SAMPLE_CELLS", 1)
    X = np.zeros((80, 60))
    X[:, :4] = dense_counts(80, 4, seed=9)
    model = tigon.PCA(40, solver="krylov", max_passes=max_passes).fit(X)
    _, s, _ = exact(X, 40)
    np.testing.assert_allclose(model.singular_values_, s[:40], atol=1e-6 * s[0])
    np.testing.assert_allclose(model.components_ @ model.components_.T, np.eye(40), atol=1e-12)


def test_what_is_not_converged_is_told(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = with_spectrum(np.linspace(10, 9, 200), 400)
    monkeypatch.setattr(sampling, "SAMPLE_CELLS", 100)
    model = tigon.PCA(20, solver="krylov", max_passes=2, tol=1e-6).fit(X)
    assert not model.converged_
    assert "set max_passes higher" in caplog.text
    assert re.search(r"singular values up to [\d.]+ times the last may be missing", caplog.text)


def test_what_is_not_known_is_told_in_words() -> None:
    one = np.ones(1)
    found: Any = SimpleNamespace(
        singular_values=one, residuals=one, completeness=np.inf, solver="krylov", n_passes=2
    )
    told = not_converged(found, 1e-6)
    assert "; whether a larger one than the last is missing is not known): set" in told


@pytest.mark.parametrize("solver", ["gram", "krylov"])
def test_same_bytes_for_any_threads(solver: str) -> None:
    X = sparse.csr_array(dense_counts(9000, 150, seed=5))
    one, two = (tigon.PCA(8, solver=solver, n_threads=n) for n in (1, 2))
    assert one.fit_transform(X).tobytes() == two.fit_transform(X).tobytes()
    for name in ("components_", "singular_values_", "residuals_"):
        assert getattr(one, name).tobytes() == getattr(two, name).tobytes()


def test_all_sources_give_the_same(tmp_path) -> None:
    dask_array = pytest.importorskip("dask.array")
    X = dense_counts(5000, 80, seed=6)
    adata = anndata.AnnData(sparse.csr_array(X.astype(np.float32)))
    adata.write_h5ad(tmp_path / "counts.h5ad")
    made = tigon.write_atlas(tigon.open(adata), tmp_path / "atlas.zarr")
    chunked = dask_array.from_array(X, chunks=(2048, -1)).map_blocks(sparse.csr_matrix)
    options = {"n_components": 6, "target_sum": 100.0, "log1p": True}
    wanted = tigon.PCA(**options).fit_transform(sparse.csr_array(X))
    sources = [X, adata, str(tmp_path / "counts.h5ad"), tmp_path / "atlas.zarr", made, chunked]
    for source in sources:
        assert tigon.PCA(**options).fit_transform(source).tobytes() == wanted.tobytes()
    made.close()


def named(X: np.ndarray, names: list[str]) -> anndata.AnnData:
    adata = anndata.AnnData(sparse.csr_array(X.astype(np.float32)))
    adata.var_names = names
    return adata


def test_cells_are_of_the_genes_that_were_fitted() -> None:
    X = dense_counts(40, 6, seed=8)
    names = list("abcdef")
    model = tigon.PCA(2)
    scores = model.fit_transform(named(X, names))
    assert list(model.feature_names_in_) == names
    other = list("abdcef")
    for source in (named(X, other), tigon.open(named(X, other))):
        with pytest.raises(tigon.InputError, match=r"2 of 6 genes .* number 3 is 'd', not 'c'"):
            model.transform(source)
    # An array has no names to compare, and where nothing is known of those fitted all will do.
    np.testing.assert_array_equal(model.transform(X), scores)
    model.fit(X)
    assert not hasattr(model, "feature_names_in_")
    np.testing.assert_array_equal(model.transform(named(X, other)), scores)


def test_all_components_give_the_matrix_back() -> None:
    from sklearn.decomposition import PCA

    X = dense_counts(60, 20, seed=8).astype(float)
    X[:, 7] = 2.0
    for model in (tigon.PCA(19, scale=True), tigon.PCA(20, center=False), tigon.TruncatedSVD(20)):
        back = model.inverse_transform(model.fit_transform(X))
        assert back.dtype == np.float32
        np.testing.assert_allclose(back, X, atol=1e-5 * np.abs(X).max())
    ours, theirs = tigon.PCA(3).fit(X), PCA(3).fit(X)
    np.testing.assert_allclose(
        ours.inverse_transform(ours.transform(X)),
        theirs.inverse_transform(theirs.transform(X)),
        atol=1e-5 * np.abs(X).max(),
    )
    assert list(ours.get_feature_names_out()) == list(theirs.get_feature_names_out())
    with pytest.raises(tigon.InputError, match=r"shape \(60, 20\): cells by 3 components"):
        ours.inverse_transform(X)


def test_a_constant_gene_is_left_as_it_is_when_scaled() -> None:
    X = dense_counts(100, 20, seed=7).astype(float)
    X[:, 3] = 2.0
    model = tigon.PCA(4, scale=True).fit(X)
    assert model.scale_[3] == 1.0
    np.testing.assert_allclose(model.components_[:, 3], 0.0, atol=1e-12)


def test_a_matrix_of_zeros_has_components_without_variance() -> None:
    for solver in ("gram", "krylov"):
        model = tigon.PCA(3, solver=solver).fit(sparse.csr_array((50, 20)))
        np.testing.assert_array_equal(model.singular_values_, 0.0)
        np.testing.assert_array_equal(model.explained_variance_ratio_, 0.0)
        assert np.isfinite(model.components_).all()


def refused(message: str, X, **options) -> None:
    with pytest.raises(tigon.InputError, match=message):
        tigon.PCA(**options).fit(X)


def test_bad_input_is_refused() -> None:
    X = dense_counts(30, 20, seed=8).astype(float)
    refused("at most 19", X, n_components=20)
    refused("1 cell and 20 genes have no components: at least 2 of", X[:1], n_components=1)
    refused("4 components of 3 cells and 20 .* set --n-components 2 or", X[:3], n_components=4)
    refused(r"pandas.*DataFrame .*; pass its to_numpy\(\)", pd.DataFrame(X), n_components=2)
    refused("list of numbers .* numpy.asarray", X.tolist(), n_components=2)
    refused("at least 1", X, n_components=0)
    refused("relative residual", X, n_components=2, tol=0.0)
    refused("choices are auto, gram", X, n_components=2, solver="arpack")
    for name in ("center", "scale", "log1p"):
        for value in ("yes", None, 1):
            refused(f"{name} is {value!r}: it is True or False", X, **{name: value})
    refused("masked array", np.ma.masked_less(X, 1), n_components=2)
    X[3, 4] = np.nan
    refused("rows 0 to 30 cannot be decomposed", X, n_components=2)
    refused("cannot be decomposed: an atlas", 7, n_components=2)
    refused("does not support dtype float16", np.eye(9, dtype=np.float16), n_components=2)
    refused("shape .9,.: cells by genes", sparse.coo_array(np.ones(9)), n_components=2)
    with pytest.raises(tigon.InputError, match="the components are of 20"):
        tigon.PCA(2).fit(dense_counts(30, 20, seed=8)).transform(np.ones((4, 19)))


def test_progress_is_called_or_silent() -> None:
    X, told = dense_counts(30, 20, seed=8), []
    for progress in (None, False, lambda stage, done, total, **figures: told.append(stage)):
        tigon.PCA(2, progress=progress).fit(X)
    assert told == ["sums over cells, pass 1"]
    refused("progress is True: estimators take None or what is called", X, progress=True)


def test_squares_beyond_float64_are_refused() -> None:
    for solver in ("gram", "krylov"):
        refused("inf, too large for float64", np.eye(9) * 1e200, n_components=2, solver=solver)


def test_negative_values_have_no_logarithm() -> None:
    refused("log1p", -np.eye(20), n_components=2, log1p=True)


def test_values_that_add_up_to_nothing_are_not_scaled_to_a_sum() -> None:
    """They would all be zero."""
    X = dense_counts(30, 20, seed=8).astype(float)
    X[4] = 0
    tigon.PCA(2, target_sum=1.0).fit(X)
    X[5, :3] -= X[5].sum()
    refused("of a cell add up to -.*: target_sum needs", X, n_components=2, target_sum=1.0)
    X[5] = [1.0, -1.0, *[0.0] * 18]
    refused("add up to 0: target_sum needs", X, n_components=2, target_sum=1.0)
    assert tigon.PCA(2).fit(X).converged_


def test_cells_of_an_atlas_without_some_genes_are_not_decomposed() -> None:
    """As what was not measured would be taken for zero."""
    counts = dense_counts(60, 20, seed=8).astype(np.float32)
    names = [f"gene{g}" for g in range(20)]
    cells = anndata.AnnData(sparse.csr_array(counts))
    cells.var_names = names
    sources = [cells[:30, :15].copy(), cells[30:, 5:].copy()]
    with tigon.open(sources, join="outer") as atlas:
        refused("10 of 20 genes are not measured by all sources", atlas, n_components=2)
    with tigon.open(sources, join="inner") as atlas:
        assert tigon.PCA(2).fit(atlas).n_features_in_ == 10


def test_a_dask_array_must_know_its_chunks() -> None:
    dask_array = pytest.importorskip("dask.array")
    X = dask_array.ones((40, 30), chunks=(10, 30))
    refused("compute_chunk_sizes", X[X[:, 0] > 0], n_components=2)
    refused("rechunk", X.rechunk((10, 10)), n_components=2)
