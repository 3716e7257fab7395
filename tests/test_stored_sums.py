"""Sums that an atlas brings with it stand for the first pass, to the bit, where they are of use."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from builders import make_adata, make_counts, write_h5ad
from scipy import sparse

import tigon
from tigon.scaling import first_pass as passes
from tigon.scaling.cells import CellFilter
from tigon.scaling.datasets import Datasets, datasets_of
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.first_pass import (
    first_pass,
    is_stored,
    read_statistics,
    stored_statistics,
)
from tigon.scaling.preparing import PrepareConfig, prepare
from tigon.scaling.statistics import BlockCounting, Statistics
from tigon.storage import Atlas, layout, open_atlas, write_atlas
from tigon.storage.errors import InputError

GENES = [*(f"g{i}" for i in range(26)), "MT-ND1", "mt-Co1", "RPL5", "RPS6KA1"]
NO_LIMITS = CellFilter()
SIZES = (2300, 150, 4000)  # datasets end within blocks of 2,048 cells


def counts_of_three(scale: float = 1) -> list[sparse.csr_matrix]:
    return [scale * make_counts(n, len(GENES), seed=n) for n in SIZES]


def written(folder: Path, **options: Any) -> Atlas:
    """An atlas of three sources, whose names are not in the order of the alphabet."""
    paths = [
        write_h5ad(make_adata(X, prefix=f"{name}-", genes=GENES), folder / f"{name}.h5ad")
        for name, X in zip("bca", counts_of_three(), strict=True)
    ]
    return write_atlas(open_atlas(paths), folder / "atlas.zarr", **options)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stored")
    written(folder).close()
    return folder / "atlas.zarr"


def stored(atlas: Atlas, datasets: Datasets, limits: CellFilter = NO_LIMITS) -> Statistics | None:
    return stored_statistics(atlas, datasets, BlockCounting.of(atlas, datasets, limits))


def read(atlas: Atlas, datasets: Datasets, limits: CellFilter = NO_LIMITS) -> Statistics:
    """By reading every cell."""
    with ThreadEngine(2) as engine:
        counting = BlockCounting.of(atlas, datasets, limits)
        return read_statistics(atlas, datasets, counting, engine)


def check_equal(found: Statistics | None, expected: Statistics) -> None:
    assert found is not None
    for name in Statistics.__slots__:
        one, other = np.asarray(getattr(found, name)), np.asarray(getattr(expected, name))
        assert one.dtype == other.dtype, name
        np.testing.assert_array_equal(one, other, err_msg=name)


def without(datasets: Datasets, dropped: int) -> Datasets:
    """The same without one of the datasets."""
    codes = datasets.codes
    kept = np.where(codes == dropped, -1, codes - (codes > dropped)).astype(np.int32)
    rest = [i for i in range(len(datasets.names)) if i != dropped]
    names = tuple(datasets.names[i] for i in rest)
    return Datasets(names, kept, datasets.measured[rest])


@pytest.mark.parametrize("profile", layout.PROFILES)
def test_they_are_those_of_the_first_pass(tmp_path: Path, profile: str) -> None:
    with written(tmp_path, profile=profile) as atlas:
        datasets = datasets_of(atlas, None)
        expected = read(atlas, datasets)
        assert expected.mitochondrial.any()
        assert expected.ribosomal.any()
        check_equal(stored(atlas, datasets), expected)


def test_no_cell_is_read(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_atlas(place) as atlas, ThreadEngine(2) as engine:
        datasets = datasets_of(atlas, None)
        expected, told = read(atlas, datasets), []
        monkeypatch.delattr(Atlas, "read")
        found = first_pass(
            atlas, datasets, CellFilter(), engine, lambda *said, **_: told.append(said)
        )
        check_equal(found, expected)
        assert told == [("reading cells", sum(SIZES), sum(SIZES))]


def test_datasets_in_another_order_or_left_out(place: Path) -> None:
    with open_atlas(place) as atlas:
        assert atlas.source_names == ["b", "c", "a"]
        order = np.array([1, 2, 0], np.int32)  # as a column of categories numbers them
        datasets = Datasets(("a", "b", "c"), order[atlas.source_codes], atlas.measured[[2, 0, 1]])
        check_equal(stored(atlas, datasets), read(atlas, datasets))
        for dropped in range(3):
            fewer = without(datasets, dropped)
            check_equal(stored(atlas, fewer), read(atlas, fewer))


def test_limits_that_all_cells_meet(place: Path) -> None:
    with open_atlas(place) as atlas:
        datasets = datasets_of(atlas, None)
        limits = CellFilter(max_mito=0.999)
        kept = read(atlas, datasets, limits).kept
        assert (stored(atlas, datasets, limits) is None) == (not kept.all())
        assert stored(atlas, datasets, CellFilter(min_counts=0)) is not None
        assert stored(atlas, datasets, CellFilter(min_genes=1)) is None  # some are empty


def test_datasets_that_are_no_sources(place: Path) -> None:
    with open_atlas(place) as atlas:
        sources = datasets_of(atlas, None)
        one = Datasets(("all",), np.zeros(atlas.n_cells, np.int32), atlas.measured[:1])
        two = Datasets(("bc", "a"), np.maximum(sources.codes - 1, 0), atlas.measured[:2])
        some = sources.keep(np.arange(atlas.n_cells) > 0)
        for datasets in (datasets_of(atlas, "batch"), one, two, some):
            assert stored(atlas, datasets) is None


def test_atlases_that_have_none(place: Path, tmp_path: Path) -> None:
    fractions = write_atlas(
        open_atlas(make_adata(counts_of_three(0.5)[1], genes=GENES), allow_non_integer=True),
        tmp_path / "f.zarr",
        profile="network",
    )
    with open_atlas(place) as atlas:
        more = write_atlas(
            open_atlas(make_adata(prefix="more", genes=[f"g{i}" for i in range(25)])),
            tmp_path / "m.zarr",
        )
        together = open_atlas([place, tmp_path / "m.zarr"])
        for other in (fractions, together, open_atlas(make_adata())):
            assert stored(other, datasets_of(other, None)) is None
        assert stored(more, datasets_of(more, None)) is not None
        assert atlas.sums is not None


def test_an_atlas_of_before_is_read(place: Path, tmp_path: Path) -> None:
    with written(tmp_path) as atlas:
        expected = read(atlas, datasets_of(atlas, None))
    root = zarr.open_group(str(tmp_path / "atlas.zarr"), mode="r+", use_consolidated=False)
    mark: Any = dict(root["X"].attrs[layout.MARK])  # type: ignore[arg-type]
    del mark["kinds"], mark["largest"], mark["sources"]
    root["X"].attrs[layout.MARK] = mark
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        zarr.consolidate_metadata(str(tmp_path / "atlas.zarr"))
    with open_atlas(tmp_path / "atlas.zarr") as atlas, ThreadEngine(1) as engine:
        assert atlas.sums is None
        check_equal(first_pass(atlas, datasets_of(atlas, None), CellFilter(), engine), expected)


@pytest.mark.parametrize("changed", ["another order", "another source", "nothing"])
def test_a_table_of_cells_that_was_written_anew(tmp_path: Path, changed: str) -> None:
    with written(tmp_path) as atlas:
        codes = atlas.source_codes.copy()
    if changed == "another order":
        codes = np.array([1, 2, 0], np.int32)[codes]
    elif changed == "another source":
        codes[:100] = 1
    root = zarr.open_group(str(tmp_path / "atlas.zarr"), mode="r+", use_consolidated=False)
    stored_codes: Any = root[f"obs/{layout.DATASET_COLUMN}/codes"]
    stored_codes[:] = codes
    with open_atlas(tmp_path / "atlas.zarr") as atlas:
        datasets = datasets_of(atlas, None)
        found = stored(atlas, datasets)
        assert is_stored(atlas, datasets, NO_LIMITS) == (changed == "nothing")
        if changed == "nothing":
            check_equal(found, read(atlas, datasets))
        else:
            assert found is None


def test_plans_count_passes(place: Path) -> None:
    fits: dict[str, Any] = {"n_components": 4, "n_genes": 10}
    assert tigon.plan(place, **fits).atlas_passes == 1
    assert tigon.plan(place, **fits, min_genes=1).atlas_passes == 2
    assert tigon.plan(place, **fits, batch_key="batch").atlas_passes == 2


def test_a_version_that_knows_other_kinds_reads(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_atlas(place) as atlas:
        datasets = datasets_of(atlas, None)
        kinds = np.where(np.arange(atlas.n_genes) == 3, 1, 0).astype(np.uint8)
        monkeypatch.setattr("tigon.scaling.statistics.kinds_of", lambda _: kinds)
        assert stored(atlas, datasets) is None


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("tigon_totals", "sums of cells 0 to 6,450"),
        ("tigon_mitochondrial", "sums of cells 0 to 6,450"),
        ("tigon_ribosomal", "sums of cells 0 to 6,450"),
        ("tigon_genes/first", "sums of genes"),
        ("tigon_genes/second", "sums of genes"),
        ("tigon_genes/cells", "sums of genes"),
    ],
)
def test_a_file_that_is_lost_or_damaged(tmp_path: Path, lost: str, told: str) -> None:
    written(tmp_path).close()
    chunks = (tmp_path / f"atlas.zarr/X/{lost}/c").rglob("*")
    path = next(path for path in chunks if path.is_file())
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with open_atlas(tmp_path / "atlas.zarr") as atlas, pytest.raises(InputError) as error:
        stored(atlas, datasets_of(atlas, None))
    assert str(tmp_path / "atlas.zarr") in str(error.value)
    path.unlink()
    with open_atlas(tmp_path / "atlas.zarr") as atlas, pytest.raises(InputError, match=told):
        stored(atlas, datasets_of(atlas, None))


def test_the_same_genes_and_scales(place: Path) -> None:
    config = PrepareConfig(batch_key="tigon_dataset", n_genes=10)
    with tigon.open(place) as atlas, ThreadEngine(2) as engine:
        quick = prepare(atlas, config, 4, engine)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(passes, "stored_statistics", lambda *_: None)
            slow = prepare(atlas, config, 4, engine)
    np.testing.assert_array_equal(quick.genes, slow.genes)
    np.testing.assert_array_equal(quick.problem(5.0).scale, slow.problem(5.0).scale)
