"""Stopping a command: nothing half-written is left, and the next one starts cleanly."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anndata
import pytest
from atlases import planted
from builders import make_adata, write_h5ad
from command_line import listing, start
from scipy import sparse

ENDLESS = ("--batch-key", "batch", "-k", "3", "--n-epochs", "1000000", "--no-umap")


@pytest.fixture
def counts(tmp_path: Path) -> Path:
    return write_h5ad(planted(n=600, m=60, k=3).adata, tmp_path / "a.h5ad")


@pytest.fixture
def many_counts(tmp_path: Path) -> Path:
    """Enough cells that writing them takes a while."""
    counts = sparse.random(60_000, 500, 0.2, "csr", rng=0)
    counts.data[:] = 1
    return write_h5ad(make_adata(counts), tmp_path / "a.h5ad")


@contextmanager
def running(*arguments: str | Path, folder: Path, until: str) -> Iterator[subprocess.Popen[str]]:
    """A process that is at work: something named ``until`` appeared, or was said."""
    process = start(*arguments, folder=folder)
    try:
        while process.poll() is None and not any(folder.glob(until)):
            time.sleep(0.01)
        assert process.returncode is None, process.stderr and process.stderr.read()
        yield process
    finally:
        process.kill()
        process.communicate()


def interrupt(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate()
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == "interrupted; nothing was written"
    assert "Traceback" not in stderr


def test_interrupting_ingest_leaves_nothing(many_counts: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    out = tmp_path / "out.zarr"
    with running("ingest", many_counts, "--out", out, folder=tmp_path, until=".out.zarr*") as one:
        interrupt(one)
    assert listing(tmp_path) == before


def test_interrupting_integrate_leaves_nothing(counts: Path, tmp_path: Path) -> None:
    before = listing(tmp_path)
    options = ("--out", tmp_path / "out.zarr", *ENDLESS)
    with running("integrate", counts, *options, folder=tmp_path, until="*/*/pack") as process:
        interrupt(process)
    assert listing(tmp_path) == before


def test_interrupting_leaves_what_was_to_be_replaced(counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    with start("ingest", counts, "--out", out, folder=tmp_path) as process:
        process.communicate()
    before = listing(tmp_path)
    options = ("--out", out, "--overwrite", *ENDLESS)
    with running("integrate", counts, *options, folder=tmp_path, until="*/*/pack") as process:
        interrupt(process)
    assert listing(tmp_path) == before


def test_after_a_kill_the_same_command_starts_cleanly(many_counts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.zarr"
    before = listing(tmp_path)
    with running("ingest", many_counts, "--out", out, folder=tmp_path, until=".out.zarr*") as one:
        one.kill()
        one.communicate()
    assert not out.exists()
    with start("ingest", many_counts, "--out", out, folder=tmp_path) as process:
        process.communicate()
    assert process.returncode == 0
    left = [entry for entry in listing(tmp_path) if not entry[0].startswith("out.zarr")]
    assert left == before
    assert anndata.read_zarr(out).n_obs == 60_000


def test_after_a_kill_integrate_gives_the_bytes_of_an_undisturbed_run(
    counts: Path, tmp_path: Path
) -> None:
    short = ("--batch-key", "batch", "-k", "3", "--n-epochs", "2", "--no-umap", "--no-report")
    before = listing(tmp_path)
    out = tmp_path / "out.zarr"
    for moment in ("*/*/pack", "*/*/pack/pack.json"):
        with running(
            "integrate", counts, "--out", out, *ENDLESS, folder=tmp_path, until=moment
        ) as one:
            one.kill()
            one.communicate()
        assert not out.exists()
    for name in ("out.zarr", "undisturbed.zarr"):
        with start(
            "integrate", counts, "--out", tmp_path / name, *short, folder=tmp_path
        ) as process:
            process.communicate()
        assert process.returncode == 0
    left = [entry for entry in listing(tmp_path) if ".zarr" not in entry[0]]
    assert left == before
    one, other = (anndata.read_zarr(tmp_path / n) for n in ("out.zarr", "undisturbed.zarr"))
    assert one.varm["W"].tobytes() == other.varm["W"].tobytes()
    for name in ("X_inmf", "X_inmf_aligned"):
        assert one.obsm[name].tobytes() == other.obsm[name].tobytes()
