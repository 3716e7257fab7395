"""The command line as a user meets it: what it says, its exit code, what it leaves on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from typer.testing import CliRunner, Result

from tigon.command.app import app

NO_COLOURS = {"FORCE_COLOR": None, "TTY_COMPATIBLE": None, "COLUMNS": "100"}
TIGON = [sys.executable, "-c", "from tigon.command import main; main()"]


def tigon(*arguments: str | Path) -> Result:
    """Run the command in this process."""
    return CliRunner().invoke(app, [str(a) for a in arguments], env=NO_COLOURS)


def works(*arguments: str | Path) -> Result:
    """Run the command, which must succeed."""
    result = tigon(*arguments)
    assert result.exit_code == 0, result.stderr + result.output
    return result


def refused(folder: Path, *arguments: str | Path) -> str:
    """The error line of a command that must refuse, leaving ``folder`` as it was."""
    before = listing(folder)
    result = tigon(*arguments)
    check_refusal(result.exit_code, result.stdout, result.stderr)
    assert listing(folder) == before
    return result.stderr.splitlines()[-1]


def check_refusal(exit_code: int, stdout: str, stderr: str) -> None:
    """One line that begins with "error:", after notices and progress; exit code 2."""
    lines = stderr.splitlines()
    assert exit_code == 2, stderr
    assert stdout == ""
    assert "Traceback" not in stderr
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True]


def listing(folder: Path) -> list[tuple[str, int]]:
    """Everything under ``folder`` with sizes of files."""
    return sorted(
        (str(path.relative_to(folder)), path.stat().st_size if path.is_file() else -1)
        for path in folder.rglob("*")
    )


def start(
    *arguments: str | Path, folder: Path, prepare: Callable[[], Any] | None = None
) -> subprocess.Popen[str]:
    """Start the command as a process of its own, with temporary files in ``folder``."""
    return subprocess.Popen(
        [*TIGON, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        preexec_fn=prepare,
        env={**os.environ, "TMPDIR": str(folder)},
    )
