"""Commands that know how they were called, to store it in the run."""

from __future__ import annotations

import shlex
from typing import Any

import typer
from typer.core import TyperCommand

_ARGUMENTS = "tigon.arguments"


class RememberingCommand(TyperCommand):
    """Remembers its arguments as they were given."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        ctx.meta[_ARGUMENTS] = list(args)
        return super().parse_args(ctx, args)


def as_called(context: typer.Context, name: str) -> str:
    """The command line of a command of this name."""
    return shlex.join(["tigon", name, *context.meta[_ARGUMENTS]])
