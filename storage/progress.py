"""Progress as a plain callback, so that no room depends on how it is shown."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Called as ``progress(stage, done, total, **figures)``.

    ``stage`` names the work in a user's words ("reading cells"), ``done`` and
    ``total`` count cells unless the stage says otherwise, ``figures`` are
    numbers worth showing beside the bar (``loss=...``). A stage ends when
    ``done == total``.
    """

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None: ...


def silent(stage: str, done: int, total: int, **figures: float) -> None:
    """Show nothing."""
