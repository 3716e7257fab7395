"""What a run holds, checked before a byte of it is written.

Symbols, as in the objective of online iNMF: ``W`` (k x m) the shared metagenes,
``V`` (k x m per dataset) what a dataset adds to them, ``A`` and ``B`` the sums
``H^T H`` and ``X^T H`` over a dataset's cells, for ``k`` factors and ``m``
selected genes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tigon.storage.errors import InputError
from tigon.storage.rows import RowReader


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
    W
        float32, shape (k, m).
    V
        float32, shape (k, m) for every dataset; its order is the order of the
        datasets everywhere else.
    A
        float64, shape (n_datasets, k, k).
    B
        float64, shape (n_datasets, m, k).
    n_cells
        Cells of every dataset, shape (n_datasets,).
    lam
        Weight lambda of every dataset's own metagenes, shape (n_datasets,); None where it
        is not known.
    objective
        The objective F at the returned W, V and H, summed over cells.
    obsm
        Matrices of n rows by name; readers are streamed, never held whole.
    per_gene
        Matrices (n_datasets, m) by name, kept beside the statistics: for
        instance ``measured`` (bool) and ``scale`` (float64).
    config, versions, history, timings_s, scores
        The configuration; version by package; equal-length columns (step,
        epoch, n_seen, loss, ...); seconds by stage; scores by name.
    consensus
        What is known of several starts, arrays by name; empty of one.
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
    W: NDArray[np.float32]
    V: Mapping[str, NDArray[np.float32]]
    A: NDArray[np.float64]
    B: NDArray[np.float64]
    n_cells: NDArray[np.integer[Any]] | NDArray[np.floating[Any]]
    lam: NDArray[np.float64] | None = None
    objective: float
    obsm: Mapping[str, RowReader | NDArray[Any]] = field(default_factory=dict)
    per_gene: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    history: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    timings_s: Mapping[str, float] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    consensus: Mapping[str, Any] = field(default_factory=dict)
    peak_memory_bytes: int = 0
    memory_limit_bytes: int | None = None
    notices: Sequence[str] = ()
    command: str = ""

    def __post_init__(self) -> None:
        self._check_shapes()
        self._check_names()
        if not np.isfinite(self.objective):
            raise InputError(
                f"the objective is not finite ({self.objective}): a run needs a finite one; "
                "check the counts for extreme values"
            )

    def _check_shapes(self) -> None:
        k, m, d, n = self.n_components, len(self.var), len(self.V), len(self.obs)
        _check_shape("W", self.W.shape, (k, m))
        for name, matrix in self.V.items():
            _check_shape(f"V of dataset {name!r}", matrix.shape, (k, m))
        _check_shape("A", self.A.shape, (d, k, k))
        _check_shape("B", self.B.shape, (d, m, k))
        _check_shape("n_cells", self.n_cells.shape, (d,))
        if self.lam is not None:
            _check_shape("lam", self.lam.shape, (d,))
        for name, matrix in self.per_gene.items():
            _check_shape(name, matrix.shape, (d, m))
        for name, rows in self.obsm.items():
            _check_shape(f"the rows of {name}", rows.shape[:1], (n,))
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

    @property
    def n_components(self) -> int:
        """Number of factors, k."""
        return int(self.W.shape[0])


def _check_shape(what: str, shape: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    if shape != wanted:
        raise InputError(f"{what} has the wrong shape {shape}: the run needs {wanted}")
