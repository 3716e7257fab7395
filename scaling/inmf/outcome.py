"""What several starts came to, and the file that an interrupted job finds it in."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.inmf.consensus import Metagenes
from tigon.scaling.inmf.history import History

_NAME = "consensus.npz"


@dataclass(frozen=True, slots=True)
class Consensus:
    """How far several starts agree.

    Attributes
    ----------
    objectives
        F of each start, float64, shape (n_starts,).
    stability
        Mean cosine of two starts' versions of each factor, float64, shape (k,).
    n_outliers
        Starts whose version was left out of the median, int64, shape (k,).
    best_start
        The start that was taken in the place of the medians, whose F was higher; -1 where
        the refined medians are the result.
    """

    objectives: NDArray[np.float64]
    stability: NDArray[np.float64]
    n_outliers: NDArray[np.int64]
    best_start: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """The metagenes that are the result, the steps that led to them, and the agreement."""

    found: Metagenes
    history: History
    consensus: Consensus


def save_outcome(folder: Path, outcome: Outcome) -> None:
    """Keep an outcome, whole or not at all."""
    aside = folder / f"{_NAME}.partial"
    columns = outcome.history.columns()
    with aside.open("wb") as file:
        np.savez(
            file,
            allow_pickle=False,
            W=outcome.found.W,
            V=outcome.found.V,
            objectives=outcome.consensus.objectives,
            stability=outcome.consensus.stability,
            n_outliers=outcome.consensus.n_outliers,
            best_start=np.asarray(outcome.consensus.best_start),
            **{f"history.{name}": column for name, column in columns.items()},
        )
    aside.replace(folder / _NAME)


def load_outcome(folder: Path) -> Outcome | None:
    """The outcome that was kept; None where there is none that can be read."""
    try:
        with np.load(folder / _NAME, allow_pickle=False) as kept:
            columns = {name: kept[f"history.{name}"].tolist() for name in History().columns()}
            return Outcome(
                Metagenes(kept["W"], kept["V"]),
                History(**columns),
                Consensus(
                    objectives=kept["objectives"],
                    stability=kept["stability"],
                    n_outliers=kept["n_outliers"],
                    best_start=int(kept["best_start"]),
                ),
            )
    except (OSError, EOFError, ValueError, KeyError, BadZipFile):
        return None
