"""Showing progress: bars on a terminal, a line per finished stage elsewhere."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as Bars
from rich.text import Text

_TURN = re.compile(r"(epoch|iteration|finding offsets, round|sums over cells, pass) \d+")
"""Stages that come again and again, by a number."""

_TURNS_S = 1.0
"""Those that follow each other more quickly share a line."""

_UNIT = re.compile(r"(.*) \((\w+)\)")
OPENING = "opening"
WORKING = "working"
COMPILING = "compiling kernels (first run only)"


class Display(Protocol):
    """A ``tigon.storage.progress.Progress`` that can be closed."""

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None: ...

    def compiling_began(self) -> None:
        """A kernel is being compiled."""

    def compiling_ended(self) -> None:
        """It is compiled."""

    def close(self) -> None:
        """Show nothing any more."""


def make_display(console: Console, *, quiet: bool) -> Display:
    """The display that suits ``console``."""
    if quiet:
        return Hidden()
    return Bar(console) if console.is_terminal else Lines(console)


@contextmanager
def bars() -> Iterator[Display]:
    """What the command line shows, for callers in Python: on stderr, compiling told too."""
    from tigon.kernels.compiling import compilations

    display = make_display(Console(stderr=True), quiet=False)
    try:
        with compilations(display.compiling_began, display.compiling_ended):
            yield display
    finally:
        display.close()


def split_unit(stage: str) -> tuple[str, str]:
    """A stage's name and what it counts: cells, unless it ends in "(...)"."""
    match = _UNIT.fullmatch(stage)
    return (match[1], match[2]) if match else (stage, "cells")


class Hidden:
    """Shows nothing."""

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None:
        """Show nothing."""

    def compiling_began(self) -> None:
        """Show nothing."""

    def compiling_ended(self) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing is open."""


class _Finished(NamedTuple):
    """A stage that came to its end, and when."""

    name: str
    parts: list[str]
    at: float


def _follows(turn: str, before: str) -> bool:
    """Whether a turn is a later one of the same kind, "epoch 3" of "epoch 2"."""
    (kind, number), (other, earlier) = (name.rsplit(" ", 1) for name in (turn, before))
    return kind == other and int(number) > int(earlier)


class Lines:
    """A line for each finished stage, with the seconds since the one before.

    A stage that tells of its beginning, because it then is silent for long, has
    a line for that too. Of epochs, iterations and the like that follow each other
    within a second, the last has a line.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._since = time.monotonic()
        self._told_of_compiling = False
        self._waiting: _Finished | None = None

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None:
        name, unit = split_unit(stage)
        turn = _TURN.fullmatch(name)
        if self._waiting and not (turn and _follows(name, self._waiting.name)):
            self._tell_waiting()
        if done == 0 < total:
            self._print(f"{name} ...")
        if done < total:
            return
        counted = f"{total:,} {unit.removesuffix('s') if total == 1 else unit}"
        told = _Finished(name, [counted, *_figures(figures)], time.monotonic())
        if self._waiting and told.at - self._waiting.at >= _TURNS_S:
            self._tell_waiting()
        if turn and told.at - self._since < _TURNS_S:
            self._waiting = told
        else:
            self._tell(told)

    def _tell(self, finished: _Finished) -> None:
        parts = [*finished.parts, f"{finished.at - self._since:.1f} s"]
        self._since, self._waiting = finished.at, None
        self._print(f"{finished.name}: {', '.join(parts)}")

    def compiling_began(self) -> None:
        if not self._told_of_compiling:
            self._told_of_compiling = True
            self._tell_waiting()
            self._print(COMPILING)

    def compiling_ended(self) -> None:
        """The next line tells."""

    def close(self) -> None:
        self._tell_waiting()

    def _tell_waiting(self) -> None:
        if self._waiting:
            self._tell(self._waiting)

    def _print(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)


class Bar:
    """A bar for each stage; epochs share one, and so do iterations, rounds and passes."""

    def __init__(self, console: Console) -> None:
        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            _Speed(),
            TextColumn("{task.fields[figures]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            expand=True,
        )
        self._since = self._bars.get_time()
        self._running: tuple[str, TaskID] | None = None
        self._spinners: dict[str, TaskID] = {}
        self._spin(OPENING)
        self._bars.start()

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None:
        name, unit = split_unit(stage)
        task = self._task(name, unit)
        shown = ", ".join(_figures(figures))
        self._bars.update(task, completed=done, total=total, figures=shown)
        if done >= total:
            self._since = self._bars.get_time()
            if not _TURN.fullmatch(name):
                # What comes next is not heard of before its first part is done.
                self._spin(WORKING)

    def compiling_began(self) -> None:
        self._spin(COMPILING)

    def compiling_ended(self) -> None:
        self._cease(COMPILING)

    def close(self) -> None:
        for name in list(self._spinners):
            self._cease(name)
        self._bars.stop()

    def _task(self, name: str, unit: str) -> TaskID:
        """The bar of a stage; that of another epoch or round starts anew."""
        turn = _TURN.fullmatch(name)
        key = turn[1] if turn else name
        self._cease(OPENING)
        self._cease(WORKING)
        if self._running is None or self._running[0] != key:
            self._stop_clock()
            self._running = key, self._add(name, unit)
        task = self._running[1]
        if self._known(task).description != name:
            self._bars.reset(task, description=name)
            self._known(task).start_time = self._since
        return task

    def _add(self, name: str, unit: str = "") -> TaskID:
        # A stage is first heard of when its first part is done: it began before.
        task = self._bars.add_task(name, total=None, unit=unit, figures="")
        self._known(task).start_time = self._since
        return task

    def _spin(self, name: str) -> None:
        if name not in self._spinners:
            self._spinners[name] = self._add(name)

    def _cease(self, name: str) -> None:
        if name in self._spinners:
            self._bars.remove_task(self._spinners.pop(name))

    def _stop_clock(self) -> None:
        """Another stage began: the one before is over, even where it stopped short."""
        if self._running is not None:
            self._bars.stop_task(self._running[1])

    def _known(self, task: TaskID) -> Task:
        return next(known for known in self._bars.tasks if known.id == task)


class _Speed(ProgressColumn):
    """Cells per second since the stage began; nothing of a stage that is one thing."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished else task.elapsed
        if not seconds or not task.completed or not task.fields["unit"] or task.total == 1:
            return Text()
        return Text(f"{task.completed / seconds:,.0f} {task.fields['unit']}/s")


def _figures(figures: dict[str, float]) -> list[str]:
    return [f"{name} {value:.4g}" for name, value in figures.items()]
