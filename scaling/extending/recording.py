"""What a run keeps of how a layout or clusters were made."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.recording import versions_of
from tigon.storage.encoding import key
from tigon.storage.errors import OutputExistsError
from tigon.storage.runs.columns import column_names
from tigon.storage.runs.run import Run

_PACKAGES = ("tigon", "numpy", "scikit-learn", "scipy")


@dataclass(frozen=True, slots=True)
class Sample:
    """The column that says which cells were landmarks, where not all were; else none."""

    obs: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    dropped: Sequence[str] = ()


def is_landmark(
    name: str, run: Run, assigned: NDArray[np.bool_], positions: NDArray[np.int64]
) -> Sample:
    """The column ``name``, or that an earlier one of this name is to go."""
    if len(positions) < assigned.sum():
        column = np.zeros(len(assigned), dtype=bool)
        column[positions] = True
        return Sample(obs={name: column})
    return Sample(dropped=[name] if key(name) in column_names(run) else [])


def record(
    use: str,
    options: Mapping[str, Any],
    assigned: NDArray[np.bool_],
    positions: NDArray[np.int64],
    *,
    packages: Sequence[str],
    command: str,
    seconds: float,
    peak_bytes: int,
) -> dict[str, Any]:
    """What was done, in the types that a run stores.

    Parameters
    ----------
    use, options
        The matrix and the options.
    assigned, positions
        Which cells took part, shape (n,), and the positions of the landmarks.
    packages
        What the result may depend on besides what all do.
    command, seconds, peak_bytes
        The call, and what it took.
    """
    return {
        "use": use,
        **options,
        "n_cells": int(assigned.sum()),
        "n_used": len(positions),
        "command": command,
        "time_s": seconds,
        "peak_memory_bytes": peak_bytes,
        "versions": versions_of(*_PACKAGES, *packages),
    }


def refuse_present(what: str, name: str, there: Collection[str], *, overwrite: bool) -> None:
    """Refuse to replace what the run has, unless that is wanted.

    Raises
    ------
    OutputExistsError
        The name is taken.
    """
    if key(name) in there and not overwrite:
        raise OutputExistsError(
            f"the run has {name} already: a {what} of that name is replaced with --overwrite only; "
            "give it, or choose another " + ("name with --name" if what == "column" else "method")
        )
