"""The quick way to narrow counts gives what the careful way gives, or leaves it to that."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tigon.storage import counts, narrowing
from tigon.storage.counts import BadEntry, CountType, clean_rows
from tigon.storage.narrowing import narrowed
from tigon.storage.sources.matrices.matrix import SparseRows

N_GENES = 40


def rows_of(dense: np.ndarray, index_dtype: Any, value_dtype: Any) -> SparseRows:
    X = sparse.csr_array(dense)
    return SparseRows(
        X.indptr.astype(np.int64), X.indices.astype(index_dtype), X.data.astype(value_dtype)
    )


def outcome(rows: SparseRows, kind: CountType) -> tuple[Any, ...]:
    try:
        clean = clean_rows(rows, kind)
    except BadEntry as error:
        return error.row, error.column, str(error.value), error.problem
    return tuple(
        (array.dtype, array.tolist()) for array in (clean.indptr, clean.indices, clean.values)
    )


spoilt = st.one_of(
    st.none(),
    st.tuples(
        st.just("values"), st.sampled_from([0, -1, 0.5, np.nan, np.inf, -np.inf, 2**32, 70_000])
    ),
    st.tuples(st.just("indices"), st.sampled_from([-1, 0, N_GENES])),
)


@settings(max_examples=200, deadline=None)
@given(
    seed=st.integers(0, 50),
    index_dtype=st.sampled_from([np.int16, np.int32, np.int64, np.uint16, np.uint32]),
    value_dtype=st.sampled_from(
        [np.float32, np.float64, np.int16, np.int32, np.int64, np.uint16, np.uint32]
    ),
    values=st.sampled_from([np.uint16, np.uint32]),
    spoil=spoilt,
    strip=st.sampled_from([1, 7, 1 << 15]),
)
def test_the_quick_way_is_the_careful_way(
    seed: int, index_dtype: Any, value_dtype: Any, values: Any, spoil: Any, strip: int
) -> None:
    rng = np.random.default_rng(seed)
    dense = rng.poisson(0.5, (12, N_GENES)) * (rng.random((12, 1)) > 0.2)
    rows = rows_of(dense, index_dtype, value_dtype)
    if spoil is not None and len(rows.values):
        array = getattr(rows, spoil[0])
        with np.errstate(all="ignore"):
            array[rng.integers(len(array))] = np.array(spoil[1]).astype(array.dtype)
    kind = CountType(N_GENES, N_GENES, np.dtype(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(narrowing, "_STRIP", strip)
        quick = outcome(rows, kind)
        patch.setattr(counts, "narrowed", lambda *_: None)
        assert outcome(rows, kind) == quick


def test_the_quick_way_is_taken() -> None:
    rows = rows_of(np.eye(5) * 3, np.int32, np.float32)
    narrow = narrowed(rows, 5, np.dtype(np.uint16), np.dtype(np.uint32))
    assert narrow is not None
    assert (narrow.indices.dtype, narrow.values.dtype) == (np.uint16, np.uint32)
    assert narrow.values.tolist() == [3] * 5


@pytest.mark.parametrize("value", [2.0**32, np.nan, -1.0, 1.5, 0.0])
def test_what_needs_care_is_left_alone(value: float) -> None:
    rows = SparseRows(np.array([0, 1]), np.zeros(1, np.int32), np.array([value], np.float32))
    assert narrowed(rows, 5, np.dtype(np.uint16), np.dtype(np.uint32)) is None


def test_narrow_arrays_are_not_copied() -> None:
    rows = rows_of(np.eye(5), np.uint16, np.uint16)
    narrow = narrowed(rows, 5, np.dtype(np.uint16), np.dtype(np.uint16))
    assert narrow is not None
    assert narrow.indices is rows.indices
    assert narrow.values is rows.values


def test_sorting_leaves_the_rows_of_the_caller_alone() -> None:
    values = np.array([5, 7], np.uint16)
    rows = SparseRows(np.array([0, 2]), np.array([3, 1], np.int32), values)
    clean = clean_rows(rows, CountType(5, 5, np.dtype(np.uint16)))
    assert (clean.indices.tolist(), clean.values.tolist()) == ([1, 3], [7, 5])
    assert values.tolist() == [5, 7]
