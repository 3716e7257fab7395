"""Interrupted jobs go on to the bytes of an undisturbed one, or are named, or refused."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from atlases import planted
from builders import write_h5ad
from command_line import refused, tigon

from tigon import integrate
from tigon.scaling import job as jobs
from tigon.scaling.job import Job, job_place
from tigon.storage.errors import InputError, NoSpaceError, OutputExistsError
from tigon.storage.lock import FileLock
from tigon.storage.runs.run import Run

OPTIONS: dict[str, Any] = dict(
    batch_key="batch", n_components=3, n_epochs=3, n_genes=50, umap=False, report=False, n_threads=1
)
STAGES = ("reading cells", "packing cells", "epoch 2", "solving loadings")


class Stopped(Exception):
    """What ends a job before its time."""


@pytest.fixture(scope="module")
def counts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_h5ad(planted(n=600, m=60, k=3).adata, tmp_path_factory.mktemp("a") / "a.h5ad")


@pytest.fixture(scope="module")
def whole(counts: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run that nothing disturbed."""
    return integrate(counts, out=tmp_path_factory.mktemp("whole") / "run.zarr", **OPTIONS)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "run.zarr"


def stop_in(stage: str, error: type[BaseException] = Stopped) -> Callable[..., None]:
    """Interrupt a job when it tells of a stage."""

    def progress(told: str, done: int, total: int, **figures: float) -> None:
        if told.startswith(stage):
            raise error

    return progress


def assert_same(one: Run, other: Run) -> None:
    assert one.W.tobytes() == other.W.tobytes()
    assert one.A.tobytes() == other.A.tobytes()
    assert one.B.tobytes() == other.B.tobytes()
    for name in one.datasets:
        assert one.V[name].tobytes() == other.V[name].tobytes()
    a, b = one.to_anndata(), other.to_anndata()
    for name in ("X_inmf", "X_inmf_aligned"):
        assert a.obsm[name].tobytes() == b.obsm[name].tobytes()
    assert a.obs.equals(b.obs)


def begun(counts: Path, out: Path, stage: str, **changed: Any) -> Path:
    """A job that was interrupted in a stage, kept; its folder."""
    with pytest.raises(Stopped):
        integrate(counts, out=out, resume=True, progress=stop_in(stage), **OPTIONS | changed)
    return job_place(out, out.parent)


def make_old(place: Path) -> None:
    """As if the job had been at work for an hour."""
    before = (place / "job.json").stat().st_mtime - 3600
    os.utime(place / "job.json", (before, before))


@pytest.mark.parametrize(
    ("stage", "kept", "not_again"),
    [
        ("packing cells", "the first pass", 1),
        ("epoch 1", "packing", 2),
        ("epoch 3", "some training", 3),
        ("solving loadings", "some training", 3),
        ("aligning", "all loadings", 4),
    ],
)
def test_nothing_kept_is_done_again(
    counts: Path, whole: Run, out: Path, stage: str, kept: str, not_again: int
) -> None:
    place = begun(counts, out, stage)
    assert jobs._kept(next(place.glob("work-*"))) == kept
    told: list[str] = []

    def note(stage: str, done: int, total: int, **figures: float) -> None:
        told.append(stage)

    run = integrate(counts, out=out, resume=True, progress=note, **OPTIONS)
    assert_same(run, whole)
    assert not set(STAGES[:not_again]) & set(told)
    assert set(STAGES[not_again:]) <= set(told)
    assert [path.name for path in out.parent.iterdir()] == ["run.zarr"]


def test_interrupted_again_and_again(counts: Path, whole: Run, out: Path) -> None:
    for stage in ("reading", "packing", "ordering", "epoch 1", "epoch 2", "epoch 3", "solving"):
        begun(counts, out, stage)
    assert_same(integrate(counts, out=out, resume=True, **OPTIONS | {"n_threads": 2}), whole)


KILLED = """
import os, signal, sys
import tigon
def progress(stage, done, total, **figures):
    if stage.startswith({stage!r}):
        os.kill(os.getpid(), signal.SIGKILL)
tigon.integrate({counts!r}, out={out!r}, progress=progress, **{options!r})
"""


@pytest.mark.parametrize("stage", ["ordering", "epoch 3", "clusters"])
def test_a_killed_job_goes_on(counts: Path, whole: Run, out: Path, stage: str) -> None:
    code = KILLED.format(stage=stage, counts=str(counts), out=str(out), options=OPTIONS)
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True)
    assert killed.returncode == -9
    assert job_place(out, out.parent).is_dir()
    assert_same(integrate(counts, out=out, resume=True, **OPTIONS), whole)
    assert [path.name for path in out.parent.iterdir()] == ["run.zarr"]


def test_what_took_less_than_a_minute_is_not_kept(counts: Path, whole: Run, out: Path) -> None:
    with pytest.raises(Stopped):
        integrate(counts, out=out, progress=stop_in("epoch 3"), **OPTIONS)
    assert list(out.parent.iterdir()) == []
    # One that was killed so soon had no time to remove what it did.
    (begun(counts, out, "epoch 3") / "keep-always").unlink()
    assert_same(integrate(counts, out=out, **OPTIONS), whole)


def test_what_was_promised_to_be_kept_is_not_discarded_in_silence(
    counts: Path, whole: Run, out: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = begun(counts, out, "epoch 3")
    assert "its work (some training) is kept: --resume goes on from there" in caplog.text
    for _ in range(2):
        with pytest.raises(InputError, match=r"interrupted, .* --resume goes on .* --restart disc"):
            integrate(counts, out=out, **OPTIONS)
    assert place.is_dir()
    integrate(counts, out=out, restart=True, **OPTIONS | {"n_epochs": 1})
    assert not place.exists()


def test_longer_work_is_kept_and_named(
    counts: Path, whole: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "WORTH_S", 0.0)
    with pytest.raises(KeyboardInterrupt, match=r"the work so far \(some training\) is kept: "):
        integrate(counts, out=out, progress=stop_in("epoch 3", KeyboardInterrupt), **OPTIONS)
    with pytest.raises(InputError, match=r"was interrupted, its work \(some training\) is in"):
        integrate(counts, out=out, **OPTIONS)
    assert_same(integrate(counts, out=out, resume=True, **OPTIONS), whole)


def test_the_command_line_names_an_interrupted_job(counts: Path, whole: Run, out: Path) -> None:
    options = ["--batch-key", "batch", "-k", "3", "--n-epochs", "3", "--n-genes", "50"]
    command = ["integrate", counts, *options, "--no-umap", "--no-report", "--out", out]
    make_old(begun(counts, out, "epoch 3"))
    line = refused(out.parent, *command)
    assert "interrupted, its work (some training) is in" in line
    assert "--resume goes on from there, --restart discards it" in line
    assert "choose one" in refused(out.parent, *command, "--resume", "--restart")
    line = refused(out.parent, *command, "--resume", "-k", "4")
    assert "is another one: inmf.n_components was 3 and is 4; give what it was begun with" in line
    result = tigon(*command, "--resume")
    assert result.exit_code == 0, result.stderr
    assert_same(Run.open(out), whole)


def test_restart_discards(counts: Path, out: Path) -> None:
    place = begun(counts, out, "epoch 3")
    make_old(place)
    files = {path.name for path in place.glob("work-*")}
    begun_anew: set[str] = set()

    def look(*told: Any, **figures: float) -> None:
        begun_anew.update(path.name for path in place.glob("work-*"))

    run = integrate(counts, out=out, restart=True, progress=look, **OPTIONS | {"n_components": 4})
    assert run.W.shape[0] == 4
    # Workers that still have tasks of the job before cannot write into this one's files.
    assert len(begun_anew) == 1
    assert not begun_anew & files


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"lam": 4.0}, r"inmf.lam was 5.0 and is 4.0; "),
        ({"n_genes": 40}, r"prepare.n_genes was 50 and is 40; "),
        ({"min_genes": 1, "tol": 1e-2}, r"inmf.tol was 0.001 and is 0.01; prepare.cell_filter.min"),
        (
            {"staleness": 2, "minibatches_per_task": 2},
            r"inmf.minibatches_per_task was \"auto\" and is 2",
        ),
    ],
)
def test_other_options_are_refused(
    counts: Path, out: Path, changed: dict[str, Any], named: str
) -> None:
    begun(counts, out, "packing")
    with pytest.raises(InputError, match=named):
        integrate(counts, out=out, resume=True, **OPTIONS | changed)


def test_other_counts_are_refused(tmp_path: Path, out: Path) -> None:
    adata = planted(n=600, m=60, k=3).adata
    source = write_h5ad(adata, tmp_path / "a.h5ad")
    begun(source, out, "packing")
    adata.X[0, 0] += 1
    write_h5ad(adata, source)
    with pytest.raises(InputError, match=r"the counts changed \(digest \w+, now \w+\)"):
        integrate(source, out=out, resume=True, **OPTIONS)


def test_another_version_is_refused(
    counts: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tigon.scaling import identity

    place = begun(counts, out, "packing")
    found = identity.versions()
    monkeypatch.setattr(identity, "versions", lambda: found | {"numpy": "1.0"})
    with pytest.raises(InputError, match=rf'numpy was "{np.__version__}" and is "1.0"'):
        integrate(counts, out=out, resume=True, **OPTIONS)
    monkeypatch.undo()
    told = (place / "job.json").read_text()
    older = re.sub(r'"format": \d+', '"format": 1', told)
    assert older != told
    (place / "job.json").write_text(older)
    with pytest.raises(InputError, match="is of another version of Tigon: --restart discards it"):
        integrate(counts, out=out, resume=True, **OPTIONS)


def test_another_processor_goes_on(
    counts: Path, whole: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tigon.scaling import identity

    begun(counts, out, "packing")
    found = identity.versions()
    monkeypatch.setattr(identity, "versions", lambda: found | {"processor": "another"})
    assert_same(integrate(counts, out=out, resume=True, **OPTIONS), whole)


def test_what_cannot_be_recognised_is_not_kept(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adata = planted(n=600, m=60, k=3).adata
    monkeypatch.setattr(jobs, "WORTH_S", 0.0)
    with pytest.raises(Stopped):
        integrate(adata, out=out, progress=stop_in("epoch 3"), **OPTIONS)
    assert list(out.parent.iterdir()) == []
    with pytest.raises(InputError, match=r"--resume needs counts .* `tigon ingest`"):
        integrate(adata, out=out, resume=True, **OPTIONS)
    assert list(out.parent.iterdir()) == []


@pytest.mark.parametrize("name", ["prepared.npz", "solution.npz", "pack/counts.bin", "loadings"])
def test_what_is_damaged_is_made_again(counts: Path, whole: Run, out: Path, name: str) -> None:
    path = next(begun(counts, out, "aligning").glob("work-*")) / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert_same(integrate(counts, out=out, resume=True, **OPTIONS), whole)


def test_one_process_at_a_time(counts: Path, out: Path) -> None:
    place = begun(counts, out, "packing")
    lock = FileLock.take(place / "tigon-lock")
    assert lock is not None
    for wish in ({}, {"resume": True}, {"restart": True}):
        with pytest.raises(OutputExistsError, match="is being made by another process"):
            integrate(counts, out=out, **OPTIONS, **wish)
    lock.release()
    integrate(counts, out=out, resume=True, **OPTIONS)


def test_a_folder_elsewhere_knows_its_output(tmp_path: Path) -> None:
    one, other = tmp_path / "a" / "run.zarr", tmp_path / "b" / "run.zarr"
    assert job_place(one, tmp_path / "a") == tmp_path / "a" / ".run.zarr.tigon-job"
    places = {job_place(path, tmp_path) for path in (one, other)}
    assert len(places) == 2
    assert all(place.parent == tmp_path for place in places)


def test_a_full_disk_is_told_and_the_job_goes_on(
    counts: Path, whole: Run, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import errno

    def full(self: Job, name: str, **arrays: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Job, "save", full)
    with pytest.raises(NoSpaceError, match=r"no space left in .* for the pack and the loadings"):
        integrate(counts, out=out, **OPTIONS)
    monkeypatch.undo()
    assert_same(integrate(counts, out=out, resume=True, **OPTIONS), whole)
