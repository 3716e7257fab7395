"""Entries of a pack: gaps and counts of any size, and those above 16 bits as adjacent entries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from atlases import planted
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse

import tigon
from tigon.kernels.cpu.step import minibatch_step
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.state import Problem
from tigon.scaling.inmf.tiles import cut_tiles, metagenes_of
from tigon.scaling.packing import build_pack, pack_bytes, pack_dtypes
from tigon.scaling.preparing import PrepareConfig, Prepared, prepare
from tigon.storage.packs import coding
from tigon.storage.packs.blocks import PackBlock

LARGE = (65_534, 65_535, 65_536, 131_070, 131_071, 200_000, 64 * 65_535, 64 * 65_535 + 1, 2**31)


def summed(block: PackBlock, n_genes: int) -> np.ndarray:
    """Counts of every cell and gene; entries of one gene must stand side by side."""
    found = np.zeros((len(block.indptr) - 1, n_genes))
    for cell, (start, stop) in enumerate(zip(block.indptr[:-1], block.indptr[1:], strict=True)):
        genes = block.genes[start:stop].astype(int)
        assert (np.diff(genes) >= 0).all()
        np.add.at(found[cell], genes, block.counts[start:stop].astype(float))
    return found


def recoded(
    indptr: np.ndarray, genes: np.ndarray, counts: np.ndarray, n_genes: int, *dtypes: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What is read of what was written, and that it takes the types and the room it should."""
    wanted = tuple(map(np.dtype, dtypes))
    starts, gaps, found = coding.encode(indptr, genes, counts, wanted)
    assert (gaps.dtype, found.dtype) == wanted
    assert starts[0] == 0
    assert starts[-1] == len(gaps) == len(found)
    return coding.decode(np.arange(len(indptr) - 1), starts, gaps, found, n_genes)


GAPS = st.integers(0, 3) | st.integers(250, 260) | st.integers(505, 515) | st.integers(0, 70_000)
SMALL = st.integers(1, 3) | st.integers(250, 260) | st.integers(505, 515)


@given(
    rows=st.lists(
        st.lists(st.tuples(GAPS, SMALL | st.integers(1, 2**21) | st.sampled_from(LARGE)))
    ),
    dtypes=st.tuples(
        st.sampled_from(["<u1", "<u2", "<u4"]), st.sampled_from(["<u1", "<u2", "<u4"])
    ),
)
@settings(max_examples=200, deadline=None)
def test_entries_come_back(rows: list[list[tuple[int, int]]], dtypes: tuple[str, str]) -> None:
    lengths = [len(row) for row in rows]
    indptr = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
    genes = np.array(
        [gene for row in rows for gene in np.cumsum([gap for gap, _ in row]) + np.arange(len(row))],
        np.uint32,
    )
    counts = np.array([count for row in rows for _, count in row], np.uint32)
    n_genes = int(genes.max(initial=0)) + 1
    starts, found, values = recoded(indptr, genes, counts, n_genes, *dtypes)
    read = sparse.csr_array((values.astype(float), found, starts), (len(rows), n_genes))
    assert values.all()
    read.sum_duplicates()
    for a, b in zip((read.indptr, read.indices, read.data), (indptr, genes, counts), strict=True):
        np.testing.assert_array_equal(a, b)
    if dtypes[1] == "<u4" or counts.max(initial=0) <= coding.LARGEST:
        np.testing.assert_array_equal(starts, indptr)  # each gene once


def test_a_gap_and_a_count_take_as_many_entries_as_they_must() -> None:
    indptr, genes = np.array([0, 1, 3]), np.array([600, 0, 256], np.uint16)
    counts = np.array([600, 255, 256], np.uint16)
    starts, gaps, found = coding.encode(
        indptr, genes, counts, (np.dtype(np.uint8), np.dtype(np.uint8))
    )
    assert starts.tolist() == [0, 5, 9]
    assert gaps.tolist() == [255, 255, 90, 0, 0, 0, 255, 1, 0]
    assert found.tolist() == [0, 0, 255, 255, 90, 255, 0, 255, 1]


def test_fractions_come_back_to_the_bit() -> None:
    counts = np.array([0.1, 3e38, 1e-45, 70_000.5], np.float32)
    indptr, genes = np.array([0, 1, 4]), np.array([300, 0, 1, 999], np.uint16)
    read = recoded(indptr, genes, counts, 1000, "<u1", "<f4")
    for a, b in zip(read, (indptr, genes, counts), strict=True):
        np.testing.assert_array_equal(a, b)


def test_zeros_are_left_out() -> None:
    read = recoded(
        np.array([0, 3]), np.arange(3, dtype=np.uint16), np.array([5, 0, 7]), 3, "u1", "u1"
    )
    assert [array.tolist() for array in read] == [[0, 2], [0, 2], [5, 7]]


@pytest.mark.parametrize("genes", [[3, 2], [2, 2]])
def test_genes_that_do_not_ascend_are_refused(genes: list[int]) -> None:
    ones = np.ones(2, np.uint16)
    with pytest.raises(ValueError, match="do not ascend"):
        recoded(np.array([0, 2]), np.array(genes, np.uint16), ones, 4, "u1", "u1")


def test_damaged_entries_are_refused() -> None:
    told, first = np.array([0, 2]), np.zeros(1, np.int64)
    gaps, counts = np.array([3, 1], np.uint8), np.ones(2, np.uint8)
    assert coding.decode(first, told, gaps, counts, 5)[1].tolist() == [3, 4]
    with pytest.raises(ValueError, match="beyond the 4 there are"):
        coding.decode(first, told, gaps, counts, 4)
    with pytest.raises(ValueError, match="3 entries are told, 2 and 2 are there"):
        coding.decode(first, np.array([0, 3]), gaps, counts, 5)
    with pytest.raises(ValueError, match="rows 1 to 1 are asked of 1"):
        coding.decode(first + 1, told, gaps, counts, 5)


def test_some_rows_come_in_the_order_asked_for() -> None:
    rng = np.random.default_rng(0)
    X = sparse.random_array((30, 700), density=0.02, rng=rng, format="csr")
    counts = rng.integers(1, 600, X.nnz).astype(np.uint16)
    X.data[:] = counts
    indptr, genes = X.indptr.astype(np.int64), X.indices.astype(np.uint16)
    stored = coding.encode(indptr, genes, counts, (np.dtype("u1"), np.dtype("u1")))
    rows = rng.permutation(30)[:11]
    starts, found, values = coding.decode(rows, *stored, 700)
    read = sparse.csr_array((values.astype(float), found, starts), (11, 700))
    assert (read != X[rows]).nnz == 0


def with_large(*large: int, dtype: type = np.uint32, n: int = 400) -> anndata.AnnData:
    """An atlas in which some counts of the first genes are large."""
    adata = planted(n=n, m=60, k=3).adata
    counts = adata.X.toarray().astype(float)
    for i, count in enumerate(large):
        counts[7 * i + 3, i] = count
    return anndata.AnnData(sparse.csr_matrix(counts.astype(dtype)), adata.obs, adata.var)


def prepared_of(adata: anndata.AnnData, engine: ThreadEngine) -> tuple[tigon.Atlas, Prepared]:
    atlas = tigon.open(adata)
    config = PrepareConfig(batch_key="batch", n_genes="all")
    return atlas, prepare(atlas, config, 3, engine)


@pytest.mark.parametrize(
    ("large", "counts"),
    [
        ((65_535,), "<u1"),
        ((65_536,), "<u1"),
        ((65_535, 65_536, 200_000, 1_000_000), "<u1"),
        ((64 * 65_535,), "<u2"),
        ((64 * 65_535 + 1,), "<u4"),
        ((2**31,), "<u4"),
        ((2**32 - 1, 65_536), "<u4"),
    ],
)
def test_large_counts_come_back_from_a_pack(
    tmp_path: Path, large: tuple[int, ...], counts: str
) -> None:
    adata = with_large(*large)
    with ThreadEngine(2) as engine:
        atlas, prepared = prepared_of(adata, engine)
        genes = prepared.genes
        assert pack_dtypes(prepared.statistics, genes)[1] == np.dtype(counts)
        seed = np.random.SeedSequence(0)
        pack = build_pack(
            atlas, prepared.datasets, prepared.statistics, genes, tmp_path / "pack", engine, seed
        )
    block = pack.read(0, pack.n_cells)
    assert block.counts.dtype == coding.count_dtype(np.dtype(counts))
    np.testing.assert_array_equal(
        summed(block, len(genes)), adata.X.toarray()[block.positions][:, genes]
    )
    # What splitting may add is bounded by the total counts, and by the genes.
    assert pack.n_bytes <= pack_bytes(prepared.statistics, genes)


def test_whole_float32_counts_are_split_too(tmp_path: Path) -> None:
    adata = with_large(65_536, 200_000, dtype=np.float32)
    with ThreadEngine(1) as engine:
        _, prepared = prepared_of(adata, engine)
        assert pack_dtypes(prepared.statistics, prepared.genes)[1] == np.dtype("<u1")
        huge = replace(prepared.statistics, largest=2.0**32)
        assert pack_dtypes(huge, prepared.genes)[1] == np.dtype("<f4")
        fraction = replace(prepared.statistics, integer=False)
        assert pack_dtypes(fraction, prepared.genes)[1] == np.dtype("<f4")


def test_many_large_counts_widen_the_pack() -> None:
    counts = sparse.csr_matrix(np.full((40, 20), 3 * 65_535, np.uint32))
    obs = pd.DataFrame(
        {"batch": pd.Categorical(["a", "b"] * 20)}, index=[f"c{i}" for i in range(40)]
    )
    with ThreadEngine(1) as engine:
        _, prepared = prepared_of(anndata.AnnData(counts, obs), engine)
        assert pack_dtypes(prepared.statistics, prepared.genes)[1] == np.dtype("<u4")


def test_the_types_are_those_that_take_least_room() -> None:
    """Genes far apart widen the gaps, deep cells the counts."""
    with ThreadEngine(1) as engine:
        _, prepared = prepared_of(with_large(7), engine)
    shallow, n = prepared.statistics, 400
    few = replace(shallow, n_nonzeros=np.ones((2, 100_000), np.int32))
    all_genes = np.arange(100_000)
    assert [t.str for t in pack_dtypes(shallow, prepared.genes)] == ["|u1", "|u1"]
    assert pack_dtypes(few, all_genes)[0] == np.dtype("<u2")  # 392 more entries of a cell
    deep = replace(shallow, totals=np.full(n, 1e6), largest=60_000.0)
    assert pack_dtypes(deep, prepared.genes)[1] == np.dtype("<u2")


def problem_of(rng: np.random.Generator, m: int) -> tuple[Problem, np.ndarray, np.ndarray]:
    problem = Problem(np.array([400]), np.ones((1, m), bool), rng.uniform(0.5, 2.0, (1, m)), 5.0)
    W, V = rng.gamma(0.5, 1.0, (3, m)).astype(np.float32), np.zeros((1, 3, m), np.float32)
    return problem, W, V


def test_the_kernels_read_split_counts_as_whole_ones() -> None:
    """Sums of counts in float64 agree to its rounding, products to that of float32.

    Not to the bit: an entry more is an addition more. |X|^2 and B are summed in float64;
    the products R, and so H, in float32, where a count of up to 64 entries adds up to 64
    roundings of half a unit, 64 * 2^-24 = 4e-6 of the largest product.
    """
    rng = np.random.default_rng(0)
    n, m = 400, 60
    X = rng.poisson(0.4, (n, m)).astype(np.int64)
    for i, count in enumerate((65_535, 65_536, 200_000, 64 * 65_535)):
        X[3 + i, i] = count
    X = sparse.csr_array(X)
    indptr, genes = X.indptr.astype(np.int64), X.indices.astype(np.uint16)
    positions, datasets = np.arange(n), np.zeros(n, np.int32)
    weights = (1 / np.maximum(X.sum(axis=1), 1)).astype(np.float32)
    wide = PackBlock(positions, datasets, weights, indptr, genes, X.data.astype(np.uint32))
    narrow = PackBlock(
        positions, datasets, weights, *recoded(indptr, genes, wide.counts, m, "<u2", "<u2")
    )
    problem, W, V = problem_of(rng, m)
    metagenes = metagenes_of(problem, W, V, 0)
    found = []
    for block in (wide, narrow):
        (tile,) = cut_tiles(block)
        found.append(minibatch_step(tile.cells(), metagenes, 1e-5))
    (H, of_wide), (H_split, of_split) = found
    assert of_split.squared_norm == pytest.approx(of_wide.squared_norm, rel=1e-13)
    np.testing.assert_allclose(H_split, H, rtol=2e-5, atol=2e-5 * H.max())
    np.testing.assert_allclose(of_split.A, of_wide.A, rtol=1e-4, atol=1e-4 * of_wide.A.max())
    np.testing.assert_allclose(of_split.B, of_wide.B, rtol=1e-4, atol=1e-4 * of_wide.B.max())
    assert of_split.loss == pytest.approx(of_wide.loss, rel=1e-5, abs=1e-5 * of_wide.squared_norm)


def test_an_atlas_with_large_counts_is_integrated(tmp_path: Path) -> None:
    """The same run whether large counts are split or one more, larger still, widens the pack."""
    runs = []
    for name, widest in (("split", 64 * 65_535), ("wide", 64 * 65_535 + 1)):
        adata = with_large(65_535, 65_536, 200_000, widest)
        options = {"batch_key": "batch", "n_genes": "all", "n_components": 3, "n_epochs": 2}
        run = tigon.integrate(
            adata, out=tmp_path / f"{name}.zarr", report=False, umap=False, n_threads=1, **options
        )
        runs.append(run)
    assert runs[0].objective == pytest.approx(runs[1].objective, rel=1e-5)
