"""What a run of iNMF holds besides what every run has: metagenes and statistics.

Symbols, as in the objective of online iNMF: ``W`` (k x m) the shared metagenes,
``V`` (k x m per dataset) what a dataset adds to them, ``A`` and ``B`` the sums
``H^T H`` and ``X^T H`` over a dataset's cells, for ``k`` factors and ``m``
selected genes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.storage.encoding import key
from tigon.storage.errors import InputError
from tigon.storage.runs.arrays import check_shape, write_matrix
from tigon.storage.runs.statistics import GROUP, write_statistic

if TYPE_CHECKING:
    import zarr

MARK = "objective"
"""Under ``uns/tigon``: what a run of factors is told by."""


@dataclass(frozen=True, kw_only=True)
class Factors:
    """Metagenes of datasets and the statistics that they follow from.

    Attributes
    ----------
    W
        float32, shape (k, m).
    V
        float32, shape (k, m) for every dataset, in the order of the run's datasets.
    A
        float64, shape (n_datasets, k, k).
    B
        float64, shape (n_datasets, m, k).
    lam
        Weight lambda of every dataset's own metagenes, shape (n_datasets,); None where it
        is not known.
    objective
        The objective F at the returned W, V and H, summed over cells.
    per_gene
        Matrices (n_datasets, m) by name, kept beside the statistics: for
        instance ``measured`` (bool) and ``scale`` (float64).
    consensus
        What is known of several starts, arrays by name; empty of one.
    """

    W: NDArray[np.float32]
    V: Mapping[str, NDArray[np.float32]]
    A: NDArray[np.float64]
    B: NDArray[np.float64]
    lam: NDArray[np.float64] | None = None
    objective: float
    per_gene: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    consensus: Mapping[str, Any] = field(default_factory=dict)

    @property
    def n_components(self) -> int:
        """Number of factors, k."""
        return int(self.W.shape[0])

    def check(self, datasets: Sequence[str], n_genes: int) -> None:
        """Refuse what does not fit a run of these datasets and so many genes.

        Raises
        ------
        InputError
            A shape, a name or a value does not fit the others.
        """
        k, m, d = self.n_components, n_genes, len(datasets)
        check_shape("W", self.W.shape, (k, m))
        if list(self.V) != list(datasets):
            raise InputError(
                f"V is of the datasets {', '.join(self.V)}: those of the run are needed, in "
                f"their order ({', '.join(datasets)})"
            )
        for name, matrix in self.V.items():
            check_shape(f"V of dataset {name!r}", matrix.shape, (k, m))
        check_shape("A", self.A.shape, (d, k, k))
        check_shape("B", self.B.shape, (d, m, k))
        if self.lam is not None:
            check_shape("lam", self.lam.shape, (d,))
        for name, matrix in self.per_gene.items():
            check_shape(name, matrix.shape, (d, m))
        if not np.isfinite(self.objective):
            raise InputError(
                f"the objective is not finite ({self.objective}): a run needs a finite one; "
                "check the counts for extreme values"
            )

    def told(self) -> dict[str, Any]:
        """What is said of them under ``uns/tigon``."""
        consensus = {"consensus": self.consensus} if self.consensus else {}
        return {MARK: float(self.objective), **consensus}

    def write(self, root: zarr.Group) -> None:
        """Write W and V under ``varm``, A, B and what is by dataset among the statistics."""
        write_matrix(root, "varm/W", self.W.T.astype(np.float32, copy=False))
        for name, V in self.V.items():
            write_matrix(root, f"varm/V_{key(name)}", V.T.astype(np.float32, copy=False))
        group = root.require_group(GROUP)
        numbers = np.arange(self.n_components)
        write_statistic(group, "factor", numbers, ("factor",))
        write_statistic(group, "factor_b", numbers, ("factor_b",))
        A, B = self.A.astype(np.float64), self.B.astype(np.float64)
        write_statistic(group, "A", A, ("dataset", "factor", "factor_b"))
        write_statistic(group, "B", B, ("dataset", "gene", "factor"))
        if self.lam is not None:
            write_statistic(group, "lam", self.lam.astype(np.float64), ("dataset",))
        for name, matrix in self.per_gene.items():
            write_statistic(group, name, matrix, ("dataset", "gene"))
