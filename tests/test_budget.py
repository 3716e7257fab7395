"""Sizes are read, costs projected, and what cannot fit is refused with what would."""

from __future__ import annotations

import re

import numpy as np
import pytest
from atlases import planted

import tigon
from tigon.scaling.budget import format_bytes, parse_bytes, plan_run
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.memory import MemoryWatch, tree_bytes
from tigon.storage.errors import InputError, MemoryLimitError


@pytest.mark.parametrize(
    ("text", "n_bytes"),
    [("2GiB", 2**31), ("512MiB", 2**29), ("1.5g", 3 * 2**29), ("1GB", 10**9), (4096, 4096)],
)
def test_sizes_are_read(text: str | int, n_bytes: int) -> None:
    assert parse_bytes(text) == n_bytes


@pytest.mark.parametrize("text", ["", "GiB", "2 potatoes", "1.2.3G", "-1G", ".", "1e9"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a size"):
        parse_bytes(text)


def test_sizes_are_written() -> None:
    assert format_bytes(2**31) == "2.0 GiB"
    assert format_bytes(1536) == "1.5 KiB"
    assert format_bytes(12) == "12 bytes"


def test_the_window_shrinks_to_the_limit_and_then_the_run_is_refused() -> None:
    atlas = tigon.open(planted(n=4000, m=100).adata)
    config = INMFConfig(n_components=5)

    def plan(limit: int | None) -> tigon.scaling.budget.Plan:  # type: ignore[name-defined]
        return plan_run(atlas, 2, 100, config, 8, 6, limit)

    free = plan(None)
    assert free.window == 16
    assert plan(free.peak_bytes).window == 16
    with pytest.raises(MemoryLimitError) as refused:
        plan(2**20)
    named = re.search(r"--memory-limit (\d+MiB)", str(refused.value))
    assert named is not None
    smallest = parse_bytes(named[1])
    assert plan(smallest).window >= 1
    with pytest.raises(MemoryLimitError):
        plan(smallest - 2**20)


def test_memory_is_watched() -> None:
    before = tree_bytes()
    with MemoryWatch() as watch:
        held = np.ones(80 * 2**20 // 8)
    assert watch.peak_bytes >= before + 0.9 * held.nbytes
