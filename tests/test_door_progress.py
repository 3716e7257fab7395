"""Progress on a terminal and elsewhere, and when kernels are compiled."""

from __future__ import annotations

import inspect
import io
import re
from collections.abc import Callable
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numba
import pytest
from atlases import planted
from rich.console import Console

import tigon
from tigon.command.showing.progress import COMPILING, OPENING, Display, make_display
from tigon.kernels.compiling import compilations
from tigon.storage.progress import whole_stage

WIDTH = 120


def shown(tell: Callable[[Display], None], *, terminal: bool, quiet: bool = False) -> str:
    """What is on a screen, or in a file, after ``tell`` has reported its progress."""
    file = io.StringIO()
    console = Console(file=file, width=WIDTH, force_terminal=terminal, color_system=None)
    display = make_display(console, quiet=quiet)
    tell(display)
    display.close()
    return file.getvalue()


def screen(output: str) -> list[str]:
    """The lines on a terminal that was sent ``output``."""
    rows, row = [""], 0
    for part in re.split(r"(\x1b\[[0-9;?]*[A-Za-z]|\n|\r)", output):
        if part == "\n":
            row += 1
            rows.extend([""] * (row + 1 - len(rows)))
        elif up := re.fullmatch(r"\x1b\[(\d+)A", part):
            row -= int(up[1])
        elif part == "\x1b[2K":
            rows[row] = ""
        elif part != "\r" and not part.startswith("\x1b"):
            rows[row] += part
    return [text.strip() for text in rows if text.strip()]


def a_job(display: Display) -> None:
    for done in (50, 100):
        display("reading cells", done, 100)
    for epoch in (1, 2, 3):
        for done in (60, 100):
            display(f"epoch {epoch}", done, 100, loss=40.0 / epoch)
    display("solving loadings", 100, 100)
    for number in (1, 2):
        display(f"finding offsets, round {number}", 100, 100)
    display("layout (rounds)", 200, 200)


def test_no_epoch_is_lost_that_another_follows_late_or_of_another_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ticks = iter([0.0, 0.5, 3.0, 3.1, 3.2])
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("tigon.command.showing.progress.time", clock)

    def tell(display: Display) -> None:
        for epoch in (1, 2, 3, 1):
            display(f"epoch {epoch}", 10, 10)

    turns = [line.split(":")[0] for line in shown(tell, terminal=False).splitlines()]
    assert turns == ["epoch 1", "epoch 2", "epoch 3", "epoch 1"]


@pytest.mark.parametrize("quick", [True, False])
def test_a_file_gets_a_line_for_each_finished_stage(
    monkeypatch: pytest.MonkeyPatch, quick: bool
) -> None:
    # At each look at the clock a tenth of a second has gone by, or two seconds.
    ticks = count(0, 0.1 if quick else 2.0)
    clock = SimpleNamespace(monotonic=lambda: next(ticks))
    monkeypatch.setattr("tigon.command.showing.progress.time", clock)
    lines = shown(a_job, terminal=False).splitlines()
    seconds = r"\d+\.\d s"
    expected = [
        f"reading cells: 100 cells, {seconds}",
        f"epoch 1: 100 cells, loss 40, {seconds}",
        f"epoch 2: 100 cells, loss 20, {seconds}",
        f"epoch 3: 100 cells, loss 13.33, {seconds}",
        f"solving loadings: 100 cells, {seconds}",
        f"finding offsets, round 1: 100 cells, {seconds}",
        f"finding offsets, round 2: 100 cells, {seconds}",
        f"layout: 200 rounds, {seconds}",
    ]
    if quick:  # one line for turns that follow each other at once
        expected = [line for line in expected if not re.match(r"epoch [12]|.* round 1", line)]
    assert len(lines) == len(expected)
    for line, pattern in zip(lines, expected, strict=True):
        assert re.fullmatch(pattern, line), line


def test_a_terminal_gets_a_bar_for_each_stage_and_one_for_all_epochs() -> None:
    rows = screen(shown(a_job, terminal=True))
    patterns = [
        r"✓ reading cells +━+ +[\d,]+ cells/s +0:00:00",
        r"✓ epoch 3 +━+ +[\d,]+ cells/s +loss 13.33 +0:00:00",
        r"✓ solving loadings +━+ +[\d,]+ cells/s +0:00:00",
        r"✓ finding offsets, round 2 +━+ +[\d,]+ cells/s +0:00:00",
        r"✓ layout +━+ +[\d,]+ rounds/s +0:00:00",
    ]
    assert len(rows) == len(patterns)
    for row, pattern in zip(rows, patterns, strict=True):
        assert re.fullmatch(pattern, row), row


def test_passes_share_a_bar_and_one_step_has_no_speed() -> None:
    def tell(display: Display) -> None:
        for number in (2, 3, 4):
            display(f"sums over cells, pass {number}", 100, 100)
        with whole_stage(display, "report (page)", 1):
            pass

    passes, report = screen(shown(tell, terminal=True))
    assert re.fullmatch(r"✓ sums over cells, pass 4 +━+ +[\d,]+ cells/s +0:00:00", passes)
    assert re.fullmatch(r"✓ report +━+ +0:00:00", report)


def test_a_terminal_shows_at_once_that_something_happens() -> None:
    assert OPENING in shown(lambda _: None, terminal=True)


@pytest.mark.parametrize("terminal", [False, True])
def test_a_long_stage_is_named_while_it_runs(terminal: bool) -> None:
    meanwhile = shown(lambda display: display("layout", 0, 200), terminal=terminal)
    assert screen(meanwhile)[-1].endswith("layout" if terminal else "layout ...")

    def tell(display: Display) -> None:
        with whole_stage(display, "layout", 200):
            pass

    told = screen(shown(tell, terminal=terminal))
    assert re.match("✓ layout +━+ " if terminal else "layout: 200 cells, ", told[-1])


def test_a_stage_that_fails_does_not_end() -> None:
    told: list[tuple[int, int]] = []

    def fail() -> None:
        with whole_stage(lambda stage, done, total, **_: told.append((done, total)), "layout", 200):
            raise InterruptedError

    with pytest.raises(InterruptedError):
        fail()
    assert told == [(0, 200)]


def test_an_epoch_begins_at_nothing() -> None:
    def tell(display: Display) -> None:
        display("epoch 1", 100, 100)
        display("epoch 2", 20, 100)

    full, fifth = (
        screen(shown(job, terminal=True))[0].count("━")
        for job in (lambda display: display("epoch 2", 100, 100), tell)
    )
    assert 0.15 * full < fifth < 0.25 * full


def test_quiet_shows_nothing() -> None:
    for terminal in (False, True):
        assert shown(a_job, terminal=terminal, quiet=True) == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_compiling_is_shown(terminal: bool) -> None:
    def tell(display: Display) -> None:
        for _ in range(2):
            display.compiling_began()
            display("reading cells", 1, 2)
            display.compiling_ended()
        display("reading cells", 2, 2)

    output = shown(tell, terminal=terminal)
    assert COMPILING in output
    left = [line for line in screen(output) if COMPILING in line]
    assert left == ([] if terminal else [COMPILING])


def test_compilations_of_kernels_are_told_and_no_others() -> None:
    told: list[str] = []

    @numba.njit
    def inner(x: float) -> float:
        return x + 1

    @numba.njit
    def outer(x: float) -> float:
        return inner(x) * 2

    @numba.njit
    def of_another_library(x: float) -> float:
        return x

    for kernel in (inner, outer):
        kernel.py_func.__module__ = "tigon.kernels.made_up"
    with compilations(lambda: told.append("began"), lambda: told.append("ended")):
        of_another_library(1.0)
        assert told == []
        assert outer(1.0) == 4.0
        assert told == ["began", "ended"]
        outer(2.0)
    assert told == ["began", "ended"]
    inner(1)  # another type, outside the context
    assert told == ["began", "ended"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tigon.Run:
    out = tmp_path_factory.mktemp("made") / "run.zarr"
    options = dict(n_components=2, n_epochs=1, n_genes="all", n_threads=1)
    cells = planted(n=120, m=30, k=2).adata
    return tigon.integrate(cells, out=out, batch_key="batch", umap=False, report=False, **options)


CALLS: dict[str, tuple[str, Callable[..., Any]]] = {
    "cluster": ("tigon.layout_calls.cluster_run", lambda run, cells, out: [run]),
    "drop_factors": ("tigon.factor_calls.rearrange_run", lambda run, cells, out: [run, [0], out]),
    "embed": ("tigon.layout_calls.lay_out_run", lambda run, cells, out: [run]),
    "export_h5ad": (
        "tigon.storage.runs.export.export_h5ad",
        lambda run, cells, out: [run, out.with_suffix(".h5ad")],
    ),
    "factors": ("tigon.factor_calls.list_factors", lambda run, cells, out: [run]),
    "integrate": ("tigon.main_job.integrate_atlas", lambda run, cells, out: [cells]),
    "pca": ("tigon.pca_job.decompose_atlas", lambda run, cells, out: [cells]),
    "project": ("tigon.scenarios.project_on_run", lambda run, cells, out: [run, cells, out]),
    "select": ("tigon.choice.compare", lambda run, cells, out: [cells]),
    "update": ("tigon.scenarios.update_run", lambda run, cells, out: [run, cells, out]),
}
"""What does the work of each call, and what it is called with."""

NAMED = {"integrate": "out", "pca": "out"}


class Told(Exception):
    """Progress was told: what the call would do is not wanted."""


@pytest.mark.parametrize("name", CALLS)
def test_all_calls_are_told_alike_whom_to_show_progress(
    name: str,
    made: tigon.Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    worker, arguments = CALLS[name]
    call, heard = getattr(tigon, name), list[str]()

    def work(*given: Any, progress: Any = None, **options: Any) -> None:
        tell = progress or next(each for each in given if callable(each))
        tell("a stage", 7, 7)
        raise Told

    monkeypatch.setattr(worker, work)
    given = arguments(made, planted(n=120, m=30, k=2).adata, tmp_path / "out.zarr")
    options: dict[str, Any] = {"k": [2]} if name == "select" else {}
    if name in NAMED:
        options = {"out": tmp_path / "out.zarr", "n_components": 2}
    for progress in (True, False, None, lambda stage, done, total, **_: heard.append(stage)):
        with pytest.raises(Told):
            call(*given, progress=progress, **options)
        shown = capsys.readouterr().err
        assert ("a stage: 7 cells" in shown) == (progress is True)
    assert heard == ["a stage"]
    assert inspect.signature(call).parameters["progress"].default is None
