"""Rows that come in any order."""

from __future__ import annotations

import os
import tempfile
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tigon.storage import scattering
from tigon.storage.errors import InputError
from tigon.storage.rows import RowFile
from tigon.storage.scattering import BUCKET_BYTES, in_any_order


@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 3000),
    width=st.integers(1, 300),
    share=st.floats(0.001, 1.0),
    bucket_bytes=st.sampled_from([1, 5000, 1 << 23]),
    n_calls=st.integers(1, 5),
)
@settings(max_examples=80, deadline=None)
def test_rows_are_where_they_belong_and_others_stay(
    seed: int, n: int, width: int, share: float, bucket_bytes: int, n_calls: int
) -> None:
    rng = np.random.default_rng(seed)
    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patched,
    ):
        patched.setattr(scattering, "BUCKET_BYTES", bucket_bytes)
        rows = RowFile(Path(folder) / "H", (n, width))
        expected = np.zeros((n, width), np.float32)
        for number in (1.0, 2.0):
            some = rng.permutation(n)[: round(share * n)]
            new = rng.random((len(some), width), np.float32) + np.float32(number)
            with in_any_order(rows) as write:
                for part in np.array_split(np.arange(len(some)), n_calls):
                    write(some[part], new[part])
            expected[some] = new
            np.testing.assert_array_equal(rows.read(0, n), expected)
        assert [path.name for path in Path(folder).iterdir()] == ["H"]


def test_parts_of_a_file_of_rows(tmp_path: Path) -> None:
    H = np.random.default_rng(0).random((500, 6), np.float32)
    rows = RowFile(tmp_path / "H", (500, 6))
    rows.write(0, H)
    np.testing.assert_array_equal(rows.read(17, 90), H[17:90])
    rows.write(10, np.ones((5, 6), np.float32))
    assert (rows.read(9, 16) == 1).all(axis=1).tolist() == [False, *[True] * 5, False]
    with pytest.raises(InputError, match="cannot be read"):
        rows.read(490, 510)


def test_what_is_written_grows_with_the_rows_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scattering, "BUCKET_BYTES", 1 << 16)
    sizes: list[int] = []
    whole = os.pwrite

    def counted(number: int, data: memoryview, at: int) -> int:
        sizes.append(len(data))
        return whole(number, data, at)

    monkeypatch.setattr(os, "pwrite", counted)
    n = 60_000
    rows = RowFile(tmp_path / "H", (n, 20))
    order = np.random.default_rng(0).permutation(n)
    n_buckets = -(-n // ((1 << 16) // (80 + scattering._SORTING_BYTES)))
    with in_any_order(rows) as write:
        for part in np.array_split(order, 100):
            write(part, np.ones((len(part), 20), np.float32))
    assert sum(sizes) == n * (84 + 80)
    # Every time that a bucketful is there, something for each bucket, and at last all of it.
    assert len(sizes) <= n_buckets * (n_buckets + 1)
    assert (rows.read(0, n) == 1).all()


def test_nothing_is_written_when_the_work_fails(tmp_path: Path) -> None:
    rows = RowFile(tmp_path / "H", (10, 2))

    def work() -> None:
        with in_any_order(rows) as write:
            write(np.arange(10), np.ones((10, 2), np.float32))
            raise RuntimeError("interrupted")

    with pytest.raises(RuntimeError, match="interrupted"):
        work()
    assert (rows.read(0, 10) == 0).all()
    assert [path.name for path in tmp_path.iterdir()] == ["H"]


def test_progress_is_told_of_all_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scattering, "BUCKET_BYTES", 10 * (80 + scattering._SORTING_BYTES))
    told: list[tuple[str, int, int]] = []

    def progress(stage: str, done: int, total: int, **_: float) -> None:
        told.append((stage, done, total))

    rows = RowFile(tmp_path / "H", (25, 20))
    with in_any_order(rows, progress) as write:
        write(np.arange(25)[::-1], np.ones((25, 20), np.float32))
    assert told == [("ordering loadings", done, 25) for done in (10, 20, 25)]
    told.clear()
    with in_any_order(rows, progress) as write:
        write(np.arange(5, 12), np.ones((7, 20), np.float32))
    assert told == [("ordering loadings", done, 7) for done in (5, 7)]


@pytest.mark.parametrize("width", [1, 2, 20, 100])
def test_memory_is_three_times_a_bucket(tmp_path: Path, width: int) -> None:
    n, step = 3 * BUCKET_BYTES // (4 * width), 8192
    rows = RowFile(tmp_path / "H", (n, width))
    order = np.random.default_rng(0).permutation(n)
    given = np.ones((step, width), np.float32)
    tracemalloc.start()
    try:
        with in_any_order(rows) as write:
            for start in range(0, n, step):
                part = order[start : start + step]
                write(part, given[: len(part)].copy())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert most <= 3 * (BUCKET_BYTES + given.nbytes + 32 * step)
