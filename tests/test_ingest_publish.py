"""Outputs appear whole or not at all."""

import errno
import os
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from tigon.storage import publish
from tigon.storage.errors import InputError, OutputExistsError, TigonError
from tigon.storage.exchange import exchange
from tigon.storage.publish import check_output, published


def write_store(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "zarr.json").write_text(text)


def fail_halfway(out: Path, error: BaseException) -> None:
    with published(out, overwrite=True) as aside:
        write_store(aside, "half")
        raise error


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_folder_takes_its_name_at_the_end(tmp_path: Path) -> None:
    out = tmp_path / "run.zarr"
    with published(out) as aside:
        write_store(aside, "new")
        assert not out.exists()
        assert aside.name == f".run.zarr.tigon-partial-{os.uname().nodename}-{os.getpid()}"
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


@pytest.fixture(params=["exchanging names", "two renames"])
def replacing(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways to replace a folder: not every file system exchanges names."""
    if request.param == "two renames":
        monkeypatch.setattr(publish, "exchange", lambda one, other: False)


@pytest.mark.usefixtures("replacing")
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
    # In a container the next process often has the same number.
    for owner in ("elsewhere-1", f"{os.uname().nodename}-{os.getpid()}"):
        write_store(tmp_path / f".a.zarr.tigon-partial-{owner}", "half")
    (tmp_path / ".tigon-lock-a.zarr").touch()
    with published(tmp_path / "a.zarr") as aside:
        write_store(aside, "new")
    assert names(tmp_path) == ["a.zarr"]


WRITER = """
import sys
from pathlib import Path
from tigon.storage.publish import check_output, published
with published(Path(sys.argv[1])) as aside:
    aside.write_text("first")
    print("writing", flush=True)
    sys.stdin.read()
"""


@contextmanager
def writing_elsewhere(out: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process in the middle of writing ``out``."""
    with subprocess.Popen(
        [sys.executable, "-c", WRITER, str(out)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "writing\n"
        yield process


@pytest.mark.parametrize("overwrite", [False, True])
def test_what_another_process_writes_is_left_alone(tmp_path: Path, overwrite: bool) -> None:
    out = tmp_path / "a.html"
    with writing_elsewhere(out):
        during = names(tmp_path)
        with pytest.raises(OutputExistsError, match="being written by another process"):
            check_output(out, overwrite=overwrite)
        with (
            pytest.raises(OutputExistsError, match="being written by another process"),
            published(out, overwrite=overwrite),
        ):
            pytest.fail("the block must not run")
        assert names(tmp_path) == during
    assert out.read_text() == "first"
    assert names(tmp_path) == ["a.html"]


def test_after_a_kill_the_lock_is_free(tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    with writing_elsewhere(out) as process:
        process.kill()
    assert len(names(tmp_path)) == 2
    with published(out) as aside:
        aside.write_text("second")
    assert names(tmp_path) == ["a.html"]


@pytest.mark.parametrize("as_folder", [False, True])
def test_an_output_that_appears_meanwhile_is_kept(tmp_path: Path, as_folder: bool) -> None:
    out = tmp_path / "a.zarr"
    write = write_store if as_folder else Path.write_text

    def write_both() -> None:
        with published(out) as aside:
            write(aside, "mine")
            write(out, "theirs")

    with pytest.raises(OutputExistsError, match="--overwrite"):
        write_both()
    assert (out / "zarr.json" if as_folder else out).read_text() == "theirs"
    assert names(tmp_path) == ["a.zarr"]


def test_a_replacement_killed_between_its_renames_is_undone(tmp_path: Path) -> None:
    write_store(tmp_path / ".a.zarr.tigon-old-elsewhere-1", "old")
    with pytest.raises(OutputExistsError), published(tmp_path / "a.zarr"):
        pytest.fail("the block must not run")
    assert (tmp_path / "a.zarr" / "zarr.json").read_text() == "old"


def test_a_folder_is_never_without_its_name_while_it_is_replaced(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    write_store(one, "one")
    write_store(other, "other")
    if not exchange(one, other):
        pytest.skip("this file system does not exchange names")
    assert [(name / "zarr.json").read_text() for name in (one, other)] == ["other", "one"]
    with pytest.raises(FileNotFoundError):
        exchange(one, tmp_path / "none")


def test_a_kill_after_the_exchange_leaves_the_new_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "a.zarr"
    write_store(out, "old")

    def killed(folder: Path, **options: bool) -> None:
        assert [(out / "zarr.json").read_text()] == ["new"]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt), published(out, overwrite=True) as aside:
            write_store(aside, "new")
    assert (out / "zarr.json").read_text() == "new"


@pytest.mark.usefixtures("replacing")
@pytest.mark.parametrize("when", ["at the end", "by the next call"])
def test_an_old_output_that_is_half_removed_is_never_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    out = tmp_path / "a.zarr"
    write_store(out, "old")
    if when == "by the next call":
        write_store(tmp_path / ".a.zarr.tigon-old-host-1", "older")

    def killed(folder: Path, **options: bool) -> None:
        (folder / "zarr.json").unlink(missing_ok=True)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt), published(out, overwrite=True) as aside:
            write_store(aside, "new")
    shutil.rmtree(out)
    with published(tmp_path / "b.zarr") as aside:
        write_store(aside, "b")
    with published(out) as aside:
        assert not out.exists()
        write_store(aside, "newer")
    assert names(tmp_path) == ["a.zarr", "b.zarr"]


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
