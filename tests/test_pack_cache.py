"""Packs that are kept: used again when nothing changed, rebuilt when damaged, never half there."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pytest
from atlases import planted

import tigon
from tigon.scaling import keeping
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.keeping import obtain_pack
from tigon.scaling.preparing import PrepareConfig, Prepared, prepare
from tigon.storage import write_atlas
from tigon.storage.errors import InputError, NoSpaceError
from tigon.storage.packs.cache import PackCache
from tigon.storage.packs.naming import pack_name
from tigon.storage.packs.pack import FILES, Pack


def ingested(adata: anndata.AnnData, path: Path) -> tigon.Atlas:
    write_atlas(tigon.open(adata), path)
    return tigon.open(path)


@pytest.fixture
def adata() -> anndata.AnnData:
    return planted(n=500, m=60, k=3).adata


@pytest.fixture
def atlas(adata: anndata.AnnData, tmp_path: Path) -> tigon.Atlas:
    return ingested(adata, tmp_path / "atlas.zarr")


@pytest.fixture
def engine() -> ThreadEngine:
    with ThreadEngine(2) as engine:
        yield engine


class Job:
    """Asks for the pack of an atlas; counts how often one was written."""

    def __init__(self, atlas: tigon.Atlas, folder: Path, engine: ThreadEngine, n_genes: int = 40):
        self.atlas, self.folder, self.engine = atlas, folder, engine
        config = PrepareConfig(batch_key="batch", n_genes=n_genes)
        self.prepared: Prepared = prepare(atlas, config, 3, engine)
        self.stages: list[str] = []

    def ask(self, cache: Path | None, seed: int = 0) -> Pack:
        found = self.prepared
        return obtain_pack(
            self.atlas,
            found.datasets,
            found.statistics,
            found.genes,
            self.folder / f"scratch{len(self.stages)}",
            None if cache is None else PackCache(cache),
            self.engine,
            np.random.SeedSequence(seed),
            lambda stage, done, total, **figures: self.stages.append(stage),
        )

    @property
    def n_written(self) -> int:
        return self.stages.count("packing cells")


@pytest.fixture
def job(atlas: tigon.Atlas, tmp_path: Path, engine: ThreadEngine) -> Job:
    return Job(atlas, tmp_path, engine)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def names(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir())


def test_a_pack_is_written_once_and_used_again(job: Job, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    aside = job.ask(None)
    first = job.ask(cache)
    assert job.n_written == 2
    again = job.ask(cache)
    assert job.n_written == 2
    assert "checking the pack (bytes)" in job.stages
    assert first.folder == again.folder == cache / names(cache)[0]
    assert files(aside.folder) == files(first.folder)
    assert len(names(cache)) == 1, "no lock and no leftovers"


def test_what_is_not_named_is_not_kept(job: Job, tmp_path: Path) -> None:
    pack = job.ask(None)
    assert pack.folder.parent == tmp_path


def test_another_seed_or_other_genes_are_another_pack(
    job: Job, atlas: tigon.Atlas, tmp_path: Path, engine: ThreadEngine
) -> None:
    cache = tmp_path / "cache"
    job.ask(cache)
    job.ask(cache, seed=1)
    Job(atlas, tmp_path, engine, n_genes=30).ask(cache)
    assert len(names(cache)) == 3


def test_every_part_is_in_the_name() -> None:
    parts = {"genes": np.arange(3), "places": np.arange(3)}
    name = pack_name("a", **parts)
    assert name == pack_name("a", **dict(reversed(parts.items())))
    assert name != pack_name("b", **parts)
    assert name != pack_name("a", genes=np.arange(3), places=np.array([0, 2, 1]))
    assert name != pack_name("a", genes=np.arange(3).astype(np.int32), places=np.arange(3))
    assert name != pack_name("a", genes=np.arange(2), places=np.arange(3))


def test_an_atlas_that_changed_is_packed_anew(
    adata: anndata.AnnData, job: Job, tmp_path: Path, engine: ThreadEngine
) -> None:
    cache = tmp_path / "cache"
    job.ask(cache)
    same = Job(ingested(adata, tmp_path / "copy.zarr"), tmp_path, engine)
    same.ask(cache)
    assert same.n_written == 0, "the same content elsewhere is the same pack"
    adata.X[0, 0] += 1
    changed = Job(ingested(adata, tmp_path / "changed.zarr"), tmp_path, engine)
    changed.ask(cache)
    assert changed.n_written == 1
    assert len(names(cache)) == 2


def test_an_atlas_whose_content_is_not_known_is_not_kept(
    adata: anndata.AnnData, tmp_path: Path, engine: ThreadEngine, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    for _ in range(2):
        Job(tigon.open(adata), tmp_path / f"{_}", engine).ask(cache)
    assert names(cache) == []
    assert "the pack is not kept: whether what was opened has changed" in caplog.text


@pytest.mark.parametrize("name", [*FILES, "pack.json"])
@pytest.mark.parametrize("how", ["cut", "flipped", "gone"])
def test_a_damaged_pack_is_written_anew(
    job: Job, tmp_path: Path, name: str, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    before = files(job.ask(cache).folder)
    path = cache / names(cache)[0] / name
    content = bytearray(before[name])
    if how == "cut":
        path.write_bytes(content[:-1])
    elif how == "gone":
        path.unlink()
    else:
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    again = job.ask(cache)
    assert job.n_written == 2
    assert "is of no use, it is written anew: " in caplog.text
    assert str(cache) in caplog.text
    assert files(again.folder) == before
    assert len(names(cache)) == 1
    job.ask(cache)
    assert job.n_written == 2


def test_a_flipped_bit_of_the_description_is_found(job: Job, tmp_path: Path) -> None:
    folder = job.ask(tmp_path / "cache").folder
    path = folder / "pack.json"
    content = path.read_bytes()
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(InputError, match="holds no finished pack"):
            Pack(folder)
    path.write_bytes(content)
    assert Pack(folder).n_cells == 500


def test_damage_is_told_with_its_place(job: Job, tmp_path: Path) -> None:
    pack = job.ask(tmp_path / "cache")
    path = pack.folder / "counts.bin"
    content = bytearray(path.read_bytes())
    content[100] ^= 128
    path.write_bytes(content)
    told = []
    for stretch in pack.stretches():
        try:
            pack.check(stretch)
        except InputError as error:
            told.append(str(error))
    (one,) = told
    assert f"{path} is damaged (bytes 0 to {len(content):,} " in one


def test_of_those_who_want_a_pack_one_writes_it(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(keeping, "WAIT_S", 0.01)
    cache, reached, go_on = tmp_path / "cache", threading.Event(), threading.Event()
    write = keeping.write_pack

    def slowly(*arguments: object) -> Pack:
        reached.set()
        assert go_on.wait(60)
        return write(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(keeping, "write_pack", slowly)
    found: list[Pack] = []
    askers = [threading.Thread(target=lambda: found.append(job.ask(cache))) for _ in range(3)]
    for asker in askers:
        asker.start()
    assert reached.wait(60)
    while caplog.text.count("waiting for it") < 2:
        assert threading.active_count() > 1
    go_on.set()
    for asker in askers:
        asker.join()
    assert len({pack.folder for pack in found}) == 1
    assert job.n_written == 1


def test_a_pack_that_is_cleared_stays_readable(job: Job, tmp_path: Path) -> None:
    cache = PackCache(tmp_path / "cache")
    pack = job.ask(cache.folder)
    before = pack.read(0, pack.n_cells)
    assert cache.clear([pack.folder.name]) > pack.n_bytes
    assert names(cache.folder) == []
    np.testing.assert_array_equal(pack.read(0, pack.n_cells).counts, before.counts)
    job.ask(cache.folder)
    assert job.n_written == 2


def test_a_pack_that_is_being_written_is_not_cleared(job: Job, tmp_path: Path) -> None:
    cache = PackCache(tmp_path / "cache")
    name = job.ask(cache.folder).folder.name
    with cache.sole_writer(name), pytest.raises(InputError, match="being written by another"):
        cache.clear([name])
    assert names(cache.folder) == [name]


def test_what_a_killed_writer_left_is_removed_by_the_next(job: Job, tmp_path: Path) -> None:
    cache = PackCache(tmp_path / "cache")
    name = "pack-" + 32 * "0"
    left = cache.folder / f".{name}.tigon-partial-elsewhere-1"
    left.mkdir()
    (left / "runs").write_bytes(b"half")
    with cache.sole_writer(name):
        job.ask(cache.folder)
        assert left.exists(), "its writer is alive"
    job.ask(cache.folder, seed=1)
    assert not left.exists()
    assert len(names(cache.folder)) == 2
    assert cache.find(name) is None


def test_a_failed_writer_leaves_nothing(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(error: Exception) -> Callable[..., Pack]:
        def write(*arguments: object) -> Pack:
            folder = arguments[5]
            assert isinstance(folder, Path)
            folder.mkdir()
            (folder / "runs").write_bytes(b"half")
            raise error

        return write

    cache = tmp_path / "cache"
    for error, raised in (
        (OSError(28, "No space left on device"), NoSpaceError),
        (KeyError("x"), KeyError),
    ):
        monkeypatch.setattr(keeping, "write_pack", fail(error))
        with pytest.raises(raised):
            job.ask(cache)
        assert names(cache) == []


def test_a_read_only_cache_is_used_but_not_added_to(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cache = tmp_path / "cache"
    job.ask(cache)
    # As os.access tells of a read-only folder, whoever runs the tests.
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != cache)
    job.ask(cache)
    assert job.n_written == 1
    pack = job.ask(cache, seed=1)
    assert "cannot be written to: the pack is not kept" in caplog.text
    assert not pack.folder.is_relative_to(cache)
    assert len(names(cache)) == 1


def test_a_cache_that_is_no_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"packs cannot be kept in .*: a folder is needed"):
        PackCache(tmp_path / "file")


def test_runs_are_the_same_with_a_cache_and_in_memory(
    atlas: tigon.Atlas, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_held, hold = [0], Pack.hold

    def counted(pack: Pack) -> None:
        n_held[0] += 1
        hold(pack)

    monkeypatch.setattr(Pack, "hold", counted)
    options = dict(batch_key="batch", n_components=3, n_genes=40, n_epochs=1, umap=False)
    cache = tmp_path / "cache"
    # What the plan asks for and no more: nothing to spare for a pack in memory.
    tight = tigon.plan(atlas, n_threads=2, **options).peak_bytes
    found = []
    for kept, limit, expected in ((None, tight, 0), (cache, tight, 0), (cache, "2GiB", 1)):
        run = tigon.integrate(
            atlas,
            out=tmp_path / f"{len(found)}.zarr",
            report=False,
            cache=kept,
            memory_limit=limit,
            n_threads=2,
            **options,
        )
        found.append(run)
        assert n_held[0] == expected
    assert len(names(cache)) == 1
    for run in found[1:]:
        np.testing.assert_array_equal(run.W, found[0].W)
        np.testing.assert_array_equal(run.loadings.read(0, 500), found[0].loadings.read(0, 500))
