"""Where a fit has got to, kept on disk so that it can go on to the same bytes.

A checkpoint holds the state, the plan's position, the tasks that were under way with
the metagenes they are solved against, and the history. What is drawn at random follows
from the seed and the position. It is written aside and takes its name when it is whole.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.state import State
from tigon.scaling.inmf.tasks import Task, Version
from tigon.storage.errors import InputError, NoSpaceError
from tigon.storage.space import free_bytes, is_out_of_space, tell_mib

_NAME = "checkpoint.npz"
_PARTIAL = "checkpoint.partial"
EVERY_SECONDS = 60.0


@dataclass
class Position:
    """How far a fit has got.

    Attributes
    ----------
    epoch
        The epoch under way, from 0.
    n_done
        Tasks of it that were taken in.
    total, n_cells
        Their loss and cells.
    before
        Loss of the epoch before.
    flying
        Tasks that were drawn and not taken in.
    history
        The steps.
    closing
        It is the last, as was known before it began.
    finished
        There is no epoch to come.
    """

    epoch: int = 0
    n_done: int = 0
    total: float = 0.0
    n_cells: int = 0
    before: float = np.inf
    flying: list[Task] = field(default_factory=list)
    history: History = field(default_factory=History)
    closing: bool = False
    finished: bool = False


class Checkpoints:
    """The checkpoint of one fit.

    Parameters
    ----------
    folder
        An existing folder.
    every
        Seconds between two; each epoch ends with one besides.
    """

    def __init__(self, folder: Path, every: float = EVERY_SECONDS) -> None:
        self._path, self._partial = folder / _NAME, folder / _PARTIAL
        self._every, self._saved = every, time.monotonic()

    def due(self) -> bool:
        """Whether the last one is old enough."""
        return time.monotonic() - self._saved >= self._every

    def save(self, state: State, position: Position) -> None:
        """Replace the checkpoint.

        Raises
        ------
        NoSpaceError
            The disk is full; the checkpoint before stays as it was.
        """
        try:
            with self._partial.open("wb") as file:
                np.savez(file, allow_pickle=False, **_packed(state, position))
                file.flush()
                os.fsync(file.fileno())
            self._partial.replace(self._path)
        except OSError as error:
            self._partial.unlink(missing_ok=True)
            if not is_out_of_space(error):
                raise
            left = tell_mib(free_bytes(self._path.parent))
            raise NoSpaceError(
                f"no space left for the checkpoint {self._path}: {left} are left; make room and go "
                "on with --resume, from the checkpoint before"
            ) from error
        self._saved = time.monotonic()

    def load(self) -> tuple[State, Position] | None:
        """The state and the position to go on from; None where there is no checkpoint.

        Raises
        ------
        InputError
            The file is damaged.
        """
        if not self._path.exists():
            return None
        try:
            with self._path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                return _unpacked(arrays)
        except (OSError, EOFError, ValueError, KeyError, BadZipFile) as error:
            raise InputError(
                f"the checkpoint {self._path} cannot be read ({error}): it is damaged; start the "
                "job anew without --resume"
            ) from error


def _packed(state: State, position: Position) -> dict[str, Any]:
    arrays = {f"state.{f.name}": getattr(state, f.name) for f in fields(State)}
    arrays |= {f"history.{name}": column for name, column in position.history.columns().items()}
    told = {
        "epoch": position.epoch,
        "n_done": position.n_done,
        "total": position.total.hex(),
        "n_cells": position.n_cells,
        "before": position.before.hex(),
        "closing": position.closing,
        "finished": position.finished,
        "flying": [
            {"stretches": task.stretches, "datasets": sorted(task.version.V)}
            for task in position.flying
        ],
    }
    arrays["told"] = np.frombuffer(json.dumps(told).encode(), np.uint8)
    for i, task in enumerate(position.flying):
        arrays[f"flying.{i}.W"] = task.version.W
        for d, V in task.version.V.items():
            arrays[f"flying.{i}.V.{d}"] = V
    return arrays


def _unpacked(arrays: Mapping[str, NDArray[Any]]) -> tuple[State, Position]:
    told = json.loads(arrays["told"].tobytes())
    state = State(**{f.name: arrays[f"state.{f.name}"] for f in fields(State)})
    flying = [
        Task(
            [(int(start), int(stop)) for start, stop in task["stretches"]],
            Version(
                arrays[f"flying.{i}.W"], {d: arrays[f"flying.{i}.V.{d}"] for d in task["datasets"]}
            ),
        )
        for i, task in enumerate(told["flying"])
    ]
    columns = {name: arrays[f"history.{name}"].tolist() for name in History().columns()}
    return state, Position(
        told["epoch"],
        told["n_done"],
        float.fromhex(told["total"]),
        told["n_cells"],
        float.fromhex(told["before"]),
        flying,
        History(**columns),
        told["closing"],
        told["finished"],
    )
