"""Outputs appear whole or not at all."""

import errno
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tigon.storage import publish
from tigon.storage.errors import InputError, OutputExistsError, TigonError
from tigon.storage.publish import published


def write_store(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "zarr.json").write_text(text)


def fail_halfway(out: Path, error: BaseException) -> None:
    with published(out, overwrite=True) as aside:
        write_store(aside, "half")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_folder_takes_its_name_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    with published(out) as aside:
        write_store(aside, "new")
        assert not out.exists()
        assert aside.name == f".run.zarr.tigon-partial-{os.getpid()}"
    assert (out / "zarr.json").read_text() == "new"
    assert names(tmp_path) == ["run.zarr"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_nothing_and_keeps_the_old(
    tmp_path: Path, error: type[BaseException]
) -> None:
    out = tmp_path / "run.zarr"
    write_store(out, "old")
    with pytest.raises(error):
        fail_halfway(out, error())
    assert names(tmp_path) == ["run.zarr"]
    assert (out / "zarr.json").read_text() == "old"


def test_overwriting_a_folder_and_a_file(tmp_path: Path) -> None:
    store, page = tmp_path / "run.zarr", tmp_path / "run.html"
    write_store(store, "old")
    page.write_text("old")
    with published(store, overwrite=True) as aside:
        write_store(aside, "new")
    with published(page, overwrite=True) as aside:
        aside.write_text("new")
    assert (store / "zarr.json").read_text() == page.read_text() == "new"
    assert names(tmp_path) == ["run.html", "run.zarr"]


def test_an_output_that_exists_is_refused_at_once(tmp_path: Path) -> None:
    out = tmp_path / "run.html"
    out.write_text("old")
    with pytest.raises(OutputExistsError, match="--overwrite"), published(out):
        pytest.fail("the block must not run")
    assert out.read_text() == "old"


def test_an_unrelated_folder_is_never_replaced(tmp_path: Path) -> None:
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "chapter1.tex").write_text("years of work")
    with pytest.raises(InputError, match="did not write"), published(out, overwrite=True):
        pytest.fail("the block must not run")
    assert (out / "chapter1.tex").exists()


def test_a_folder_does_not_replace_a_file(tmp_path: Path) -> None:
    out = tmp_path / "data.h5ad"
    out.write_text("counts")
    with (
        pytest.raises(InputError, match="is a file"),
        published(out, overwrite=True) as aside,
    ):
        write_store(aside, "new")
    assert out.read_text() == "counts"
    assert names(tmp_path) == ["data.h5ad"]


def test_a_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"), published(tmp_path / "no" / "a.zarr"):
        pytest.fail("the block must not run")


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    write_store(tmp_path / f".a.zarr.tigon-partial-{dead_pid()}", "half")
    living = tmp_path / f".a.zarr.tigon-partial-{os.getppid()}"
    write_store(living, "being written by another process")
    with published(tmp_path / "a.zarr") as aside:
        write_store(aside, "new")
    assert names(tmp_path) == [living.name, "a.zarr"]


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path: Path) -> None:
    write_store(tmp_path / f".a.zarr.tigon-old-{dead_pid()}", "old")
    with pytest.raises(OutputExistsError), published(tmp_path / "a.zarr"):
        pytest.fail("the block must not run")
    assert (tmp_path / "a.zarr" / "zarr.json").read_text() == "old"


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    with published(tmp_path / "a.zarr") as aside:
        write_store(aside, "first")
        with (
            pytest.raises(OutputExistsError, match="being written"),
            published(tmp_path / "a.zarr"),
        ):
            pytest.fail("the block must not run")
    assert (tmp_path / "a.zarr" / "zarr.json").read_text() == "first"


def test_one_writer_at_a_time_among_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_writers = 4
    all_there = threading.Barrier(n_writers)
    # Time for the others to come between the look and the reservation.
    monkeypatch.setattr(publish, "_clear_leftovers", lambda out: time.sleep(0.05))

    def write(_: int) -> bool:
        try:
            with published(tmp_path / "a.zarr") as aside:
                all_there.wait()
                write_store(aside, "first")
        except OutputExistsError:
            all_there.wait()
            return False
        return True

    with ThreadPoolExecutor(n_writers) as pool:
        assert sum(pool.map(write, range(n_writers))) == 1
    assert names(tmp_path) == ["a.zarr"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Can't write data (error message = 'No space left on device')"),
    ],
    ids=["zarr", "hdf5"],
)
def test_a_full_disk_is_told_plainly(tmp_path: Path, error: OSError) -> None:
    with pytest.raises(TigonError, match=r"no space left to write .*a\.zarr.* MiB are left"):
        fail_halfway(tmp_path / "a.zarr", error)
    assert names(tmp_path) == []


def test_other_system_errors_pass_through(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), published(tmp_path / "a.zarr"):
        raise PermissionError(errno.EACCES, "denied")
