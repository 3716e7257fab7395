"""An atlas that the caller has is used as it is; others are opened and closed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from builders import make_adata, write_h5ad

from tigon.storage import open_atlas
from tigon.storage.borrowing import borrowed_atlas
from tigon.storage.errors import InputError


def test_an_open_atlas_stays_open(tmp_path: Path) -> None:
    with open_atlas(write_h5ad(make_adata(), tmp_path / "a.h5ad")) as atlas:
        options = {"layer": None, "raw": False, "join": "inner", "scratch": tmp_path}
        with borrowed_atlas(atlas, **options) as same:
            assert same is atlas
        with borrowed_atlas(atlas, join=None) as same:
            assert same is atlas
        assert atlas.read(0, 5).n_cells == 5


def test_what_is_opened_is_closed(tmp_path: Path) -> None:
    path = write_h5ad(make_adata(), tmp_path / "a.h5ad")
    with borrowed_atlas(path, allow_non_integer=True) as atlas:
        assert atlas.read(0, 5).n_cells == 5
    with pytest.raises(InputError, match="cannot be read"):
        atlas.read(0, 5)


@pytest.mark.parametrize(
    "option",
    [
        {"layer": "x"},
        {"raw": True},
        {"join": "outer"},
        {"gene_id_column": "id"},
        {"allow_non_integer": True},
    ],
)
def test_opening_an_open_atlas_is_refused(option: dict[str, Any]) -> None:
    ((name, value),) = option.items()
    with open_atlas(make_adata()) as atlas:
        with pytest.raises(InputError) as refusal, borrowed_atlas(atlas, **option):
            pytest.fail("the option would be ignored")
        assert str(refusal.value) == (
            f"{name}={value!r} was given for an atlas that is open already: "
            "options of opening belong to tigon.open"
        )
