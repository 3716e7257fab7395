"""Runs that get more in them: the old one or the new one, whole, whatever happens."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest
from run_builder import build_contents

from tigon.storage.errors import InputError, OutputExistsError
from tigon.storage.runs.extending import Addition, extending
from tigon.storage.runs.run import Run
from tigon.storage.runs.write import write_run

N_KILLS = 6

LAYOUT = np.arange(400, dtype=np.float32).reshape(200, 2)
ADDITION = Addition(
    obsm={"X_umap": LAYOUT, "X_tsne": -LAYOUT},
    obs={"found/2": pd.Categorical(["a", "b"] * 100), "tigon_cluster": np.arange(200)},
    dropped=["total_counts"],
    settings={"layouts": {"X_tsne": {"use": "X_pca", "perplexity": 30.0}}},
    scores={"ari": 0.5},
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("written") / "run.zarr"
    return write_run(out, build_contents(200, 1, n_genes=12))


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Run:
    """A run of its own for each test."""
    return Run.open(shutil.copytree(written, tmp_path / "runs" / "run.zarr"))


def extend(path: Path, out: Path | None = None, **options: bool) -> None:
    with extending(path, out, **options) as extension:
        extension.write(ADDITION)


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def inodes_of(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_ino for path in folder.rglob("*")}


def check_extended(run: Run) -> None:
    """All that was added is there, and all else is as it was written."""
    was = build_contents(200, 1, n_genes=12)
    assert run.obsm_names == ("X_inmf", "X_inmf_aligned", "X_tsne", "X_umap")
    np.testing.assert_array_equal(np.asarray(run.obsm("X_tsne")), -LAYOUT)
    np.testing.assert_array_equal(np.asarray(run.obsm("X_umap")), LAYOUT)
    np.testing.assert_array_equal(np.asarray(run.loadings), was.obsm["X_inmf"])
    np.testing.assert_array_equal(run.W, was.model.W)
    kept = ["n_genes_by_counts", "tigon_dataset", "tigon_cluster", "label", "found%2F2"]
    assert list(run.obs) == kept
    assert run.obs["tigon_cluster"].tolist() == list(range(200))
    assert run.obs["found%2F2"].tolist() == ["a", "b"] * 100
    assert run.obs["label"].tolist() == was.obs["label"].tolist()
    assert run.config["layouts"] == {"X_tsne": {"use": "X_pca", "perplexity": 30.0}}
    assert {name: value for name, value in run.config.items() if name != "layouts"} == was.config
    assert run.scores == {**was.scores, "ari": 0.5}
    assert run.notices == was.notices
    np.testing.assert_array_equal(run.history["loss"], was.history["loss"])


def test_what_is_added_is_there_and_nothing_else_has_changed(run: Run) -> None:
    before = inodes_of(run.path)
    extend(run.path)
    check_extended(Run.open(run.path))
    assert [path.name for path in run.path.parent.iterdir()] == ["run.zarr"]
    after = inodes_of(run.path)
    assert after["obsm/X_inmf/c/0/0"] == before["obsm/X_inmf/c/0/0"], "it was copied"
    adata = anndata.read_zarr(run.path)
    assert adata.obsm["X_tsne"].dtype == np.float32
    extend(run.path)
    check_extended(Run.open(run.path))


def test_who_has_the_old_one_open_goes_on_reading(run: Run) -> None:
    """Of what was not replaced; of the rest there is the new."""
    was = build_contents(200, 1, n_genes=12)
    with extending(run.path) as extension:
        extension.write(replace(ADDITION, obs={}, dropped=[]))
    np.testing.assert_array_equal(np.asarray(run.loadings), was.obsm["X_inmf"])
    np.testing.assert_array_equal(np.asarray(run.obsm("X_umap")), LAYOUT)
    assert "X_tsne" not in run.obsm_names
    assert run.obs.equals(Run.open(run.path).obs)
    assert run.obs["label"].tolist() == was.obs["label"].tolist()


def test_not_a_byte_of_the_old_one_is_written_to(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = files_of(run.path)
    kept = tmp_path / "kept"
    with extending(run.path) as extension:
        extension.write(ADDITION)
        assert files_of(run.path) == before
        # Should the folder that is replaced live on under another name, it is what it was.
        monkeypatch.setattr("tigon.storage.publish.remove", lambda path: path.rename(kept))
    assert files_of(kept) == before
    check_extended(Run.open(run.path))


def test_another_run_shares_nothing_with_the_first(run: Run, tmp_path: Path) -> None:
    before = files_of(run.path)
    out = tmp_path / "out.zarr"
    extend(run.path, out)
    check_extended(Run.open(out))
    assert files_of(run.path) == before
    assert not set(inodes_of(out).values()) & set(inodes_of(run.path).values())
    with pytest.raises(OutputExistsError, match="--overwrite"):
        extend(run.path, out)
    extend(run.path, out, overwrite=True)
    check_extended(Run.open(out))


def test_where_files_cannot_be_linked_they_are_copied(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "links are not allowed here")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    before = inodes_of(run.path)
    extend(run.path)
    check_extended(Run.open(run.path))
    assert inodes_of(run.path)["obsm/X_inmf/c/0/0"] != before["obsm/X_inmf/c/0/0"]


def test_a_link_to_a_run_stays_one_and_what_is_private_stays_so(run: Run, tmp_path: Path) -> None:
    run.path.chmod(0o700)
    link = tmp_path / "link.zarr"
    link.symlink_to(run.path)
    extend(link)
    assert link.is_symlink()
    check_extended(Run.open(link))
    check_extended(Run.open(run.path))
    assert run.path.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failure_leaves_the_run_as_it_was(run: Run, error: type[BaseException]) -> None:
    before = files_of(run.path.parent)

    def fail() -> None:
        with extending(run.path) as extension:
            extension.write(ADDITION)
            raise error

    with pytest.raises(error):
        fail()
    assert files_of(run.path.parent) == before


def test_what_cannot_be_extended(run: Run, tmp_path: Path) -> None:
    before = files_of(run.path)
    for out in (run.path, run.path / "obsm", run.path.parent / ".." / "runs" / "run.zarr"):
        with pytest.raises(InputError, match="is the run itself or lies in it"):
            extend(run.path, out, overwrite=True)
    with pytest.raises(InputError, match="there is no run"):
        extend(tmp_path / "none.zarr")
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="not a finished run"):
        extend(tmp_path / "folder")
    assert files_of(run.path) == before
    with extending(run.path) as extension:
        with pytest.raises(OutputExistsError, match="being written by another"):
            extend(run.path)
        extension.write(ADDITION)
    check_extended(Run.open(run.path))


# Imports once, then forks a writer for every line, which kills itself before the step of that
# number: a file that is opened, a folder made, a name given or taken away.
WRITER = """
import os, signal, sys
sys.path.insert(0, sys.argv[1])
import anndata.io, zarr, zarr.codecs, numcodecs, pandas
from pathlib import Path
from test_extending_runs import ADDITION, extending

STEPS = {"open", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.chmod"}

def write(last):
    n = 0
    def count(event, arguments):
        nonlocal n
        if event in STEPS and (event != "open" or arguments[1] not in ("r", "rb", None)):
            n += 1
            if n == last:
                os.kill(os.getpid(), signal.SIGKILL)
    sys.addaudithook(count)
    with extending(Path(sys.argv[2])) as extension:
        extension.write(ADDITION)
    return n

print("ready", flush=True)
for line in sys.stdin:
    reading, writing = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writing, str(write(int(line))).encode())
        os._exit(0)
    os.close(writing)
    _, status = os.waitpid(pid, 0)
    told = os.read(reading, 20).decode() or 0
    os.close(reading)
    print(os.waitstatus_to_exitcode(status), told, flush=True)
"""


@contextmanager
def writer(path: Path) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-W", "ignore", "-c", WRITER, str(Path(__file__).parent), str(path)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        assert process.stdin is not None
        process.stdin.close()


def write_until(process: subprocess.Popen[str], step: int) -> tuple[int, int]:
    """Exit code of a writer that is killed before a step (0: never), and the steps it made."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{step}\n")
    process.stdin.flush()
    code, n_steps = process.stdout.readline().split()
    return int(code), int(n_steps)


def test_killed_at_any_moment_it_is_the_old_run_or_the_new_one(run: Run, written: Path) -> None:
    folder, before = run.path.parent, files_of(run.path)
    n_old = n_new = 0
    with writer(run.path) as process:
        code, n_steps = write_until(process, 0)
        assert code == 0
        check_extended(Run.open(run.path))
        after = files_of(run.path)
        last = range(n_steps - 2, n_steps + 1)
        for step in {*np.linspace(1, n_steps, N_KILLS, dtype=int).tolist(), *last}:
            shutil.rmtree(run.path)
            shutil.copytree(written, run.path)
            code, _ = write_until(process, step)
            assert code == -9
            found = files_of(run.path)
            assert found in (before, after), f"step {step} of {n_steps}"
            n_old += found == before
            n_new += found == after
    assert n_old >= N_KILLS // 2
    assert n_new >= 1, "no kill came after the run was replaced"
    extend(run.path)
    assert files_of(run.path) == after
    assert [path.name for path in folder.iterdir()] == ["run.zarr"]


def test_names_that_are_no_keys(run: Run) -> None:
    added = Addition(
        obsm={"X/odd": LAYOUT},
        obs={"a/b": np.arange(200)},
        settings={"clusterings": {"a/b": {"use": "X/odd"}}},
    )
    for _ in range(2):
        with extending(run.path) as extension:
            extension.write(added)
    made = Run.open(run.path)
    np.testing.assert_array_equal(np.asarray(made.obsm("X/odd")), LAYOUT)
    assert made.config["clusterings"] == {"a%2Fb": {"use": "X/odd"}}
    assert list(made.obs).count("a%2Fb") == 1
