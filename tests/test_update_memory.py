"""Updates and projections within a memory limit, or refused with one that is enough."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from atlases import planted
from builders import write_h5ad
from command_line import refused, start, works

import tigon
from tigon.storage.runs.run import Run


@pytest.mark.parametrize(("command", "limit"), [("update", "640MiB"), ("project", "512MiB")])
def test_memory_limits_are_kept_or_refused(tmp_path: Path, command: str, limit: str) -> None:
    """In a process of its own: the limit is of the whole process."""
    data = planted(n=1200, m=100, k=4, d=3).adata
    new = data.obs["batch"] == "b2"
    source = write_h5ad(data[new].copy(), tmp_path / "new.h5ad")
    run = tigon.integrate(
        data[~new].copy(),
        out=tmp_path / "run.zarr",
        batch_key="batch",
        n_components=4,
        n_epochs=2,
        umap=False,
        report=False,
        n_threads=2,
    )
    out = tmp_path / "out.zarr"
    arguments = [command, run.path, source, "--out", out, "--n-threads", 2]
    arguments += ["--no-report"] if command == "update" else []
    process = start(*arguments, "--memory-limit", limit, folder=tmp_path)
    _, told = process.communicate()
    assert process.returncode == 0, told
    made = Run.open(out)
    assert made.memory_limit_bytes is not None
    assert 2**27 < made.peak_memory_bytes <= made.memory_limit_bytes
    small = refused(tmp_path, *arguments, "--overwrite", "--memory-limit", "100MiB")
    enough = re.search(r"set --memory-limit (\d+MiB)", small)
    assert enough is not None
    works(*arguments, "--overwrite", "--memory-limit", enough[1])
