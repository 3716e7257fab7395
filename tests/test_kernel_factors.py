"""Public Gram matrices and HALS on NumPy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from counts import assert_threads_agree

from tigon.kernels import gram, hals, reference

FACTORS = [1, 3, 20, 100, 128]
EPS32, EPS64 = np.finfo(np.float32).eps, np.finfo(np.float64).eps


# Gram matrices


@pytest.mark.parametrize("k", FACTORS)
@pytest.mark.parametrize("m", [1, 37, 1029])
def test_gram_agrees_with_the_specification(k: int, m: int) -> None:
    rng = np.random.default_rng(k + m)
    L, V = rng.random((2, k, m), np.float32)
    exact = reference.gram(L.astype(float), V.astype(float), 5.0)
    # Float64 sums of m positive terms, in either order.
    np.testing.assert_allclose(gram(L, V, 5.0), exact, rtol=2 * m * EPS64 + 4 * EPS64)
    np.testing.assert_allclose(gram(L), L.astype(float) @ L.T.astype(float), rtol=2 * m * EPS64)


def test_gram_reads_float64_as_it_is() -> None:
    rng = np.random.default_rng(1)
    L = 1.0 + 1e-9 * rng.random((5, 70))
    V = rng.random((5, 70), np.float32)
    exact = reference.gram(L, V.astype(float), 2.0)
    np.testing.assert_allclose(gram(L, V, 2.0), exact, rtol=200 * EPS64)
    # All of float32 gives one number here.
    assert len(np.unique(L.astype(np.float32))) == 1
    assert (gram(L) != gram(L.astype(np.float32))).any()


def test_gram_reads_any_layout_and_integers() -> None:
    rng = np.random.default_rng(2)
    L = rng.integers(-5, 9, (6, 90))
    expected = (L @ L.T).astype(float)
    for same in (L, np.asfortranarray(L.astype(np.float32)), np.repeat(L, 2, axis=1)[:, ::2]):
        np.testing.assert_array_equal(gram(same), expected)


def test_gram_has_the_same_bits_for_any_threads_and_is_symmetric() -> None:
    L = np.random.default_rng(3).random((19, 5000), np.float32)
    assert_threads_agree(lambda n: (gram(L, L, 0.3, n_threads=n),))
    G = gram(L)
    np.testing.assert_array_equal(G, G.T)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((np.zeros((0, 5)),), ValueError, r"L has shape \(0, 5\): at least one factor"),
        ((np.zeros(5),), ValueError, r"L has shape \(5,\)"),
        ((np.zeros((2, 3)), np.zeros((2, 4)), 1.0), ValueError, r"V has shape \(2, 4\): \(2, 3\)"),
        ((np.full((2, 3), np.nan),), ValueError, "L has 6 entries that are not finite"),
        ((np.array([[np.inf, -np.inf]]),), ValueError, "L has 2 entries that are not finite"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), -1.0), ValueError, "lam is -1.0"),
        ((np.zeros((2, 3)), np.zeros((2, 3)), np.nan), ValueError, "lam is nan"),
        ((np.zeros((2, 3)), None, 5.0), ValueError, "lam is 5.0 and there is no V"),
        ((np.zeros((2, 3), complex),), TypeError, "L has dtype complex128"),
        (([[1.0]],), TypeError, "builtins.list is neither a NumPy nor a CuPy array"),
        ((np.zeros((2, 3)), None, 0.0, 0), ValueError, "n_threads is 0"),
    ],
)
def test_gram_refuses(arguments: tuple[Any, ...], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        gram(*arguments)


# HALS


def draw_factor(seed: int, k: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """F, T and S of cells that use every factor but the second."""
    rng = np.random.default_rng(seed)
    H = rng.random((3 * k + 5, k)) * (np.arange(k) != 1)
    X = rng.random((len(H), m))
    return rng.random((k, m), np.float32), H.T @ X, H.T @ H


@pytest.mark.parametrize("k", FACTORS)
@pytest.mark.parametrize("n_sweeps", [1, 3])
def test_hals_agrees_with_the_specification(k: int, n_sweeps: int) -> None:
    F, T, S = draw_factor(k, k, 53)
    before = F.copy()
    found = hals(F, T, S, n_sweeps)
    expected = reference.hals(F.astype(float), T, S, n_sweeps)
    # A row is a difference of sums of k float32 terms, each about as large as the row, and
    # is carried into the rows after it.
    tolerance = 4 * k * n_sweeps * EPS32 * expected.max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=tolerance)
    np.testing.assert_array_equal(F, before)
    assert found.dtype == np.float32
    if k > 1:
        np.testing.assert_array_equal(found[1], F[1])


def test_hals_never_raises_the_objective() -> None:
    F, T, S = draw_factor(1, 7, 31)
    value = [np.sum(F * (S @ F)) - 2 * np.sum(F * T)]
    for _ in range(10):
        F = hals(F, T, S)
        value.append(np.sum(F * (S @ F)) - 2 * np.sum(F * T))
    assert (np.diff(value) <= 10 * EPS32 * abs(value[0])).all()
    assert value[-1] < value[0]


def test_hals_has_the_same_bits_for_any_threads_layout_and_neighbours() -> None:
    F, T, S = draw_factor(2, 11, 2500)
    assert_threads_agree(lambda n: (hals(F, T, S, 2, n),))
    whole = hals(F, T, S, 2)
    np.testing.assert_array_equal(hals(np.asfortranarray(F), np.asfortranarray(T), S, 2), whole)
    for genes in (slice(3, 4), slice(1000, 1031), slice(0, None, 7)):
        np.testing.assert_array_equal(hals(F[:, genes], T[:, genes], S, 2), whole[:, genes])


@pytest.mark.parametrize("exponent", [-200, -30, 60, 300])
def test_hals_does_not_depend_on_the_unit_of_cells(exponent: int) -> None:
    # Beyond what float32 holds.
    F, T, S = draw_factor(3, 6, 40)
    scale = 2.0**exponent
    np.testing.assert_array_equal(hals(F, T * scale, S * scale), hals(F, T, S))


def test_hals_without_cells_changes_nothing() -> None:
    F = np.random.default_rng(4).random((3, 20), np.float32)
    np.testing.assert_array_equal(hals(F, np.zeros((3, 20)), np.zeros((3, 3))), F)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor": -np.ones((2, 3))}, "factor has negative entries .lowest: -1.: zero or above"),
        ({"factor": np.ones((3, 3))}, r"factor has shape \(3, 3\): \(2, any\)"),
        ({"factor": np.full((2, 3), np.inf)}, "factor has 6 entries that are not finite"),
        ({"target": np.ones((2, 4))}, r"target has shape \(2, 4\): \(2, 3\)"),
        ({"target": np.full((2, 3), np.nan)}, "target has 6 entries that are not finite"),
        ({"gram": np.diag([1.0, -1.0])}, "gram is not positive semi-definite"),
        ({"gram": np.array([[1.0, 0.5], [0.1, 1.0]])}, "gram is not symmetric"),
        ({"gram": np.ones((2, 3))}, "gram has shape"),
        ({"gram": np.ones((0, 0))}, "at least one factor"),
        ({"n_sweeps": 0}, "n_sweeps is 0: at least 1 sweep"),
        ({"n_threads": -1}, "n_threads is -1"),
    ],
)
def test_hals_refuses(change: dict[str, Any], message: str) -> None:
    good = {"factor": np.ones((2, 3)), "target": np.ones((2, 3)), "gram": np.eye(2)}
    with pytest.raises(ValueError, match=message):
        hals(**(good | change))
