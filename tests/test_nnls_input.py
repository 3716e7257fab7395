"""What the public least squares take, and what they refuse and why."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from problems import draw_system
from scipy import sparse

from tigon.kernels import nnls
from tigon.kernels.checking import check_gram
from tigon.kernels.least_squares import Mode

Array = np.ndarray

MODES = ("fast", "tight", "exact")

G, R = draw_system(1, 30, 4)
H0 = np.ones(R.shape)


class DeviceArray:
    """Looks like an array of CuPy to whoever asks for its library."""

    dtype, ndim = np.dtype(np.float64), 2


DeviceArray.__module__ = "cupy._core.core"


def changed(array: Array, value: Any, place: tuple[int, ...] = (1, 2)) -> Array:
    """Copy with one entry replaced."""
    array = array.copy()
    array[place] = value
    return array


def symmetric(array: Array, value: float) -> Array:
    return changed(changed(array, value), value, (2, 1))


NOT_REAL = "real numbers are needed; convert it to float32 or float64"
NOT_FINITE = "1 entries that are not finite: look for overflow or missing values"
NOT_PSD = "not positive semi-definite (eigenvalue -"

REFUSED: dict[str, tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = {
    "nan in G": ((symmetric(G, np.nan), R), {}, ValueError, "G has 2 entries that are not finite"),
    "inf in G": ((changed(G, np.inf, (0, 0)), R), {}, ValueError, "G has " + NOT_FINITE),
    "nan in R": ((G, changed(R, np.nan)), {}, ValueError, "R has " + NOT_FINITE),
    "inf in R": ((G, changed(R, np.inf)), {}, ValueError, "R has " + NOT_FINITE),
    "-inf in R": ((G, changed(R, -np.inf)), {}, ValueError, "R has " + NOT_FINITE),
    "nan in H0": ((G, R, changed(H0, np.nan)), {}, ValueError, "H0 has " + NOT_FINITE),
    "float32 nan": ((G, changed(R, np.nan).astype("f4")), {}, ValueError, "R has " + NOT_FINITE),
    "not symmetric": ((changed(G, 0.0), R), {}, ValueError, "G is not symmetric (entries differ"),
    "indefinite": ((symmetric(G, 2 * G.max()), R), {}, ValueError, NOT_PSD),
    "negative": ((-G, R), {}, ValueError, NOT_PSD),
    "below zero": ((changed(G, -1e-4, (0, 0)), R), {}, ValueError, NOT_PSD),
    "start below zero": (
        (G, R, changed(H0, -0.5)),
        {},
        ValueError,
        "H0 has negative entries (lowest: -0.5): zero or above is needed; clip it",
    ),
    "G of one dimension": ((G[0], R), {}, ValueError, "G has shape (4,): (any, any) is needed"),
    "G not square": ((G[:3], R), {}, ValueError, "G has shape (3, 4): a Gram matrix is square"),
    "no factor": (
        (np.empty((0, 0)), np.empty((3, 0))),
        {},
        ValueError,
        "G has shape (0, 0): at least one factor is needed",
    ),
    "R of one dimension": ((G, R[0]), {}, ValueError, "R has shape (4,): (any, 4) is needed"),
    "R too narrow": ((G, R[:, :3]), {}, ValueError, "R has shape (30, 3): (any, 4) is needed"),
    "R turned": ((G, R.T), {}, ValueError, "R has shape (4, 30): (any, 4) is needed"),
    "H0 of other cells": ((G, R, H0[:5]), {}, ValueError, "H0 has shape (5, 4): (30, 4) is needed"),
    "complex G": ((G.astype(complex), R), {}, TypeError, "G has dtype complex128: " + NOT_REAL),
    "complex R": ((G, R.astype("c8")), {}, TypeError, "R has dtype complex64: " + NOT_REAL),
    "objects": ((G, R.astype(object)), {}, TypeError, "R has dtype object: " + NOT_REAL),
    "truths": ((G, R > 1), {}, TypeError, "R has dtype bool: " + NOT_REAL),
    "words": ((G, R.astype(str)), {}, TypeError, "R has dtype <U32: " + NOT_REAL),
    "words to start": ((G, R, H0.astype(str)), {}, TypeError, "H0 has dtype <U32: " + NOT_REAL),
    "times": ((G, R.astype("m8[s]")), {}, TypeError, "R has dtype timedelta64[s]: " + NOT_REAL),
    "G a list": ((G.tolist(), R), {}, TypeError, "builtins.list is neither a NumPy nor a CuPy"),
    "R a list": ((G, R.tolist()), {}, TypeError, "convert it with numpy.asarray"),
    "H0 a number": ((G, R, 0.5), {}, TypeError, "builtins.float is neither a NumPy nor a CuPy"),
    "R sparse": ((G, sparse.csr_array(R)), {}, TypeError, "scipy.sparse"),
    "two libraries": (
        (G, DeviceArray()),
        {},
        TypeError,
        "arrays of two libraries (G of numpy, R of cupy): move all to the host or the device",
    ),
    "start elsewhere": ((G, R, DeviceArray()), {}, TypeError, "H0 of cupy): move all to the host"),
    "unknown mode": ((G, R), {"mode": "quick"}, ValueError, "mode is 'quick': it is one of 'fast'"),
    "no mode": ((G, R), {"mode": None}, ValueError, "mode is None: it is one of 'fast'"),
    "tol zero": ((G, R), {"tol": 0}, ValueError, "tol is 0: mode 'fast' takes 1e-05 or more"),
    "tol below zero": ((G, R), {"tol": -1e-3}, ValueError, "tol is -0.001: mode 'fast' takes"),
    "tol one": ((G, R), {"tol": 1.0}, ValueError, "and less than 1"),
    "tol nan": ((G, R), {"tol": np.nan}, ValueError, "tol is nan: mode 'fast' takes"),
    "tol beyond fast": ((G, R), {"tol": 1e-6}, ValueError, "mode 'exact' reaches further"),
    "tol beyond tight": (
        (G, R),
        {"tol": 1e-13, "mode": "tight"},
        ValueError,
        "takes 1e-12 or more",
    ),
    "tol beyond exact": (
        (G, R),
        {"tol": 1e-15, "mode": "exact"},
        ValueError,
        "takes 1e-14 or more",
    ),
    "no threads": (
        (G, R),
        {"n_threads": 0},
        ValueError,
        "n_threads is 0: at least 1 thread is needed; omit it for all",
    ),
    "fewer threads": ((G, R), {"n_threads": -2}, ValueError, "n_threads is -2: at least 1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_input_is_refused(case: str) -> None:
    arrays, options, kind, message = REFUSED[case]
    with pytest.raises(kind, match=re.escape(message)):
        nnls(*arrays, **options)


@given(
    seed=st.integers(0, 10_000),
    k=st.integers(1, 40),
    m=st.integers(1, 2000),
    scale=st.integers(-12, 12),
    signed=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_every_gram_matrix_is_taken(seed: int, k: int, m: int, scale: int, signed: bool) -> None:
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, k + 1))
    draw = rng.standard_normal if signed else rng.random
    wide = draw((k, rank)) @ draw((rank, m)) * 10.0**scale
    L = wide.astype(np.float32)
    # Summed in float32, as a BLAS product or in order of genes; rounded once; in float64.
    for G in (L @ L.T, np.einsum("ig,jg->ij", L, L), (wide @ wide.T).astype("f4"), wide @ wide.T):
        check_gram(G)


@given(seed=st.integers(0, 10_000), k=st.integers(2, 40), dtype=st.sampled_from(["f4", "f8"]))
@settings(max_examples=60, deadline=None)
def test_what_is_far_from_a_gram_matrix_is_refused(seed: int, k: int, dtype: str) -> None:
    rng = np.random.default_rng(seed)
    L = rng.standard_normal((k, 2 * k)) / k
    G = (L @ L.T).astype(dtype)
    G /= G.max()
    values, vectors = np.linalg.eigh(G.astype(float))
    depth = 10.0 ** rng.integers(-2, 1)  # rounding of float32 explains about 1e-3 at k = 100
    bent = G - (values[0] + depth) * np.outer(vectors[:, 0], vectors[:, 0])
    bent = ((bent + bent.T) / 2).astype(dtype)
    with pytest.raises(ValueError, match="not positive semi-definite"):
        check_gram(bent)
    skew = G.copy()
    skew[0, -1] += np.asarray(depth, dtype)
    with pytest.raises(ValueError, match="not symmetric"):
        check_gram(skew)


def test_infinities_of_both_signs_are_refused_by_number() -> None:
    R_bad = changed(changed(R, np.inf), -np.inf, (3, 3))
    with pytest.raises(ValueError, match="R has 2 entries that are not finite"):
        nnls(G, R_bad)  # their sum is not a number, of which NumPy would warn


def test_finite_products_may_have_an_infinite_sum() -> None:
    H, info = nnls(G, np.full((400, 4), 3e37, np.float32))
    assert np.isfinite(H).all()
    assert info.converged.all()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_no_cells_are_no_error(mode: Mode, n_threads: int) -> None:
    for start in (None, np.empty((0, 4))):
        H, info = nnls(G, np.empty((0, 4)), start, mode=mode, n_threads=n_threads)
        assert H.shape == (0, 4)
        assert (info.sweeps.dtype, info.kkt_residual.dtype) == (np.int32, np.float64)
        assert info.sweeps.shape == info.kkt_residual.shape == info.converged.shape == (0,)


@pytest.mark.parametrize("mode", MODES)
def test_any_layout_of_the_same_numbers_gives_the_same_bits(mode: Mode) -> None:
    expected, _ = nnls(G, R, H0, mode=mode)
    spaced = np.zeros((60, 12))
    spaced[::2, 1::3] = R
    swapped = [array.astype(array.dtype.newbyteorder()) for array in (G, R, H0)]
    frozen = [array.copy() for array in (G, R, H0)]
    for array in frozen:
        array.flags.writeable = False
    for arrays in (
        [np.asfortranarray(array) for array in (G, R, H0)],
        [G, spaced[::2, 1::3], H0],
        [np.flip(np.flip(G).copy()), np.flip(np.flip(R).copy()), H0],
        [G, R, np.broadcast_to(np.ones(4), R.shape)],
        swapped,
        frozen,
    ):
        np.testing.assert_array_equal(nnls(*arrays, mode=mode)[0], expected)


@pytest.mark.parametrize("mode", MODES)
def test_numbers_of_any_type_are_taken(mode: Mode) -> None:
    counts = np.random.default_rng(3).integers(0, 9, (4, 30))
    products = np.random.default_rng(4).integers(0, 9, (20, 30)) @ counts.T
    gram = counts @ counts.T
    expected, _ = nnls(gram.astype(float), products.astype(float), mode=mode)
    for kind in ("i4", "u4", "i8", "f4"):  # all hold these integers
        H, _ = nnls(gram.astype(kind), products.astype(kind), mode=mode)
        np.testing.assert_array_equal(H, expected)
    assert expected.dtype == (np.float32 if mode == "fast" else np.float64)


@pytest.mark.parametrize("mode", MODES)
def test_what_is_given_is_not_written(mode: Mode) -> None:
    given_ = [array.copy() for array in (G, R, H0)]
    H, _ = nnls(*given_, mode=mode)
    for before, after in zip((G, R, H0), given_, strict=True):
        np.testing.assert_array_equal(before, after)
        assert not np.shares_memory(H, after)
