"""The `tigon` command.

Heavy libraries are imported inside the commands, so that ``tigon --help`` and
shell completion answer at once.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line of this process."""
    from tigon.command.app import app

    app(prog_name="tigon")
