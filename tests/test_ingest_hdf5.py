"""Gzip chunks decompressed here are what the HDF5 library makes of them."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
from builders import dense, make_adata, make_counts
from hypothesis import given, settings
from hypothesis import strategies as st

from tigon.storage import open_atlas
from tigon.storage.errors import InputError
from tigon.storage.sources.hdf5_chunks import GzipArray, open_array

STORAGE: dict[str, dict[str, Any]] = {
    "gzip": {"compression": "gzip"},
    "gzip and shuffle": {"compression": "gzip", "shuffle": True},
    "lzf": {"compression": "lzf"},
    "checksummed": {"compression": "gzip", "fletcher32": True},
    "plain": {},
}


@settings(max_examples=40, deadline=None)
@given(
    how=st.sampled_from(sorted(STORAGE)),
    dtype=st.sampled_from(["<f4", "<i8", ">i4", "<u2"]),
    length=st.integers(1, 300),
    chunk=st.integers(1, 90),
    cuts=st.tuples(st.integers(0, 320), st.integers(0, 320)),
)
def test_slices_are_those_of_the_library(
    tmp_path_factory: pytest.TempPathFactory,
    how: str,
    dtype: str,
    length: int,
    chunk: int,
    cuts: tuple[int, int],
) -> None:
    values = (np.arange(length) * 7 % 251).astype(dtype)
    path = tmp_path_factory.mktemp("hdf5") / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("a", data=values, chunks=(min(chunk, length),), **STORAGE[how])
    with h5py.File(path) as file:
        array = open_array(file["a"])
        assert isinstance(array, GzipArray) == how.startswith("gzip")
        start, stop = sorted(cuts)
        np.testing.assert_array_equal(array[start:stop], values[start:stop])
        assert np.asarray(array[start:stop]).dtype == values.dtype


def test_chunks_that_were_never_written(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("a", (100,), "<i4", chunks=(10,), compression="gzip")
        made[40:50] = 7
        array = open_array(made)
        assert isinstance(array, GzipArray)
        np.testing.assert_array_equal(array[5:95], made[5:95])


def test_threads_read_one_file(tmp_path: Path) -> None:
    X = make_counts(4000, 50)
    anndata.AnnData(X).write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    with open_atlas(tmp_path / "a.h5ad") as atlas, ThreadPoolExecutor(8) as pool:
        blocks = pool.map(lambda start: atlas.read(start, start + 100), range(0, 4000, 100))
        read = np.concatenate([block.to_scipy().toarray() for block in blocks])
    np.testing.assert_array_equal(read, X.toarray())


def test_a_damaged_chunk_is_told(tmp_path: Path) -> None:
    make_adata(make_counts(2000, 50)).write_h5ad(tmp_path / "a.h5ad", compression="gzip")
    with h5py.File(tmp_path / "a.h5ad") as file:
        place = file["X/data"].id.get_chunk_info(0)
    with (tmp_path / "a.h5ad").open("r+b") as raw:
        raw.seek(place.byte_offset + place.size // 2)
        raw.write(b"\xff" * 8)
    with (
        open_atlas(tmp_path / "a.h5ad") as atlas,
        pytest.raises(InputError, match="cells 0 to 100 cannot be read"),
    ):
        atlas.read(0, 100)


def test_compressed_files_come_back(tmp_path: Path) -> None:
    adata = make_adata()
    for how in ("gzip", "lzf", None):
        adata.write_h5ad(tmp_path / "a.h5ad", compression=how)
        with open_atlas(tmp_path / "a.h5ad") as atlas:
            read = atlas.read(0, 60).to_scipy().toarray()
        np.testing.assert_array_equal(read, dense(adata.X))
