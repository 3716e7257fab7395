"""Inputs that cannot be read are refused in one line that says what to do."""

from __future__ import annotations

import gzip
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import anndata
import h5py
import numpy as np
import pytest
import zarr
from builders import make_adata, make_counts, write_h5ad, write_tenx_h5, write_tenx_mtx, write_zarr
from run_builder import build_contents
from scipy import sparse

from tigon.storage import open_atlas
from tigon.storage.errors import InputError
from tigon.storage.runs.write import write_run
from tigon.storage.sources.matrices.csr import open_csr


def refusal(target: Any, *, read: bool = False, **options: Any) -> str:
    """The message of the error that opening, or reading, gives."""
    with pytest.raises(InputError) as caught:
        read_whole(target, read=read, **options)
    message = str(caught.value)
    assert "\n" not in message
    return message


def read_whole(target: Any, *, read: bool, **options: Any) -> None:
    with open_atlas(target, **options) as atlas:
        if not read:
            pytest.fail("opening must fail")
        atlas.read(0, atlas.n_cells)


def with_entry(value: float, *, dtype: type = np.float32) -> anndata.AnnData:
    """Counts of which that of cell2 and gene3 is ``value``."""
    X = sparse.lil_matrix(make_counts().astype(dtype))
    X[2, 3] = value
    return make_adata(X.tocsr())


def edit(path: Path, **arrays: Any) -> Path:
    """Replace arrays of X in an h5ad."""
    with h5py.File(path, "r+") as file:
        for name, array in arrays.items():
            del file["X"][name]
            file["X"][name] = array
    return path


class Shrinking:
    """An array that gives one number less than it says."""

    def __init__(self, array: np.ndarray) -> None:
        self.shape, self.dtype, self._array = array.shape, array.dtype, array[:-1]

    def __getitem__(self, selection: slice) -> np.ndarray:
        return self._array[selection]


# What is not there, or not what it seems


def test_a_missing_file(tmp_path: Path) -> None:
    assert refusal(tmp_path / "no.h5ad").startswith(f"there is no file {tmp_path}/no.h5ad")


@pytest.mark.parametrize("name", ["a.h5ad", "a.h5"])
def test_text_with_the_name_of_hdf5(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_text("cell,gene,count\n")
    message = refusal(path)
    assert "is not an HDF5 file, whatever its name says" in message
    assert "cell,gene,count"[:10] in message


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "a.h5ad").touch()
    assert "it is empty" in refusal(tmp_path / "a.h5ad")


def test_an_unknown_kind_of_file_names_those_known(tmp_path: Path) -> None:
    (tmp_path / "a.loom").write_text("")
    assert ".h5ad or .zarr, 10x .h5" in refusal(tmp_path / "a.loom")


def test_an_unknown_kind_of_object() -> None:
    assert "cannot read a ndarray" in refusal(np.zeros((3, 3)))


def test_no_sources() -> None:
    assert "no sources" in refusal([])


def test_a_folder_with_nothing_known(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b.zarr").mkdir()
    assert "without a Zarr store or a 10x matrix.mtx" in refusal(tmp_path / "a")
    assert "is not a Zarr store, whatever its name says" in refusal(tmp_path / "b.zarr")


def test_a_zarr_that_is_no_anndata(tmp_path: Path) -> None:
    zarr.create_group(str(tmp_path / "a.zarr"))
    assert "is not an AnnData file: it has no obs and no var" in refusal(tmp_path / "a.zarr")


def test_a_zarr_array_is_no_anndata(tmp_path: Path) -> None:
    zarr.create_array(str(tmp_path / "a.zarr"), shape=(3,), dtype="int32")
    assert "cannot be opened as Zarr" in refusal(tmp_path / "a.zarr")


def test_a_run_is_told_from_counts(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.zarr", build_contents())
    assert "run.zarr is a run, which holds no counts: name the atlas" in refusal(path)


def test_an_hdf5_that_is_no_anndata(tmp_path: Path) -> None:
    for name, message in (("a.h5ad", "is not an AnnData file"), ("a.h5", "without a 10x matrix")):
        with h5py.File(tmp_path / name, "w") as file:
            file["x"] = [1, 2, 3]
        assert message in refusal(tmp_path / name)


@pytest.mark.parametrize("share", [0.3, 0.9])
def test_a_truncated_h5ad(tmp_path: Path, share: float) -> None:
    path = write_h5ad(make_adata(), tmp_path / "a.h5ad")
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    assert "cannot be opened, it is cut short" in refusal(path)


def test_damage_within_the_data_of_an_h5ad_is_placed(tmp_path: Path) -> None:
    path = tmp_path / "a.h5ad"
    make_adata(make_counts(400, 50)).write_h5ad(path, compression="gzip")
    with h5py.File(path) as file:
        stored = file["X/data"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    start = stored.byte_offset
    content[start : start + stored.size] = b"\xff" * stored.size
    path.write_bytes(bytes(content))
    message = refusal(path, read=True)
    assert message.startswith(f"{path}: cells 0 to 400 cannot be read")
    assert "damaged or cut short" in message


def test_damage_within_the_chunks_of_a_zarr_is_placed(tmp_path: Path) -> None:
    path = write_zarr(make_adata(), tmp_path / "a.zarr")
    chunk = path / "X" / "indices" / "c" / "0"
    chunk.write_bytes(chunk.read_bytes()[:20])
    assert refusal(path, read=True).startswith(f"{path}: cells 0 to 60 cannot be read")


def test_a_truncated_10x_h5(tmp_path: Path) -> None:
    path = write_tenx_h5(make_adata(), tmp_path / "a.h5")
    path.write_bytes(path.read_bytes()[:3000])
    assert "cut short" in refusal(path)


def test_an_url_of_nothing(tmp_path: Path) -> None:
    assert "cannot be opened as Zarr" in refusal(f"file://{tmp_path}/no.zarr")
    assert "URLs begin with" in refusal("ftp://host/a.zarr")


# Layers and raw


@pytest.mark.parametrize("kind", ["memory", "h5ad", "zarr"])
def test_layers_that_are_not_there(tmp_path: Path, kind: str) -> None:
    adata = make_adata()
    adata.layers["counts"] = adata.X.copy()
    writers: dict[str, Callable[[], Any]] = {
        "memory": lambda: adata,
        "h5ad": lambda: write_h5ad(adata, tmp_path / "a.h5ad"),
        "zarr": lambda: write_zarr(adata, tmp_path / "a.zarr"),
    }
    target = writers[kind]()
    assert "has no layer 'raw_counts': its layers are counts" in refusal(target, layer="raw_counts")
    assert "has no .raw" in refusal(target, raw=True)
    assert "choose one" in refusal(target, raw=True, layer="counts")


def test_10x_files_have_no_layers(tmp_path: Path) -> None:
    for target in (
        write_tenx_h5(make_adata(), tmp_path / "a.h5"),
        write_tenx_mtx(make_adata(), tmp_path / "a"),
    ):
        assert "it has no layers" in refusal(target, layer="counts")


# Values that are no counts


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (-1.0, "a negative value (-1)"),
        (np.nan, "a missing or infinite value (nan)"),
        (np.inf, "a missing or infinite value (inf)"),
        (0.5, "a value that is not a whole number (0.5)"),
        (2.0**32, "a count too large to store (4.29497e+09)"),
    ],
)
@pytest.mark.parametrize("layout", ["csr", "csc", "dense"])
def test_values_that_are_no_counts_are_placed(
    tmp_path: Path, value: float, what: str, layout: str
) -> None:
    adata = with_entry(value)
    convert = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda X: X.toarray()}
    adata = anndata.AnnData(convert[layout](adata.X), obs=adata.obs, var=adata.var)
    path = write_h5ad(adata, tmp_path / "a.h5ad")
    message = refusal(path, read=True)
    assert message.startswith(f"{path}: {what} for cell 'cell2', gene 'gene3'")


def test_negative_integers(tmp_path: Path) -> None:
    path = write_h5ad(with_entry(-7, dtype=np.int32), tmp_path / "a.h5ad")
    assert "a negative value (-7) for cell 'cell2'" in refusal(path, read=True)


def test_the_place_is_right_wherever_reading_starts(tmp_path: Path) -> None:
    atlas = open_atlas([make_adata(prefix="first"), with_entry(-1)], join="outer")
    with pytest.raises(InputError, match="'cell2', gene 'gene3'"):
        atlas.read(61, 64)
    atlas.read(0, 62)


def test_normalised_data_names_the_layers(tmp_path: Path) -> None:
    adata = with_entry(0.5)
    adata.layers["counts"] = adata.X.copy()
    adata.raw = adata.copy()
    message = refusal(write_h5ad(adata, tmp_path / "a.h5ad"), read=True)
    assert "try --layer counts or --raw, or take such values as they are" in message
    assert "--allow-non-integer" in message


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_allowing_fractions_allows_nothing_else(value: float) -> None:
    assert "cell 'cell2'" in refusal(with_entry(value), read=True, allow_non_integer=True)


def test_a_matrix_of_complex_numbers(tmp_path: Path) -> None:
    path = write_h5ad(make_adata(), tmp_path / "a.h5ad")
    edit(path, data=make_counts().data.astype(np.complex64))
    assert "values of type complex64" in refusal(path)


# Matrices that contradict themselves


def test_broken_csr(tmp_path: Path) -> None:
    X = make_counts()
    fall = X.indptr.copy()
    fall[5] = fall[-1] + 1
    cases = {
        "data holds 9 entries": dict(data=X.data[:9]),
        "indices holds 9 entries": dict(indices=X.indices[:9]),
        "indptr has 60 numbers for 60 rows": dict(indptr=X.indptr[:-1]),
        "indptr falls after row": dict(indptr=fall),
        "indptr begins with 3, not with 0": dict(indptr=X.indptr + 3),
    }
    for number, (message, arrays) in enumerate(cases.items()):
        path = edit(write_h5ad(make_adata(X), tmp_path / f"{number}.h5ad"), **arrays)
        assert message in refusal(path)


@pytest.mark.parametrize("position", [25, -1])
def test_genes_out_of_range(tmp_path: Path, position: int) -> None:
    X = make_counts()
    indices = X.indices.copy()
    indices[X.indptr[7]] = position
    path = edit(write_h5ad(make_adata(X), tmp_path / "a.h5ad"), indices=indices)
    message = refusal(path, read=True)
    assert f"cell 'cell7' has a gene position outside the table of genes ({position})" in message


def test_cells_out_of_range_in_columns(tmp_path: Path) -> None:
    X = sparse.csc_matrix(make_counts())
    adata = make_adata(X)
    path = edit(write_h5ad(adata, tmp_path / "a.h5ad"), indices=X.indices + 5)
    scratch = tmp_path / "scratch"
    assert "belongs to cell number" in refusal(path, scratch=scratch)
    assert list(scratch.iterdir()) == []


def test_tables_that_do_not_fit(tmp_path: Path) -> None:
    path = write_h5ad(make_adata(), tmp_path / "a.h5ad")
    with h5py.File(path, "r+") as file:
        file["X"].attrs["shape"] = [60, 24]
    assert "the matrix has 24 genes and their table 25 rows" in refusal(path)


@pytest.mark.parametrize("table", ["obs", "var"])
@pytest.mark.filterwarnings("ignore:.*:FutureWarning")
def test_columns_of_the_same_name(table: str) -> None:
    adata = make_adata()
    twice = getattr(adata, table).iloc[:, [0, 0]]
    setattr(adata, table, twice)
    message = refusal(adata)
    assert f"several columns of the same name ({twice.columns[0]})" in message


@pytest.mark.parametrize("part", ["indptr", "columns", "values"])
@pytest.mark.parametrize("kind", ["csc", "mtx"])
def test_rows_on_scratch_that_were_cut_short(tmp_path: Path, kind: str, part: str) -> None:
    adata = make_adata(sparse.csc_matrix(make_counts()))
    target = (
        write_h5ad(adata, tmp_path / "a.h5ad")
        if kind == "csc"
        else write_tenx_mtx(adata, tmp_path / "mtx")
    )
    with open_atlas(target, scratch=tmp_path / "scratch") as atlas:
        (path,) = tmp_path.glob(f"scratch/*/{part}")
        path.write_bytes(path.read_bytes()[:-4])
        with pytest.raises(InputError, match=rf"{part} ends early.*run again"):
            atlas.read(0, atlas.n_cells)


def test_arrays_that_give_too_few_numbers() -> None:
    counts = make_counts()
    whole = (counts.indptr, counts.indices, counts.data)
    for name, values in (("indices", counts.indices), ("data", counts.data)):
        short = tuple(Shrinking(array) if array is values else array for array in whole)
        matrix = open_csr("a.h5ad", counts.shape, short, nullcontext())
        with pytest.raises(InputError, match=rf"^a\.h5ad: .*{name} gave .* numbers"):
            matrix.read(0, counts.shape[0])


def test_no_cells(tmp_path: Path) -> None:
    path = write_h5ad(make_adata(make_counts()[:0]), tmp_path / "a.h5ad")
    assert "holds no cells" in refusal(path)


def test_a_full_scratch_disk(tmp_path: Path) -> None:
    X = sparse.csc_matrix(make_counts(400, 100))
    path = write_h5ad(make_adata(X), tmp_path / "a.h5ad")
    scratch = tmp_path / "scratch"
    code = (
        "import resource; from tigon.storage import open_atlas\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))\n"
        f"open_atlas({str(path)!r}, scratch={str(scratch)!r})"
    )
    process = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    last = process.stderr.decode().strip().splitlines()[-1]
    assert f"no space left in {scratch} to turn {path} into rows" in last
    assert "make room there, or use another disk" in last
    assert list(scratch.iterdir()) == []


# 10x directories


def test_a_10x_directory_without_a_part(tmp_path: Path) -> None:
    folder = write_tenx_mtx(make_adata(), tmp_path / "a")
    (folder / "features.tsv.gz").unlink()
    assert "has no features.tsv or genes.tsv" in refusal(folder)


def test_a_10x_directory_with_two_matrices(tmp_path: Path) -> None:
    folder = write_tenx_mtx(make_adata(), tmp_path / "a")
    shutil.copy(folder / "matrix.mtx.gz", folder / "b_matrix.mtx.gz")
    assert "holds 2 matrices" in refusal(folder)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_a_truncated_matrix_market_file(tmp_path: Path, share: float) -> None:
    folder = write_tenx_mtx(make_adata(), tmp_path / "a")
    content = (folder / "matrix.mtx.gz").read_bytes()
    (folder / "matrix.mtx.gz").write_bytes(content[: int(len(content) * share)])
    scratch = tmp_path / "scratch"
    assert "cut short or damaged" in refusal(folder, scratch=scratch)
    assert not scratch.exists() or list(scratch.iterdir()) == []


def with_matrix(folder: Path, *lines: str) -> Path:
    (folder / "matrix.mtx.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


def test_matrix_market_files_that_are_none(tmp_path: Path) -> None:
    folder = write_tenx_mtx(make_adata(), tmp_path / "a")
    header = "%%MatrixMarket matrix coordinate integer general"
    cases = {
        "is not a sparse Matrix Market file": ("cell,gene,count",),
        "of kind 'pattern general'": ("%%MatrixMarket matrix coordinate pattern general",),
        "ends before its sizes": (header,),
        "are not three whole numbers": (header, "25 x 1", "1 1 1"),
        "the matrix has 25 cells and their table 60 rows": (header, "60 25 1", "1 1 1"),
        "holds 1 entries and announces 2": (header, "25 60 2", "1 1 1"),
        "belongs to cell number 61": (header, "25 60 1", "1 61 1"),
        "belongs to gene number 0": (header, "25 60 1", "0 1 1"),
        "the 10x files cannot be read": (header, "25 60 1", "1 1 one"),
    }
    for message, lines in cases.items():
        assert message in refusal(with_matrix(folder, *lines))


def test_negative_entries_of_a_10x_directory(tmp_path: Path) -> None:
    folder = write_tenx_mtx(make_adata(), tmp_path / "a")
    header = "%%MatrixMarket matrix coordinate integer general"
    with_matrix(folder, header, "25 60 1", "4 3 -2")
    assert "a negative value (-2) for cell 'cell2', gene 'gene3'" in refusal(folder, read=True)


def test_several_genomes(tmp_path: Path) -> None:
    path = write_tenx_h5(make_adata(), tmp_path / "a.h5", version=2)
    with h5py.File(path, "r+") as file:
        file.copy("GRCh38", "mm10")
    assert "several genomes (GRCh38, mm10)" in refusal(path)


def test_several_types_and_no_genes(tmp_path: Path) -> None:
    types = ["Peaks"] * 20 + ["Antibody Capture"] * 5
    path = write_tenx_h5(make_adata(), tmp_path / "a.h5", types=types)
    assert "several types (Peaks, Antibody Capture)" in refusal(path)


def test_a_backed_anndata(tmp_path: Path) -> None:
    path = write_h5ad(make_adata(), tmp_path / "a.h5ad")
    backed = anndata.read_h5ad(path, backed="r")
    assert "give the path of the file instead" in refusal(backed)
    backed.file.close()
