"""Locks, and the scratch folders they guard: the living keep theirs, the dead do not."""

from __future__ import annotations

import errno
import fcntl
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from builders import make_adata

from tigon.scaling.inmf.estimator import OnlineINMF
from tigon.storage.lock import FileLock
from tigon.storage.scratch import Scratch

OWNER = """
import sys
import tempfile
from pathlib import Path
from tigon.storage.scratch import Scratch
scratch = Scratch(Path(sys.argv[1]))
(scratch.folder / "work").write_text("hours of it")
print(scratch.folder, flush=True)
sys.stdin.read()
"""


@contextmanager
def scratch_elsewhere(parent: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process at work in a scratch folder of its own."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(parent)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())


@pytest.fixture(params=["locks", "no locks"])
def file_system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system with locks, and one without."""

    def unsupported(number: int, operation: int) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    if request.param == "no locks":
        monkeypatch.setattr(fcntl, "flock", unsupported)


def test_the_scratch_of_a_process_with_any_number_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_process(pid: int, signal: int) -> None:
        raise ProcessLookupError  # as seen from another machine or container

    with scratch_elsewhere(tmp_path) as (_, folder):
        monkeypatch.setattr(os, "kill", no_such_process)
        with closing(Scratch(tmp_path)) as mine:
            assert set(tmp_path.iterdir()) == {folder, mine.folder}
        assert (folder / "work").read_text() == "hours of it"
    assert list(tmp_path.iterdir()) == []


def test_the_scratch_of_the_dead_is_removed(tmp_path: Path) -> None:
    with scratch_elsewhere(tmp_path) as (process, folder):
        process.kill()
    # As from a process that had the number of this one, in a container.
    again = tmp_path / f"tigon-scratch-{os.getpid()}-x"
    again.mkdir()
    (again / "work").touch()
    assert (folder / "work").exists()
    with closing(Scratch(tmp_path)) as mine:
        assert list(tmp_path.iterdir()) == [mine.folder]
    assert list(tmp_path.iterdir()) == []


def test_two_in_one_process_keep_theirs(tmp_path: Path, file_system: None) -> None:
    with closing(Scratch(tmp_path)) as one, closing(Scratch(tmp_path)) as other:
        assert set(tmp_path.iterdir()) == {one.folder, other.folder}
    assert list(tmp_path.iterdir()) == []


def test_a_lock_has_one_owner(tmp_path: Path, file_system: None) -> None:
    path = tmp_path / "lock"
    lock = FileLock.take(path)
    assert lock is not None
    assert FileLock.take(path) is None
    lock.release()
    assert list(tmp_path.iterdir()) == []
    again = FileLock.take(path)
    assert again is not None
    again.release()


def test_many_threads_take_turns(tmp_path: Path) -> None:
    owners: list[int] = []

    def take(number: int) -> int:
        most = 0
        for _ in range(200):
            lock = FileLock.take(tmp_path / "lock")
            if lock is not None:
                owners.append(number)
                most = max(most, len(owners))
                owners.remove(number)
                lock.release()
        return most

    with ThreadPoolExecutor(4) as pool:
        assert max(pool.map(take, range(4))) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("owner", "is_free"),
    [("elsewhere {dead}", False), ("{here} {dead}", True), ("{here} {alive}", False), ("", False)],
)
def test_without_locks_only_the_dead_of_this_host_lose_theirs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: str, is_free: bool
) -> None:
    def unsupported(number: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks available")

    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    monkeypatch.setattr(fcntl, "flock", unsupported)
    path = tmp_path / "lock"
    path.write_text(owner.format(here=os.uname().nodename, dead=process.pid, alive=os.getppid()))
    assert (FileLock.take(path) is not None) == is_free


def test_fitting_removes_what_a_killed_fit_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with scratch_elsewhere(tmp_path) as (process, _):
        process.kill()
    seen: set[str] = set()

    def look(*args: object, **figures: object) -> None:
        seen.update(path.name for path in tmp_path.glob("*/pack"))

    model = OnlineINMF(n_components=2, n_genes="all", n_epochs=1, n_threads=1, progress=look)
    model.fit(make_adata())
    assert seen == {"pack"}
    assert list(tmp_path.iterdir()) == []
