"""What the demo concludes from clusters whose quality is known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"
SCRIPTS = ("baseline", "demo", "simulate")


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(BENCHMARKS)
    import demo

    yield demo
    for name in SCRIPTS:
        sys.modules.pop(name)


def test_private_type_in_a_cluster_of_its_own(demo: ModuleType) -> None:
    labels = pd.Series(["x"] * 20 + ["y"] * 80)
    clusters = pd.Series(["1"] * 19 + ["2"] * 81)
    where = demo.home(labels, clusters, "x")
    assert where == demo.Home("1", of_type=0.95, of_cluster=1.0)
    assert where.is_own


@pytest.mark.parametrize(
    "clusters",
    [["1"] * 40 + ["2"] * 60, ["1"] * 12 + ["3"] * 8 + ["2"] * 80],
    ids=["merged with another", "split in two"],
)
def test_private_type_without_a_cluster_of_its_own(demo: ModuleType, clusters: list[str]) -> None:
    labels = pd.Series(["x"] * 20 + ["y"] * 80)
    assert not demo.home(labels, pd.Series(clusters), "x").is_own


def test_separate_types_score_one_and_mixed_ones_do_not(demo: ModuleType) -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat(["x", "y", "z"], 100)
    centres = 10.0 * np.repeat(np.eye(3), 100, axis=0)
    apart, _ = demo.best(centres + rng.normal(size=(300, 3)), labels)
    mixed, _ = demo.best(rng.normal(size=(300, 3)), labels)
    assert apart == 1.0
    assert mixed < 0.1


def test_users_file_goes_through_the_command(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    sent = []
    monkeypatch.setattr(demo, "integrate", lambda *given: sent.append(given))
    options = ["--data", "mine.h5ad", "--batch-key", "donor", "--folder", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["demo.py", *options])
    assert demo.main() == 0
    assert sent == [([Path("mine.h5ad")], tmp_path / "mine.zarr", "donor", None)]
