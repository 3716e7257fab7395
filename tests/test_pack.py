"""The pack: every cell once, in its place, however it arrived."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator
from io import BytesIO
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

from tigon.scaling.packing import RUN_BYTES, pack_order, run_bytes
from tigon.storage.errors import InputError
from tigon.storage.packs import sorting, stretches
from tigon.storage.packs.blocks import PackBlock
from tigon.storage.packs.pack import CELL, Pack
from tigon.storage.packs.sorting import Bucket, Rows, RunFiles
from tigon.storage.packs.writer import PackWriter
from tigon.storage.rows import RowFile
from tigon.storage.scattering import in_any_order


def draw_cells(n: int, m: int, seed: int) -> tuple[PackBlock, np.ndarray]:
    rng = np.random.default_rng(seed)
    X = sparse.random_array((n, m), density=0.3, rng=rng, format="csr")
    block = PackBlock(
        positions=rng.permutation(n) * 3,
        datasets=rng.integers(0, 4, n).astype(np.int32),
        weights=rng.random(n, np.float32),
        indptr=X.indptr.astype(np.int64),
        genes=X.indices.astype(np.uint16),
        counts=rng.integers(1, 60_000, X.nnz).astype(np.uint16),
    )
    return block, rng.permutation(n)


def part(block: PackBlock, rows: np.ndarray) -> PackBlock:
    lengths = np.diff(block.indptr)[rows]
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    entries = np.arange(indptr[-1]) + np.repeat(block.indptr[rows] - indptr[:-1], lengths)
    return PackBlock(
        block.positions[rows],
        block.datasets[rows],
        block.weights[rows],
        indptr,
        block.genes[entries],
        block.counts[entries],
    )


def add(writer: PackWriter, places: np.ndarray, block: PackBlock, run: int = 0) -> None:
    """Write a run of cells, and have it noted."""
    cells = np.empty(len(places), CELL)
    cells["position"], cells["dataset"] = block.positions, block.datasets
    cells["weight"] = block.weights
    rows = (block.indptr, (block.genes, block.counts))
    writer.take(places, cells, writer.run_writer(run, places, [rows]))


def same(a: PackBlock, b: PackBlock) -> bool:
    return all(np.array_equal(getattr(a, f), getattr(b, f)) for f in PackBlock.__slots__)


@given(n=st.integers(1, 60), n_buckets=st.integers(1, 9), piece=st.integers(1, 60))
@settings(max_examples=30, deadline=None)
def test_cells_come_back_in_their_places(
    tmp_path_factory: pytest.TempPathFactory, n: int, n_buckets: int, piece: int
) -> None:
    block, places = draw_cells(n, 12, seed=n)
    folder = tmp_path_factory.mktemp("pack") / "pack"
    dtypes = (np.dtype("<u2"), np.dtype("<u2"))
    writer = PackWriter(folder, (n, 12), dtypes, n_buckets)
    for run, start in enumerate(range(0, n, piece)):
        rows = np.arange(start, min(start + piece, n))
        add(writer, places[rows], part(block, rows), run)
    pack = writer.finish()
    in_place = np.argsort(places)
    assert same(pack.read(0, n), part(block, in_place))
    assert same(pack.read(n // 3, n // 2), part(block, in_place[n // 3 : n // 2]))
    assert {f.name for f in folder.iterdir()} == {
        "cells.bin", "indptr.bin", "genes.bin", "counts.bin", "pack.json"
    }  # fmt: skip


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_what_is_done_twice_or_late_changes_nothing(tmp_path: Path) -> None:
    block, places = draw_cells(60, 12, seed=1)
    dtypes = (np.dtype("<u2"), np.dtype("<u2"))
    once, again = (PackWriter(tmp_path / name, (60, 12), dtypes, 4) for name in ("one", "two"))
    whole = (places, [(block.indptr, (block.genes, block.counts))])

    def twice(fn, buckets):  # type: ignore[no-untyped-def]
        for bucket in buckets:
            fn(bucket)
            yield fn(bucket)
            again.run_writer(0, *whole)

    add(once, places, block)
    again.run_writer(0, *whole)
    add(again, places, block)
    once.finish()
    again.finish(twice)
    assert content(tmp_path / "two") == content(tmp_path / "one")
    with pytest.raises(FileNotFoundError):
        again.run_writer(0, *whole)
    assert content(tmp_path / "two") == content(tmp_path / "one")


def test_what_is_in_order_gives_its_room_back(tmp_path: Path) -> None:
    n = 4000
    block, places = draw_cells(n, 12, seed=2)
    writer = PackWriter(tmp_path / "pack", (n, 12), (np.dtype("<u2"), np.dtype("<u2")), 48)
    for run, rows in enumerate(np.array_split(np.arange(n), 7)):
        add(writer, places[rows], part(block, rows), run)
    n_bytes, kept = 4 * len(block.genes), []

    def one_by_one(fn, buckets):  # type: ignore[no-untyped-def]
        for bucket in buckets:
            kept.append(sum(path.stat().st_size for path in tmp_path.glob("*/parts-*/run-*")))
            yield fn(bucket)

    pack = writer.finish(one_by_one)
    assert same(pack.read(0, n), part(block, np.argsort(places)))
    assert kept[0] == n_bytes
    for in_order, there in enumerate(kept):
        assert there <= n_bytes * (1 - in_order // 6 / 8) * 1.05


@given(cuts=st.lists(st.integers(0, 900)), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_sums_of_stretches_are_those_of_the_whole_file(cuts: list[int], seed: int) -> None:
    data = np.random.default_rng(seed).bytes(900)
    file, pieces = BytesIO(), []
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(stretches, "STRETCH_BYTES", 100)
        for start, stop in pairwise([0, *sorted(cuts), 900]):
            summed = stretches.SummedFile(file, start)
            summed.writelines([data[start:stop][:7], data[start:stop][7:]])
            pieces += summed.finish()
        assert stretches.sums_of_stretches(pieces) == [
            zlib.crc32(data[i : i + 100]) for i in range(0, 900, 100)
        ]
    assert file.getvalue() == data


def test_a_pack_that_was_cut_short_is_refused(tmp_path: Path) -> None:
    block, places = draw_cells(40, 12, seed=0)
    dtypes = (np.dtype("<u2"), np.dtype("<u2"))
    writer = PackWriter(tmp_path / "pack", (40, 12), dtypes, 3)
    add(writer, places, block)
    with pytest.raises(InputError, match="holds no finished pack"):
        Pack(tmp_path / "pack")
    pack = writer.finish()
    counts = tmp_path / "pack" / "counts.bin"
    counts.write_bytes(counts.read_bytes()[:-2])
    with pytest.raises(InputError, match="bytes where"):
        Pack(tmp_path / "pack")
    with pytest.raises(InputError, match="ends early"):
        pack.read(0, 40)


def test_rows_aside_that_were_cut_short_are_refused(tmp_path: Path) -> None:
    files = RunFiles(tmp_path, (np.dtype(np.uint16),), 4)
    entries = np.arange(12, dtype=np.uint16)
    files.write(0, np.arange(4), [(np.arange(0, 13, 3), (entries,))])
    four = Bucket(0, 0, np.full(4, 3, np.uint32), np.zeros(4, np.int32), 0, np.zeros(1, np.int64))
    assert b"".join(files.read(four)[0]) == entries.tobytes()
    os.truncate(tmp_path / "run-0-0", 20)
    with pytest.raises(InputError, match="run-0-0 ends early: an intermediate file was cut short"):
        files.read(four)


def test_a_pack_of_more_buckets_than_files_may_be_open(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    block, places = draw_cells(400, 12, seed=0)
    writer = PackWriter(tmp_path / "pack", (400, 12), (np.dtype("<u2"), np.dtype("<u2")), 400)
    n_open = len(list(Path("/dev/fd").iterdir()))
    resource.setrlimit(resource.RLIMIT_NOFILE, (n_open + 110, hard))
    try:
        for run, rows in enumerate(np.array_split(np.arange(400), 3)):
            add(writer, places[rows], part(block, rows), run)
        pack = writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert same(pack.read(0, 400), part(block, np.argsort(places)))


FULL_PACK = """
with writing_scratch(scratch, "for the pack"):
    n, dtypes = 2000, (np.dtype("<u2"), np.dtype("<u2"))
    ones, places = np.ones(n, np.uint16), np.arange(n)
    writer = PackWriter(scratch.folder / "pack", (n, 2), dtypes, 8)
    lengths = writer.run_writer(0, places, [(np.arange(n + 1), (ones, ones))])
    writer.take(places, np.zeros(n, CELL), lengths)
    print("all cells are scattered")
    writer.finish()
"""
FULL_ROWS = """
with writing_scratch(scratch, "for the rows"):
    rows = RowFile(scratch.folder / "H", (100, 10))
    rows.write(0, np.ones((100, 10), np.float32))
    print("what fits is written")
    RowFile(scratch.folder / "H", (1000, 10))
"""


@pytest.mark.parametrize(
    ("code", "told", "purpose"),
    [
        (FULL_PACK, "all cells are scattered", "for the pack"),
        (FULL_ROWS, "what fits is written", "for the rows"),
    ],
)
def test_a_full_disk_is_told(tmp_path: Path, code: str, told: str, purpose: str) -> None:
    start = (
        "import resource\nfrom pathlib import Path\nimport numpy as np\n"
        "from tigon.storage.packs.pack import CELL\n"
        "from tigon.storage.packs.writer import PackWriter\n"
        "from tigon.storage.rows import RowFile\n"
        "from tigon.storage.scratch import Scratch, writing_scratch\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))\n"
        f"scratch = Scratch(Path({str(tmp_path)!r}))\n"
    )
    process = subprocess.run(
        [sys.executable, "-c", start + code], check=False, capture_output=True, text=True
    )
    assert process.stdout.strip() == told
    last = process.stderr.strip().splitlines()[-1]
    assert f"NoSpaceError: no space left in {tmp_path} {purpose}: " in last
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_stops_midway_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda number, data, at: whole(number, data[:1000], at))
    H = np.random.default_rng(0).random((500, 6), np.float32)
    rows = RowFile(tmp_path / "H", (500, 6))
    rows.write(0, H)
    np.testing.assert_array_equal(rows.read(0, 500), H)
    with in_any_order(rows) as write:
        write(np.roll(np.arange(500), 100), H[::-1])
    np.testing.assert_array_equal(rows.read(0, 500), np.roll(H[::-1], -100, axis=0))


@given(seed=st.integers(0, 1000), n=st.integers(1, 400), d=st.integers(1, 6))
@settings(max_examples=50, deadline=None)
def test_every_prefix_of_the_pack_is_near_proportional(seed: int, n: int, d: int) -> None:
    codes = np.random.default_rng(seed).integers(-1, d, n).astype(np.int32)
    places = pack_order(codes, np.random.SeedSequence(seed))
    kept = codes >= 0
    assert sorted(places[kept]) == list(range(kept.sum()))
    assert (places[~kept] == -1).all()
    ordered = codes[np.argsort(np.where(kept, places, n))][: kept.sum()]
    for dataset in np.unique(ordered):
        share = np.cumsum(ordered == dataset)
        expected = np.arange(1, len(ordered) + 1) * share[-1] / len(ordered)
        # Each dataset is one cell at most off in each stretch of its own spacing.
        assert np.abs(share - expected).max() <= d


def test_a_pack_in_memory_is_read_like_one_that_is_not(tmp_path: Path) -> None:
    block, places = draw_cells(60, 12, seed=3)
    writer = PackWriter(tmp_path / "pack", (60, 12), (np.dtype("<u2"), np.dtype("<u2")), 3)
    add(writer, places, block)
    pack, held = writer.finish(), Pack(tmp_path / "pack")
    held.hold()
    for path in (tmp_path / "pack").iterdir():
        path.write_bytes(b"")
    for start, stop in ((0, 60), (7, 31), (60, 60)):
        assert same(held.read(start, stop), part(block, np.argsort(places)[start:stop]))
        np.testing.assert_array_equal(
            held.datasets(start, stop), block.datasets[np.argsort(places)[start:stop]]
        )
    with pytest.raises(InputError, match="ends early"):
        pack.read(0, 60)


@pytest.mark.parametrize("counts", ["<u1", "<f4"])
def test_a_run_holds_no_more_than_was_promised(tmp_path: Path, counts: str) -> None:
    n, m = 2048, 500
    dtypes = (np.dtype("<u1"), np.dtype(counts))
    packed = n * m * 4 + n * m * (counts == "<f4") * 2
    n_parts = RUN_BYTES // (n * m * sum(dtype.itemsize for dtype in dtypes))
    places = np.random.default_rng(0).permutation(n * n_parts)
    writer = PackWriter(tmp_path / "pack", (n * n_parts, m), dtypes, 20)

    def parts() -> Iterator[Rows]:
        for _ in range(n_parts):
            genes = np.tile(np.arange(m, dtype=np.uint16), n)
            values = np.ones(n * m, np.float32 if counts == "<f4" else np.uint16)
            yield np.arange(0, n * m + 1, m), (genes, values)

    writer.run_writer(0, places[:n], [next(parts())])  # kernels are loaded
    tracemalloc.start()
    try:
        writer.run_writer(1, places, parts())
        _, most = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # Beside the cells themselves: their lengths and places, and how these are sorted.
    assert most <= run_bytes(0, packed, n * n_parts) + 64 * n * n_parts


def test_a_run_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Iterator[memoryview]:
        yield memoryview(b"some bytes")
        raise OSError(errno.ENOSPC, "no space")

    block, places = draw_cells(60, 12, seed=1)
    writer = PackWriter(tmp_path / "pack", (60, 12), (np.dtype("<u2"), np.dtype("<u2")), 4)
    monkeypatch.setattr(sorting, "join_rows", full)
    with pytest.raises(OSError, match="no space"):
        add(writer, places, block)
    assert not list(tmp_path.rglob("*.partial"))
    assert not list(tmp_path.rglob("run-*"))


def test_a_pack_whose_cells_have_wrong_ends_is_refused(tmp_path: Path) -> None:
    block, places = draw_cells(60, 12, seed=4)
    writer = PackWriter(tmp_path / "pack", (60, 12), (np.dtype("<u1"), np.dtype("<u2")), 4)
    add(writer, places, block)
    pack, held = writer.finish(), Pack(tmp_path / "pack")
    path = tmp_path / "pack" / "indptr.bin"
    indptr = np.fromfile(path, "<i8")
    for at, wrong in ((60, 2**40), (60, indptr[60] + 1), (0, -1), (30, 0), (30, 2**62)):
        damaged = indptr.copy()
        damaged[at] = wrong
        damaged.tofile(path)
        held.hold()
        for source in (pack, held):
            with pytest.raises(InputError, match="damaged"):
                source.read(0, 60)
