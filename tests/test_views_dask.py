"""An atlas as a Dask array: the same counts on threads and on workers of their own."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import numpy as np
import pytest
from builders import dense, make_adata, make_counts, write_h5ad
from scipy import sparse

from tigon.storage import Atlas, open_atlas, write_atlas
from tigon.storage.errors import InputError
from tigon.storage.views import reopening

N_CELLS, N_GENES = 9000, 30
SHARD = 8 * 1024
"""Entries of a shard."""

dask_array = pytest.importorskip("dask.array")


def make_matrix(seed: int = 5) -> sparse.csr_matrix:
    rng = np.random.default_rng(seed)
    counts = sparse.random(N_CELLS, N_GENES, 0.2, "csr", rng=rng)
    counts.data = np.ceil(counts.data * 500).astype(np.float32)
    return sparse.csr_matrix(counts)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("dask") / "atlas.zarr"
    atlas = open_atlas(make_adata(make_matrix()))
    write_atlas(atlas, path, chunk_nonzeros=1024, shard_chunks=8).close()
    return path


@pytest.fixture(scope="module")
def atlas(path: Path) -> Iterator[Atlas]:
    with open_atlas(path) as atlas:
        yield atlas


@pytest.fixture(scope="module")
def matrix() -> sparse.csr_matrix:
    return make_matrix()


def sum_of_genes(block: Any) -> np.ndarray:
    """Sums of a block, (1, n_genes); float64."""
    return np.asarray(block.sum(axis=0, dtype=np.float64)).reshape(1, -1)


def gene_sums(array: Any) -> Any:
    ones = (1,) * array.numblocks[0]
    sums = array.map_blocks(sum_of_genes, chunks=(ones, array.chunks[1]), dtype=np.float64)
    return sums.sum(axis=0)


def graph_bytes(array: Any) -> int:
    return len(cloudpickle.dumps(array.__dask_graph__()))


def test_blocks_are_the_cells(atlas: Atlas, matrix: sparse.csr_matrix) -> None:
    array = atlas.to_dask()
    assert array.shape == (N_CELLS, N_GENES)
    assert array.dtype == np.float32
    assert isinstance(array._meta, sparse.csr_matrix)
    blocks = [array.blocks[i].compute(scheduler="threads") for i in range(array.numblocks[0])]
    assert all(isinstance(block, sparse.csr_matrix) for block in blocks)
    assert {block.dtype.str for block in blocks} == {"<f4"}
    assert (sparse.vstack(blocks) != matrix).nnz == 0


def test_blocks_end_where_shards_do(atlas: Atlas, matrix: sparse.csr_matrix) -> None:
    ends = atlas.shard_ends
    assert np.cumsum(atlas.to_dask().chunks[0]).tolist() == ends
    assert len(ends) == -(-matrix.nnz // SHARD) - (matrix.nnz % SHARD < 0)
    for number, end in enumerate(ends[:-1]):
        assert end % 1024 == 0
        # The shard ends within the next 1,024 cells.
        assert matrix.indptr[end] <= (number + 1) * SHARD < matrix.indptr[end + 1024]


@pytest.mark.parametrize("block_cells", [1000, 4096, 10**6])
def test_blocks_of_a_size(atlas: Atlas, matrix: sparse.csr_matrix, block_cells: int) -> None:
    array = atlas.to_dask(block_cells)
    assert array.chunks[0][0] == min(block_cells, N_CELLS)
    np.testing.assert_array_equal(gene_sums(array).compute(), sum_of_genes(matrix)[0])


@pytest.mark.parametrize("genes", [None, ["gene9", "gene1"], slice(3, 8)])
def test_chosen_cells_and_genes(atlas: Atlas, matrix: sparse.csr_matrix, genes: Any) -> None:
    cells = np.random.default_rng(0).permutation(N_CELLS)[:2500]
    array = atlas.to_dask(cells=cells, genes=genes, dtype="float64")
    assert array.numblocks[0] > 1
    expected = matrix[cells]
    if genes is not None:
        expected = expected[:, [9, 1] if isinstance(genes, list) else genes]
    found = array.compute()
    assert found.dtype == np.float64
    assert (found != expected).nnz == 0


def test_slices_and_masks_of_the_array(atlas: Atlas, matrix: sparse.csr_matrix) -> None:
    array = atlas.to_dask(2000)
    mask = np.arange(N_CELLS) % 7 == 0
    assert (array[1500:4100, 3:9].compute() != matrix[1500:4100, 3:9]).nnz == 0
    assert (array[mask].compute() != matrix[mask]).nnz == 0


def test_the_graph_is_small_whatever_the_atlas(atlas: Atlas) -> None:
    few, many = atlas.to_dask(9000), atlas.to_dask(10)
    assert many.numblocks[0] == 900
    # What grows is the list of block sizes, a few bytes each: no counts, no tables.
    assert graph_bytes(many) < 12_000
    assert graph_bytes(few) < 4_000


def test_chosen_positions_are_in_the_graph_once(atlas: Atlas) -> None:
    cells = np.random.default_rng(0).permutation(N_CELLS)
    array = atlas.to_dask(100, cells=cells)
    assert array.numblocks[0] == 90
    assert graph_bytes(array) < cells.nbytes + 12_000


def test_sums_on_worker_processes_are_those_of_scipy(
    path: Path, matrix: sparse.csr_matrix, monkeypatch: pytest.MonkeyPatch
) -> None:
    distributed = pytest.importorskip("distributed")
    monkeypatch.chdir(path.parent)
    with open_atlas(path.name) as atlas:  # workers may stand elsewhere
        whole, chosen = atlas.to_dask(500), atlas.to_dask(500, cells=slice(None, None, 3))
        in_anndata = atlas.to_anndata(cells=slice(0, 4000), backed=True)
    with (
        dask.config.set({"distributed.admin.tick.limit": "60s"}),
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=2, processes=True, dashboard_address=":0"
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        found = client.gather(
            client.compute([gene_sums(each) for each in (whole, chosen, in_anndata.X)])
        )
        opened = client.run(lambda: reopening._opened.cache_info().misses)
    for each, expected in zip(found, (matrix, matrix[::3], matrix[:4000]), strict=True):
        np.testing.assert_array_equal(each, sum_of_genes(expected)[0])
    assert set(opened.values()) == {1}


def test_an_anndata_whose_counts_stay_where_they_are(
    atlas: Atlas, matrix: sparse.csr_matrix
) -> None:
    cells = np.arange(0, N_CELLS, 4)[::-1]
    adata = atlas.to_anndata(cells, ["gene3", "gene0"], backed=True)
    assert isinstance(adata.X, dask_array.Array)
    assert list(adata.obs_names[:2]) == [f"cell{cells[0]}", f"cell{cells[1]}"]
    in_memory = adata.to_memory()
    assert (matrix[cells][:, [3, 0]] != in_memory.X).nnz == 0
    eager = atlas.to_anndata(cells, ["gene3", "gene0"])
    assert eager.obs.equals(in_memory.obs)
    part = adata[10:20].to_memory()
    assert (part.X != eager[10:20].X).nnz == 0


def test_names_are_those_of_the_content(path: Path) -> None:
    with open_atlas(path) as one, open_atlas(path) as other:
        assert one.to_dask(500).name == other.to_dask(500).name
        assert one.to_dask(500).name != one.to_dask(600).name
        assert one.to_dask(cells=[1, 2]).name != one.to_dask(cells=[2, 1]).name


def test_an_atlas_that_was_replaced_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "atlas.zarr"
    write_atlas(open_atlas(make_adata(make_counts(seed=1))), path).close()
    with open_atlas(path) as atlas:
        array = atlas.to_dask()
        write_atlas(open_atlas(make_adata(make_counts(seed=2))), path, overwrite=True).close()
        with pytest.raises(InputError, match="another atlas than when the work was planned"):
            array.compute()


def test_an_atlas_that_was_written_again_is_opened_again(tmp_path: Path) -> None:
    path, counts = tmp_path / "atlas.zarr", make_counts(seed=1)
    write_atlas(open_atlas(make_adata(counts)), path).close()
    with open_atlas(path) as atlas:
        atlas.to_anndata()
    write_atlas(open_atlas(make_adata(counts)), path, profile="network", overwrite=True).close()
    with open_atlas(path) as atlas:
        np.testing.assert_array_equal(atlas.to_anndata().X.toarray(), dense(counts))


def test_other_sources_are_read_in_this_process_alone(tmp_path: Path) -> None:
    matrix = sparse.csr_matrix(make_counts())
    source = write_h5ad(make_adata(matrix), tmp_path / "a.h5ad")
    with open_atlas(source) as atlas:
        array = atlas.to_dask(7)
        assert (array.compute(scheduler="threads") != matrix).nnz == 0
        with pytest.raises(InputError, match="cannot be sent to another process"):
            pickle.dumps(array)


def test_what_cannot_be_asked_for(atlas: Atlas) -> None:
    with pytest.raises(InputError, match="block_cells is 0"):
        atlas.to_dask(0)
    with pytest.raises(InputError, match="dtype is int8"):
        atlas.to_dask(dtype="int8")


def test_narrow_counts_only_when_asked_for(atlas: Atlas) -> None:
    assert atlas.to_dask(dtype=None).blocks[0].compute().dtype == np.uint16


def test_without_dask_it_says_what_to_install(
    atlas: Atlas, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "dask.array", None)
    with pytest.raises(InputError, match=r"install tigon\[dask\]"):
        atlas.to_dask()
