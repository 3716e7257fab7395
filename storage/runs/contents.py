"""What a run holds, checked before a byte of it is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.rows import RowReader
from tigon.storage.runs.arrays import check_shape
from tigon.storage.runs.components import Components
from tigon.storage.runs.factors import Factors


@dataclass(frozen=True, kw_only=True)
class RunContents:
    """Everything that a run keeps.

    Attributes
    ----------
    obs
        One row per cell (n rows), indexed by cell name.
    cell_names
        Unique names of the cells, a stretch after the other, where ``obs`` is not
        indexed by them.
    var
        One row per selected gene (m rows), indexed by gene name.
    datasets
        Names of the datasets; their order is that of all that is by dataset.
    n_cells
        Cells of every dataset, shape (n_datasets,).
    model
        What was made of the cells: factors, or principal components.
    obsm
        Matrices of n rows by name; readers are streamed, never held whole.
    config, versions, history, timings_s, scores
        The configuration; version by package; equal-length columns (step,
        epoch, n_seen, loss, ...); seconds by stage; scores by name.
    peak_memory_bytes, memory_limit_bytes
        Peak of the process tree, and the limit asked for (None: no limit).
    notices
        What the user was told on the way.
    command
        The command line or call that made the run.

    Raises
    ------
    InputError
        A shape, a name or a value does not fit the others.
    """

    obs: pd.DataFrame
    cell_names: Iterable[pd.Index[Any]] | None = None
    var: pd.DataFrame
    datasets: Sequence[str]
    n_cells: NDArray[np.integer[Any]] | NDArray[np.floating[Any]]
    model: Factors | Components
    obsm: Mapping[str, RowReader | NDArray[Any]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    history: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    memory_limit_bytes: int | None = None
    notices: Sequence[str] = ()
    command: str = ""

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_names()
        self.model.check(self.datasets, len(self.var))

    def _check_shapes(self) -> None:
        check_shape("n_cells", self.n_cells.shape, (len(self.datasets),))
        for name, rows in self.obsm.items():
            check_shape(f"the rows of {name}", rows.shape[:1], (len(self.obs),))
        if len({len(column) for column in self.history.values()}) > 1:
            lengths = {name: len(column) for name, column in self.history.items()}
            raise InputError(f"history columns differ in length ({lengths}): give equal ones")

    def _check_names(self) -> None:
        indexes = [("gene", self.var.index)]
        if self.cell_names is None:
            indexes.append(("cell", self.obs.index))
        for kind, index in indexes:
            if not index.is_unique:
                name = index[index.duplicated()][0]
                raise InputError(
                    f"a {kind} name is there twice ({name!r}): names must be unique in a run; "
                    "make them unique first"
                )
