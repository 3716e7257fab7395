"""``tigon cache`` and ``--cache`` as a user meets them."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from atlases import planted
from builders import write_h5ad
from command_line import refused, tigon, works

import tigon as package
from tigon.storage import write_atlas

SHORT = ("--batch-key", "batch", "-k", "3", "--n-epochs", "1", "--no-umap", "--no-report")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an atlas, and a cache with two packs of it."""
    folder = tmp_path_factory.mktemp("made")
    write_atlas(package.open(planted(n=400, m=60, k=3).adata), folder / "atlas.zarr")
    for n_genes in ("40", "50"):
        options = ("--n-genes", n_genes, "--cache", folder / "cache", *SHORT)
        works("integrate", folder / "atlas.zarr", "--out", folder / f"{n_genes}.zarr", *options)
    newest = max(folder.glob("cache/*/pack.json"), key=lambda path: path.stat().st_mtime)
    os.utime(newest, (9e9, 9e9))
    return folder


@pytest.fixture
def atlas(made: Path) -> Path:
    return made / "atlas.zarr"


@pytest.fixture
def cache(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "cache", tmp_path / "cache"))


def packs_in(cache: Path) -> list[dict]:
    facts = json.loads(works("cache", "list", "--cache", cache, "--json").stdout)
    assert facts["kind"] == "cache"
    return facts["packs"]


def test_packs_are_listed_as_a_table(cache: Path, atlas: Path) -> None:
    heading, *rows = works("cache", "list", "--cache", cache).stdout.splitlines()
    assert heading.split("  ")[0] == "name"
    assert [word in heading for word in ("atlas", "cells", "genes", "size", "used last")] == [
        True
    ] * 5
    assert len(rows) == 2
    assert all(str(atlas) in row and " 400 " in row for row in rows)
    newest, older = packs_in(cache)
    assert (newest["n_genes"], older["n_genes"]) == (50, 40)
    assert newest["last_used"] == 9e9
    assert newest["n_bytes"] == sum(f.stat().st_size for f in (cache / newest["name"]).iterdir())


def test_a_folder_may_be_named_by_the_environment(
    cache: Path, atlas: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIGON_CACHE", str(cache))
    assert len(works("cache", "list").stdout.splitlines()) == 3
    out = tmp_path / "three.zarr"
    shown = works("integrate", atlas, "--out", out, "--n-genes", "40", *SHORT)
    assert "checking the pack" in shown.stderr
    assert "packing cells" not in shown.stderr
    assert len(packs_in(cache)) == 2


def test_packs_are_cleared_by_name_or_all_at_once(cache: Path) -> None:
    first, second = packs_in(cache)
    digits = first["name"].removeprefix("pack-")[:8]
    done = works("cache", "clear", digits, "--yes", "--cache", cache, "--json")
    facts = json.loads(done.stdout)
    assert facts["removed"] == [first["name"]]
    assert facts["freed_bytes"] == first["n_bytes"]
    assert [pack["name"] for pack in packs_in(cache)] == [second["name"]]
    assert "removed 1 pack (" in works("cache", "clear", "--all", "-y", "--cache", cache).stdout
    assert works("cache", "list", "--cache", cache).stdout == "no packs are kept\n"
    assert list(cache.iterdir()) == []
    works("cache", "clear", "--all", "--cache", cache)


def test_nothing_is_cleared_by_mistake(cache: Path, tmp_path: Path) -> None:
    name = packs_in(cache)[0]["name"]
    here = ("--cache", cache)
    assert "give --yes" in refused(tmp_path, "cache", "clear", name, *here)
    assert "either names or --all" in refused(tmp_path, "cache", "clear", "--yes", *here)
    both = refused(tmp_path, "cache", "clear", name, "--all", "--yes", *here)
    assert "either names or --all" in both
    assert "names 2 of the 2 packs" in refused(tmp_path, "cache", "clear", "pack-", "-y", *here)
    assert "names 0 of the 2 packs" in refused(tmp_path, "cache", "clear", "nothing", "-y", *here)


def test_it_asks_before_it_clears(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tigon.command.cache._can_ask", lambda: True)
    for answer, left in ((False, 2), (True, 0)):
        monkeypatch.setattr("typer.confirm", lambda *_, answer=answer, **__: answer)
        works("cache", "clear", "--all", "--cache", cache)
        assert len(packs_in(cache)) == left


def test_a_pack_that_cannot_be_read_is_listed_and_cleared(cache: Path) -> None:
    (cache / packs_in(cache)[0]["name"] / "pack.json").write_text("{")
    assert "(cannot be read)" in works("cache", "list", "--cache", cache).stdout
    works("cache", "clear", "--all", "--yes", "--cache", cache)
    assert list(cache.iterdir()) == []


def test_a_folder_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TIGON_CACHE", raising=False)
    assert "no folder of packs is named" in refused(tmp_path, "cache", "list")
    nowhere = tmp_path / "nowhere"
    assert f"{nowhere} is no folder" in refused(tmp_path, "cache", "list", "--cache", nowhere)
    assert not nowhere.exists()


def test_a_file_in_the_place_of_the_cache_is_refused(tmp_path: Path, atlas: Path) -> None:
    counts = write_h5ad(planted(n=400, m=60, k=3).adata, tmp_path / "a.h5ad")
    options = ("--out", tmp_path / "out.zarr", "--cache", counts, *SHORT)
    assert "packs cannot be kept in" in refused(tmp_path, "integrate", atlas, *options)


def test_without_a_folder_nothing_is_kept(atlas: Path, tmp_path: Path) -> None:
    works("integrate", atlas, "--out", tmp_path / "out.zarr", *SHORT)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.zarr"]


def test_help_says_what_is_kept() -> None:
    assert "removed at the end" in " ".join(tigon("integrate", "--help").stdout.split())
    assert "Nothing is removed until you ask" in " ".join(tigon("cache", "--help").stdout.split())


def test_a_file_under_the_name_of_a_pack_is_cleared_too(tmp_path: Path) -> None:
    (tmp_path / f"pack-{32 * 'a'}").write_text("left by a copy that went wrong")
    works("cache", "clear", "--all", "--yes", "--cache", tmp_path)
    assert packs_in(tmp_path) == []
