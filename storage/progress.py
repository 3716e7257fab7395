"""Progress as a plain callback, so that no room depends on how it is shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from tigon.storage.errors import InputError


class Progress(Protocol):
    """Called as ``progress(stage, done, total, **figures)``.

    ``stage`` names the work in a user's words ("reading cells"), ``done`` and
    ``total`` count cells unless the stage says otherwise, ``figures`` are
    numbers worth showing beside the bar (``loss=...``). A stage ends when
    ``done == total``; one whose first part takes long may begin with
    ``done == 0``, so that its name is shown meanwhile.
    """

    def __call__(self, stage: str, done: int, total: int, **figures: float) -> None: ...


def silent(stage: str, done: int, total: int, **figures: float) -> None:
    """Show nothing."""


def called(*, progress: Progress | bool | None) -> Progress:
    """What is called of what an estimator was given: None and False are silence.

    Raises
    ------
    InputError
        It cannot be called; bars are shown by the front door alone.
    """
    if progress is None or progress is False:
        return silent
    if not callable(progress):
        raise InputError(
            f"progress is {progress!r}: estimators take None or what is called as progress(stage, "
            "done, total, **figures); the bars of True are those of tigon.pca and tigon.integrate"
        )
    return progress


@contextmanager
def whole_stage(progress: Progress, stage: str, total: int) -> Iterator[None]:
    """Tell of a stage that is one part: when it begins, and when it ends well."""
    if total:
        progress(stage, 0, total)
    yield
    progress(stage, total, total)
