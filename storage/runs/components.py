"""What a run of principal components holds besides what every run has.

Names are those under which scanpy looks: ``varm["PCs"]`` (m x k) and ``uns["pca"]``. What
scanpy has no name for lies under ``uns/tigon/components``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from tigon.storage.encoding import quiet_writers
from tigon.storage.errors import InputError
from tigon.storage.runs.arrays import check_shape, write_matrix

if TYPE_CHECKING:
    import zarr

Float64 = NDArray[np.float64]

MARK = "components"
"""Under ``uns/tigon``: what a run of principal components is told by."""

SCORES = "X_pca"
"""Matrix of the cells that holds their scores."""

_ELSEWHERE = ("vectors", "variance", "variance_ratio")


@dataclass(frozen=True, kw_only=True)
class Components:
    """Leading right singular vectors of the cells, and what is proven of them.

    Attributes
    ----------
    vectors
        float64, shape (k, m); the largest entry of each is positive.
    variance, variance_ratio
        Of the scores, and as a share of that of all genes, shape (k,).
    singular_values
        float64, descending, shape (k,).
    residuals
        |A^T u - sigma v| / sigma_1 of each, shape (k,).
    completeness
        How much larger than the last a singular value that was missed may be.
    tol
        Residual that was asked for, relative to a component's own singular value.
    converged
        Whether residuals and completeness are as asked for.
    solver, reason
        "gram" or "krylov", and why.
    n_passes, bytes_read
        Passes over the counts, and bytes that were decoded.
    mean, deviation
        What is subtracted from each gene and what it is divided by then, shape (m,): zeros
        and ones where that was not asked for.
    centered, scaled, log1p
        What was asked for.
    target_sum
        What the counts of a cell were scaled to add up to; None for as they are.
    """

    vectors: Float64
    variance: Float64
    variance_ratio: Float64
    singular_values: Float64
    residuals: Float64
    completeness: float
    tol: float
    converged: bool
    solver: str
    reason: str
    n_passes: int
    bytes_read: int
    mean: Float64
    deviation: Float64
    centered: bool
    scaled: bool
    log1p: bool
    target_sum: float | None

    @property
    def n_components(self) -> int:
        """Number of components, k."""
        return len(self.vectors)

    @property
    def own_residuals(self) -> Float64:
        """|A^T u - sigma v| / sigma of each component, shape (k,): what ``tol`` is asked of.

        Singular values below the rounding of sums of squares count as large as that is.
        """
        sigma = self.singular_values
        first = sigma[:1]
        own: Float64 = self.residuals * first / np.maximum(np.maximum(sigma, 1e-7 * first), 1e-300)
        return own

    def check(self, datasets: Sequence[str], n_genes: int) -> None:
        """Refuse what does not fit a run of so many genes.

        Raises
        ------
        InputError
            A shape does not fit the others, or a value is not finite.
        """
        del datasets  # components are of all cells together
        k = self.n_components
        check_shape("vectors", self.vectors.shape, (k, n_genes))
        for name in ("variance", "variance_ratio", "singular_values", "residuals"):
            values = getattr(self, name)
            check_shape(name, values.shape, (k,))
            if not np.isfinite(values).all():
                raise InputError(
                    f"{name} has {int((~np.isfinite(values)).sum())} entries that are not finite: "
                    "a run needs finite ones; check the counts for extreme values"
                )
        for name in ("mean", "deviation"):
            check_shape(name, getattr(self, name).shape, (n_genes,))

    def told(self) -> dict[str, Any]:
        """What is said of them under ``uns/tigon``."""
        names = [field.name for field in fields(self) if field.name not in _ELSEWHERE]
        return {MARK: {name: getattr(self, name) for name in names}}

    def write(self, root: zarr.Group) -> None:
        """Write what scanpy looks for."""
        from anndata.io import write_elem

        write_matrix(root, "varm/PCs", self.vectors.T)
        params = {"zero_center": self.centered, "use_highly_variable": False}
        found = {"variance": self.variance, "variance_ratio": self.variance_ratio}
        with quiet_writers():
            write_elem(root, "uns/pca", {**found, "params": params})

    @classmethod
    def read(cls, root: zarr.Group) -> Self:
        """What :meth:`write` and :meth:`told` put into a run."""
        from anndata.io import read_elem

        told, scanpy = read_elem(root[f"uns/tigon/{MARK}"]), read_elem(root["uns/pca"])
        names = [field.name for field in fields(cls) if field.name not in _ELSEWHERE]
        return cls(
            vectors=np.ascontiguousarray(read_elem(root["varm/PCs"]).T),
            variance=scanpy["variance"],
            variance_ratio=scanpy["variance_ratio"],
            **{name: _plain(told, name) for name in names},
        )


def _plain(told: Mapping[str, Any], name: str) -> Any:
    value = told[name]
    return value.item() if isinstance(value, np.generic) else value
