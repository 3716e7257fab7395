"""Counts above 16 bits: split into adjacent entries, exactly, and read as their sum."""

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
from tigon.storage.packs.escape import split_counts
from tigon.storage.packs.pack import PackBlock

LARGE = (65_534, 65_535, 65_536, 131_070, 131_071, 200_000, 64 * 65_535, 64 * 65_535 + 1, 2**31)


def summed(block: PackBlock, n_genes: int) -> np.ndarray:
    """Counts of every cell and gene; entries of one gene must stand side by side."""
    found = np.zeros((len(block.indptr) - 1, n_genes))
    for cell, (start, stop) in enumerate(zip(block.indptr[:-1], block.indptr[1:], strict=True)):
        genes = block.genes[start:stop].astype(int)
        assert (np.diff(genes) >= 0).all()
        np.add.at(found[cell], genes, block.counts[start:stop].astype(float))
    return found


@given(
    counts=st.lists(st.integers(1, 2**32 - 1) | st.sampled_from(LARGE), max_size=12),
    edges=st.lists(st.integers(0, 12), max_size=5),
)
@settings(max_examples=100, deadline=None)
def test_split_counts_add_up(counts: list[int], edges: list[int]) -> None:
    n = len(counts)
    indptr = np.array([0, *sorted(min(edge, n) for edge in edges), n], np.int64)
    genes = np.arange(n, dtype=np.uint16)
    block = PackBlock(*[np.empty(0)] * 3, *split_counts(indptr, genes, np.array(counts, np.uint32)))
    assert block.counts.dtype == np.uint16
    assert (block.counts > 0).all()
    assert block.indptr[0] == 0
    assert block.indptr[-1] == len(block.genes) == len(block.counts)
    sums = np.bincount(block.genes, block.counts.astype(float), minlength=n)
    np.testing.assert_array_equal(sums, counts)
    whole = sparse.csr_array((np.array(counts, float), genes, indptr), (len(indptr) - 1, max(n, 1)))
    np.testing.assert_array_equal(summed(block, max(n, 1)), whole.toarray())


def test_counts_that_fit_are_left_alone() -> None:
    counts = np.array([1, 65_535], np.uint16)
    indptr, genes = np.array([0, 2]), np.array([3, 4], np.uint16)
    assert all(
        a is b
        for a, b in zip(split_counts(indptr, genes, counts), (indptr, genes, counts), strict=True)
    )


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
        ((65_535,), "<u2"),
        ((65_536,), "<u2"),
        ((65_535, 65_536, 200_000, 1_000_000), "<u2"),
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
    assert block.counts.dtype == np.dtype(counts)
    np.testing.assert_array_equal(
        summed(block, len(genes)), adata.X.toarray()[block.positions][:, genes]
    )
    # What splitting may add is bounded by the total counts.
    assert pack.n_bytes <= pack_bytes(prepared.statistics, genes)


def test_whole_float32_counts_are_split_too(tmp_path: Path) -> None:
    adata = with_large(65_536, 200_000, dtype=np.float32)
    with ThreadEngine(1) as engine:
        _, prepared = prepared_of(adata, engine)
        assert pack_dtypes(prepared.statistics, prepared.genes)[1] == np.dtype("<u2")
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
    narrow = PackBlock(positions, datasets, weights, *split_counts(indptr, genes, wide.counts))
    problem, W, V = problem_of(rng, m)
    metagenes = metagenes_of(problem, W, V, 0)
    found = []
    for block in (wide, narrow):
        (tile,) = cut_tiles(block)
        found.append(minibatch_step(tile.cells, metagenes, 1e-5))
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
