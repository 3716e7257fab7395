"""What all commands share: progress and notices on stderr, the result on stdout."""

from __future__ import annotations

import json
import logging
import math
import sys
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import typer
from rich.console import Console

from tigon.command.showing.failing import explained, say
from tigon.command.showing.progress import Display, make_display

if TYPE_CHECKING:
    from tigon.storage.runs.run import Run


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """How one command speaks to its user.

    Attributes
    ----------
    progress
        Shows progress; pass it to whatever takes a ``Progress``.
    quiet
        Show neither progress nor a summary.
    as_json
        The result is one JSON object on stdout.
    """

    progress: Display
    quiet: bool
    as_json: bool

    def compiling(self) -> AbstractContextManager[Any]:
        """While kernels may be compiled, which is then shown."""
        from tigon.kernels.compiling import compilations

        return compilations(self.progress.compiling_began, self.progress.compiling_ended)

    def answer_with_run(self, run: Run, out: str, *, report: bool) -> None:
        """Show a run that was written to ``out``, and where its report is."""
        from tigon.command.showing.describe import describe_run, tell_run
        from tigon.main_job import report_path

        facts = describe_run(run)
        # As a shell would tell: with the start of Python, and with the report.
        facts["elapsed_s"] = time.time() - psutil.Process().create_time()
        facts["report"] = str(report_path(Path(out))) if report else None
        self.answer(facts, tell_run(facts))

    def answer(self, facts: Mapping[str, Any], text: str) -> None:
        """Show the result: ``facts`` as JSON, or ``text`` for people."""
        self.progress.close()
        if self.as_json:
            typer.echo(json.dumps(_plain(facts), allow_nan=False))
        elif not self.quiet:
            typer.echo(text)


@contextmanager
def session(*, quiet: bool, as_json: bool, verbose: bool) -> Iterator[Session]:
    """Run a command: progress, notices and failures are shown as the user asked.

    Raises
    ------
    typer.Exit
        When the block fails, after the reason was shown.
    """
    console = Console(stderr=True)
    with explained(console, verbose=verbose), _notices(console, verbose=verbose):
        progress = make_display(console, quiet=quiet)
        try:
            yield Session(progress=progress, quiet=quiet, as_json=as_json)
        finally:
            progress.close()


@contextmanager
def _notices(console: Console, *, verbose: bool) -> Iterator[None]:
    """Show what Tigon logs; what other libraries warn of only when verbose."""
    log = logging.getLogger("tigon")
    handler, before = _Notices(console, verbose=verbose), log.level
    log.addHandler(handler)
    log.setLevel(logging.DEBUG if verbose else logging.WARNING)
    try:
        with warnings.catch_warnings():
            if not verbose and not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(before)
        log.removeHandler(handler)


class _Notices(logging.Handler):
    """Prints each notice once; with times and levels when verbose."""

    def __init__(self, console: Console, *, verbose: bool) -> None:
        super().__init__()
        self._console, self._seen = console, set[str]()
        layout = "%(asctime)s %(levelname)s: %(message)s" if verbose else "note: %(message)s"
        self.setFormatter(logging.Formatter(layout, datefmt="%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if record.levelno >= logging.WARNING:
            if message in self._seen:
                return
            self._seen.add(message)
        style = "yellow" if record.levelno >= logging.WARNING else "dim"
        say(self._console, self.format(record), style)


def _plain(value: Any) -> Any:
    """``value`` in the types of JSON; numbers that are not finite become null."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item"):  # NumPy scalars
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)
