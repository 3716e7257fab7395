"""The kernels over genes against NumPy, and the same bits for every cut of the genes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tigon.kernels import reference
from tigon.kernels.cpu.aligned import aligned_zeros
from tigon.kernels.cpu.folding import add_turned, fold
from tigon.kernels.cpu.genes import add_product, hals, update_specific
from tigon.kernels.cpu.grams import add_gram, row_squares, sum_metagenes
from tigon.kernels.cpu.panels import row_width
from tigon.kernels.cpu.statistics import add_second_moments, widen_rows
from tigon.kernels.cpu.sweep import SolverGram

Array = np.ndarray

EPS = 6e-8
"""Half a unit in the last place of float32, relative."""

GENES = [1, 15, 16, 17, 2000]
"""Around a group of 16, and more than any chunk."""

sizes = pytest.mark.parametrize("m", GENES)
factors = pytest.mark.parametrize("k", [1, 6, 40])


def draw(k: int, m: int) -> tuple[Array, Array, SolverGram, Array, Array]:
    """A factor, its target, a Gram matrix as kernels read it and dense, a second factor."""
    rng = np.random.default_rng(1000 * k + m)
    H = rng.random((3 * k + 5, k)) * (rng.random((3 * k + 5, k)) < 0.6)
    S = (H.T @ H).astype(np.float32)
    factor = rng.random((k, m), np.float32)
    target = H.T @ rng.random((len(H), m)) * 2 - 0.1
    return factor, target, SolverGram.of(S), S.astype(float), rng.random((k, m), np.float32)


@factors
@sizes
@pytest.mark.parametrize("n_sweeps", [1, 3])
def test_hals_agrees_with_the_specification(k: int, m: int, n_sweeps: int) -> None:
    F, T, S, dense, _ = draw(k, m)
    if k > 2:
        dense[2], dense[:, 2] = 0, 0  # a factor that no cell has used stays as it is
        S = SolverGram.of(dense.astype(np.float32))
    mine = F.copy()
    hals(mine, T, *S.arrays, n_sweeps, 0, m)
    expected = reference.hals(F.astype(float), T, dense, n_sweeps)
    # T, the gradient, one over the diagonal and F are rounded to float32.
    size = expected.max() * dense.sum(axis=1).max() / np.diag(dense)[np.diag(dense) > 0].min()
    np.testing.assert_allclose(mine, expected, rtol=0, atol=4 * EPS * size)
    if k > 2:
        np.testing.assert_array_equal(mine[2], F[2])


def test_hals_never_raises_the_objective() -> None:
    rng = np.random.default_rng(6)
    H, X = rng.random((80, 7)), rng.random((80, 31))
    S, T, F = SolverGram.of((H.T @ H).astype("f4")), H.T @ X, rng.random((7, 31), np.float32)
    objective = [((X - H @ F) ** 2).sum()]
    for _ in range(10):
        hals(F, T, *S.arrays, 1, 0, 31)
        objective.append(((X - H @ F) ** 2).sum())
    assert (np.diff(objective) <= 10 * EPS * objective[0]).all()
    assert objective[-1] < 0.5 * objective[0]


@factors
@sizes
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_products_are_added(k: int, m: int, sign: float) -> None:
    F, out, A, dense, _ = draw(k, m)
    expected = out + sign * dense @ F
    add_product(out, A.blocks, F, sign, 0, m)
    np.testing.assert_allclose(out, expected, rtol=0, atol=k * EPS * (dense @ F).max())


@factors
@sizes
def test_sums_are_folded_in(k: int, m: int) -> None:
    rng = np.random.default_rng(k)
    B, before, T = rng.random((3, k, m))
    delta = rng.random((m, k + 3))[:, :k]  # rows wider than k, as the kernel of a step leaves them
    delta = np.ascontiguousarray(np.pad(delta, ((0, 0), (0, 3)), constant_values=np.nan))
    sums, target, turned = B.copy(), T.copy(), B.copy()
    fold(sums, before, target, delta, -0.25, 0, m)
    np.testing.assert_array_equal(sums, B + delta[:, :k].T)
    np.testing.assert_allclose(target, T + delta[:, :k].T - 0.25 * before, rtol=1e-14, atol=1e-15)
    add_turned(turned, delta)
    np.testing.assert_array_equal(turned, sums)


@factors
@sizes
@pytest.mark.parametrize("weight", [1.0, 5.0])
def test_gram_matrices_are_added(k: int, m: int, weight: float) -> None:
    F = draw(k, m)[0]
    G = np.full((k, k), 0.5)
    add_gram(G, F, weight, 0, m)
    wide = F.astype(float)
    lower = np.tril(0.5 + weight * wide @ wide.T)
    np.testing.assert_allclose(np.tril(G), lower, rtol=1e-13)
    assert (G[np.triu_indices(k, 1)] == 0.5).all()  # the upper half is not touched


@factors
@sizes
def test_metagenes_are_tabulated(k: int, m: int) -> None:
    W, _, _, _, V = draw(k, m)
    rng = np.random.default_rng(k)
    measured, scale = (rng.random(m) < 0.7).astype(np.uint8), rng.uniform(1, 200, m)
    width = row_width(k, np.float32)
    table, G = aligned_zeros(m * width, np.float32), np.zeros((k, k))
    cut = m // 2
    for start, stop in ((0, cut), (cut, m)):
        sum_metagenes(W, V, 5.0, measured, scale, table, width, start, stop, G)
    L, found = (W + V) * measured, table.reshape(m, width)
    np.testing.assert_allclose(
        G, np.tril(reference.gram(L.astype(float), V.astype(float), 5.0)), rtol=1e-12
    )
    np.testing.assert_array_equal(found[:, :k], (L * scale.astype(np.float32)).T)
    assert not found[:, k:].any()


@factors
@sizes
def test_squares_of_rows_are_summed(k: int, m: int) -> None:
    F = draw(k, m)[0]
    np.testing.assert_allclose(row_squares(F), (F.astype(float) ** 2).sum(axis=1), rtol=1e-14)


@pytest.mark.parametrize("k", [1, 3, 4, 5, 20, 41, 100])
@pytest.mark.parametrize("n", [1, 31, 32, 33, 200])
def test_second_moments_are_added(k: int, n: int) -> None:
    H = np.random.default_rng(n).random((n, k), np.float32)
    narrow, width = row_width(k, np.float32), row_width(k, np.float64)
    padded = np.zeros((n, narrow), np.float32)
    padded[:, :k] = H
    wide = aligned_zeros(n * width, np.float64)
    widen_rows(padded.ravel(), n, narrow, k, wide, width)
    np.testing.assert_array_equal(wide.reshape(n, width)[:, :k], H)
    sums = aligned_zeros(-(-k // 4) * 4 * width, np.float64)
    for _ in range(2):
        add_second_moments(wide, n, width, k, sums)
    found = np.tril(sums.reshape(-1, width)[:k, :k])
    np.testing.assert_allclose(found, np.tril(2 * H.T.astype(float) @ H), rtol=1e-13)


def specific(k: int, m: int) -> tuple[dict[str, Array], SolverGram, Array]:
    """Sums that V of about 0.1, half of it zero, explains beside W; A as kernels read it; dense."""
    V, _, A, dense, W = draw(k, m)
    rng = np.random.default_rng(m)
    measured = rng.random(m) < 0.8
    explained = dense @ (W + 6.0 * np.maximum(0, rng.normal(0, 0.1, (k, m))))
    previous = rng.random((k, m)) * measured
    arrays = {
        "V": (V * measured * np.float32(0.2)).astype(np.float32),
        "W": W,
        "B": explained * measured - 0.75 * previous,
        "B_previous": previous,
        "T": rng.random((k, m)),
        "measured": measured,
    }
    return arrays, A, dense


def update(a: dict[str, Array], A: SolverGram, start: int, stop: int) -> None:
    sums = a["B"], a["B_previous"], a["T"]
    update_specific(a["V"], a["W"], *sums, 0.75, 5.0, a["measured"], *A.arrays, start, stop)


@factors
@sizes
def test_specific_metagenes_agree_with_their_equation(k: int, m: int) -> None:
    a, A, dense = specific(k, m)
    before, T = a["V"].astype(float), a["T"].copy()
    target = (a["B"] + 0.75 * a["B_previous"] - dense @ a["W"]) / 6.0
    expected = reference.hals(before, target, dense) * a["measured"]
    update(a, A, 0, m)
    assert m == 1 or 0.1 < (expected > 0).mean() < 0.9
    # float32 sums of the size of A W, over the diagonal.
    size = (dense @ a["W"]).max() / np.diag(dense).min()
    np.testing.assert_allclose(a["V"], expected, rtol=0, atol=2 * EPS * size)
    assert not a["V"][:, ~a["measured"]].any()
    change = a["V"].astype(float) - before
    np.testing.assert_allclose(
        a["T"],
        T - dense @ change,
        rtol=0,
        atol=2 * k * EPS * (dense @ np.abs(change)).max() + 1e-15,
    )


@given(k=st.integers(1, 20), m=st.integers(1, 70), cuts=st.lists(st.integers(1, 70), max_size=5))
@settings(max_examples=60, deadline=None)
def test_any_cut_of_the_genes_gives_the_same_bits(k: int, m: int, cuts: list[int]) -> None:
    F, T, S, _, W = draw(k, m)
    B, before = T + 1.0, T - 1.0
    delta = np.ascontiguousarray(T.T * 0.3)
    results = []
    for edges in ([0, m], sorted({0, m, *(cut for cut in cuts if cut < m)})):
        factor, product, sums, target = F.copy(), T.copy(), B.copy(), T.copy()
        for start, stop in reversed(list(pairwise(edges))):
            hals(factor, T, *S.arrays, 2, start, stop)
            add_product(product, S.blocks, W, -1.0, start, stop)
            fold(sums, before, target, delta, -0.3, start, stop)
        results.append((factor, product, sums, target))
    for whole, cut in zip(*results, strict=True):
        np.testing.assert_array_equal(whole, cut)


@pytest.mark.parametrize("m", [17, 2000])
def test_a_range_leaves_other_genes_alone(m: int) -> None:
    a, A, _ = specific(6, m)
    V, T = a["V"].copy(), a["T"].copy()
    update(a, A, 3, 9)
    outside = np.delete(np.arange(m), np.arange(3, 9))
    np.testing.assert_array_equal(a["V"][:, outside], V[:, outside])
    np.testing.assert_array_equal(a["T"][:, outside], T[:, outside])
    assert (a["V"][:, 3:9] != V[:, 3:9]).any()
