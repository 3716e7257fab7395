"""Runs of cells read together are the cells that reading them one by one gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from builders import make_adata, make_counts, write_h5ad, write_zarr
from hypothesis import given, settings
from hypothesis import strategies as st

from tigon.storage import Atlas, open_atlas, write_atlas

N_CELLS = 60

runs_of_cells = st.lists(
    st.tuples(st.integers(0, N_CELLS), st.integers(0, N_CELLS)).map(
        lambda ends: (min(ends), max(ends))
    ),
    max_size=12,
)


@pytest.fixture(scope="module", params=["own", "zarr", "h5ad", "dense", "list"])
def atlas(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Atlas]:
    folder = tmp_path_factory.mktemp("atlas")
    with _open(request.param, folder) as opened:
        yield opened


def _open(kind: str, folder: Path) -> Atlas:
    adata = make_adata()
    if kind == "own":
        return write_atlas(open_atlas(adata), folder / "a.zarr", chunk_nonzeros=50, shard_chunks=3)
    if kind == "zarr":
        return open_atlas(write_zarr(adata, folder / "a.zarr"))
    if kind == "h5ad":
        return open_atlas(write_h5ad(adata, folder / "a.h5ad"))
    if kind == "dense":
        return open_atlas(make_adata(make_counts().toarray()))
    halves = [adata[:25].copy(), adata[25:].copy()]
    return open_atlas([write_h5ad(half, folder / f"{i}.h5ad") for i, half in enumerate(halves)])


@settings(deadline=None)
@given(runs=runs_of_cells)
def test_runs_are_the_cells_of_each_in_turn(atlas: Atlas, runs: list[tuple[int, int]]) -> None:
    X = atlas.read(0, atlas.n_cells).to_scipy().toarray()
    cells = np.concatenate([np.arange(0), *(np.arange(*run) for run in runs)])
    rows = atlas.read_runs(runs)
    block = atlas.read(0, 1)
    assert rows.indptr.dtype == np.int64
    assert (rows.indices.dtype, rows.values.dtype) == (block.indices.dtype, block.values.dtype)
    assert len(rows.indptr) == len(cells) + 1
    read = np.zeros((len(cells), atlas.n_genes), np.float32)
    read[np.repeat(np.arange(len(cells)), np.diff(rows.indptr)), rows.indices] = rows.values
    np.testing.assert_array_equal(read, X[cells])


def test_runs_may_be_an_array(atlas: Atlas) -> None:
    runs = np.array([[5, 9], [0, 3]])
    np.testing.assert_array_equal(
        atlas.read_runs(runs).values, atlas.read_runs([(5, 9), (0, 3)]).values
    )


@pytest.mark.parametrize("run", [(-1, 3), (5, 3), (0, 61)])
def test_runs_outside_the_atlas_are_refused(atlas: Atlas, run: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"cells {run[0]} to {run[1]} asked for: there are 60"):
        atlas.read_runs([(0, 2), run])
