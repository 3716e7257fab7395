"""Views ask a server for what they need and little else: requests are counted, not timed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from builders import make_adata
from scipy import sparse
from served import Asked, served_and_noted

import tigon
from tigon.storage import Atlas, open_atlas, write_atlas

N_CELLS, N_GENES = 20_000, 60
CHUNK, SHARD_CHUNKS = 1024, 16
SHARD = CHUNK * SHARD_CHUNKS
ARRAYS = ("data", "indices")


@pytest.fixture(scope="module")
def matrix() -> sparse.csr_matrix:
    counts = sparse.random(N_CELLS, N_GENES, 0.25, "csr", rng=np.random.default_rng(2))
    counts.data = np.ceil(counts.data * 20).astype(np.float32)
    return sparse.csr_matrix(counts)


@pytest.fixture(scope="module")
def remote(
    matrix: sparse.csr_matrix, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Asked]]:
    folder = tmp_path_factory.mktemp("served")
    atlas = open_atlas(make_adata(matrix))
    write_atlas(atlas, folder / "a.zarr", chunk_nonzeros=CHUNK, shard_chunks=SHARD_CHUNKS).close()
    with served_and_noted(folder) as (url, asked):
        yield f"{url}/a.zarr", asked


@pytest.fixture
def atlas(remote: tuple[str, Asked]) -> Iterator[Atlas]:
    with tigon.open(remote[0]) as atlas:
        remote[1].requests.clear()
        yield atlas


def shards_of(matrix: sparse.csr_matrix, cells: np.ndarray) -> set[str]:
    """The objects that hold the counts of some cells."""
    starts, stops = matrix.indptr[cells], matrix.indptr[cells + 1]
    shards = {
        shard
        for start, stop in zip(starts, stops, strict=True)
        for shard in range(start // SHARD, (stop - 1) // SHARD + 1)
        if stop > start
    }
    return {f"/a.zarr/X/{array}/c/{shard}" for array in ARRAYS for shard in shards}


def of_counts(asked: Asked) -> Counter[str]:
    """How often each object with counts was asked for."""
    paths = [path for method, path, _ in asked.requests if method == "GET"]
    return Counter(path for path in paths if path.split("/")[-3] in ARRAYS)


@pytest.mark.parametrize(
    "cells",
    [
        pytest.param(np.arange(5000, 5040), id="a few in a row"),
        pytest.param(np.random.default_rng(1).permutation(N_CELLS)[:7], id="a few anywhere"),
        pytest.param(np.arange(0, N_CELLS, 11), id="many anywhere"),
        pytest.param(np.random.default_rng(2).permutation(N_CELLS), id="all in another order"),
    ],
)
@pytest.mark.parametrize("genes", [None, [3, 50]])
def test_only_the_shards_of_the_cells_are_asked_for(
    atlas: Atlas,
    remote: tuple[str, Asked],
    matrix: sparse.csr_matrix,
    cells: np.ndarray,
    genes: list[int] | None,
) -> None:
    found = atlas.to_anndata(cells, genes)
    expected = matrix[cells] if genes is None else matrix[cells][:, genes]
    assert (expected != found.X).nnz == 0
    counted = of_counts(remote[1])
    assert set(counted) == shards_of(matrix, cells)
    # Its index, once, and one range: chunks this near to each other are asked for together.
    assert set(counted.values()) <= {1, 2}
    assert {method for method, _, _ in remote[1].requests} <= {"GET", "HEAD"}


def test_cells_near_each_other_come_with_few_bytes(
    atlas: Atlas, remote: tuple[str, Asked], matrix: sparse.csr_matrix
) -> None:
    """Chunks that hold none of the cells are not sent."""
    cells = np.arange(8000, 8020)
    atlas.to_anndata(cells)
    n_chunks = matrix.indptr[8020] // CHUNK - matrix.indptr[8000] // CHUNK + 1
    index_bytes = 16 * SHARD_CHUNKS + 4
    lengths: Counter[str] = Counter()
    for _, path, asked in remote[1].requests:
        if path.split("/")[-3] in ARRAYS and asked:
            first, last = asked.removeprefix("bytes=").split("-")
            lengths[path] += int(last) - int(first) + 1 if first else int(last)
    # Compressed, a chunk of counts is smaller than its values.
    limit = n_chunks * CHUNK * 2 + 2 * index_bytes
    assert lengths
    assert all(0 < length <= limit for length in lengths.values())
    assert limit < 2 * CHUNK * SHARD_CHUNKS / 4


def test_blocks_of_dask_ask_once_for_what_they_hold(
    remote: tuple[str, Asked], matrix: sparse.csr_matrix
) -> None:
    with tigon.open(remote[0]) as atlas:
        array = atlas.to_dask(dtype=None)
    remote[1].requests.clear()
    assert (array.compute(scheduler="synchronous") != matrix).nnz == 0
    counted = of_counts(remote[1])
    assert set(counted) == shards_of(matrix, np.arange(N_CELLS))
    # A shard is also read for the cells of the block before that reach into it.
    assert max(counted.values()) <= 3


def test_a_column_asks_for_nothing_of_the_others(atlas: Atlas, remote: tuple[str, Asked]) -> None:
    assert list(atlas.obs_columns["n"]) == list(range(N_CELLS))
    tables = {path.split("/")[3] for _, path, _ in remote[1].requests if "/obs/" in path}
    assert tables <= {"n", "_index", "zarr.json"}
    assert not of_counts(remote[1])
