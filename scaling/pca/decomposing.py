"""A decomposition: solver, signs, and what is known of the result."""

from __future__ import annotations

from dataclasses import dataclass
from math import isinf

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tigon.scaling.pca.certificate import PROBES, residuals_of
from tigon.scaling.pca.config import PCAConfig
from tigon.scaling.pca.krylov import Eigenpairs, block_krylov
from tigon.scaling.pca.moments import Moments
from tigon.scaling.pca.operator import Operator, Products
from tigon.scaling.pca.starting import start_of

Float64 = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Decomposition:
    """Leading right singular vectors of the matrix that was asked for.

    Attributes
    ----------
    components
        Right singular vectors, float64, shape (k, m); the largest entry of each is positive.
    singular_values
        float64, descending, shape (k,).
    residuals
        |A^T u - sigma v| / sigma_1 of each, shape (k,).
    completeness
        How much larger than the last a missed singular value may be; 1 where none can be.
    converged
        Whether residuals and completeness are as asked for.
    moments
        Means and deviations that were used, and the sum of squares of the whole matrix.
    solver, reason
        Which one, and why.
    n_passes, bytes_read
        What it cost.
    """

    components: Float64
    singular_values: Float64
    residuals: Float64
    completeness: float
    converged: bool
    moments: Moments
    solver: str
    reason: str
    n_passes: int
    bytes_read: int

    def variances(self) -> tuple[Float64, float]:
        """Variances of the scores about their own means (of n), shape (k,), and of all genes."""
        moments = self.moments
        average = moments.average / moments.deviation
        about = self.singular_values**2 / moments.n_cells
        if moments.centred:
            return about, moments.total / moments.n_cells
        around = np.maximum(about - (self.components @ average) ** 2, 0.0)
        return around, moments.total / moments.n_cells - float((average**2).sum())

    def onto(self) -> tuple[Float64, Float64]:
        """What transformed counts are multiplied with, (m, k), and what is taken off, (k,)."""
        onto = self.moments.onto_genes(self.components.T)
        return onto, self.moments.mean @ onto


def decompose(passes: Products, config: PCAConfig) -> Decomposition:
    """Leading components of the cells.

    Parameters
    ----------
    passes
        The cells; told of every pass.
    config
        Options.

    Raises
    ------
    InputError
        More components than there can be, or entries that are not finite.

    Notes
    -----
    "gram": one pass; 8 m^2 bytes for each task under way. "krylov": a sample and a few
    passes; 8 m l bytes for each task under way, see :func:`block_krylov` for the basis.
    """
    n_cells, m = passes.shape
    config.check_shape(n_cells, m)
    solver, reason = config.solver_for(m)
    operator = Operator(passes, center=config.center, scale=config.scale)
    # One thread: sums of BLAS depend on how many there are.
    with threadpool_limits(1, "blas"):
        solve = _by_gram if solver == "gram" else _by_krylov
        found = solve(operator, config)
    values = np.sqrt(found.values)
    first = values[0] if values[0] > 0 else 1.0
    return Decomposition(
        components=_with_signs(found.vectors),
        singular_values=values,
        residuals=found.residuals / first,
        completeness=found.completeness,
        converged=found.converged,
        moments=operator.moments,
        solver=solver,
        reason=reason,
        n_passes=passes.n_passes,
        bytes_read=passes.bytes_read,
    )


def not_converged(found: Decomposition, tol: float) -> str:
    """What to tell of a decomposition that is not as good as was asked for."""
    first = found.singular_values[0]
    own = found.residuals * first / np.maximum(found.singular_values, 1e-300)
    if found.solver == "gram":
        return (
            f"components are less exact than asked for (residuals up to {own.max():.2g} of the "
            f"singular value, {tol:g} asked for): the means of the genes are so large that what "
            "differs is lost in the rounding of sums; subtract a constant from the matrix first"
        )
    missing = (
        "whether a larger one than the last is missing is not known"
        if isinf(found.completeness)
        else f"singular values up to {found.completeness:.2g} times the last may be missing"
    )
    return (
        f"components are less exact than asked for after {found.n_passes} passes (residuals up to "
        f"{own.max():.2g} of the singular value, {tol:g} asked for; {missing}): set max_passes "
        "higher, or tol"
    )


def _by_gram(operator: Operator, config: PCAConfig) -> Eigenpairs:
    from scipy.linalg import eigh

    C = operator.gram()
    m, k = len(C), config.n_components
    values, vectors = eigh(C, subset_by_index=(m - k, m - 1), driver="evr")
    values, vectors = np.maximum(values[::-1], 0.0), vectors[:, ::-1]
    rounding = operator.moments.rounding
    residuals = residuals_of(C @ vectors, vectors, values, rounding)
    sigma = np.sqrt(values)
    # Of singular values that are rounding no more is known, unless the first is, too.
    allowed = np.maximum(config.tol * sigma, min((2 * rounding) ** 0.5, config.tol * sigma[0]))
    # LAPACK finds all eigenvalues up to rounding: none is missed.
    return Eigenpairs(values, vectors, residuals, 1.0, bool((residuals <= allowed).all()))


def _by_krylov(operator: Operator, config: PCAConfig) -> Eigenpairs:
    m = operator.passes.shape[1]
    of_start, of_probe = np.random.SeedSequence(config.random_state).spawn(2)
    start = start_of(operator, config, of_start)
    probe = np.random.default_rng(of_probe).standard_normal((m, PROBES))
    return block_krylov(
        operator.product,
        start,
        probe,
        config.n_components,
        config.tol,
        config.max_passes,
        operator.tell,
    )


def _with_signs(vectors: Float64) -> Float64:
    """Components as rows, (k, m), with their largest entries (the first of equals) positive."""
    largest = np.abs(vectors).argmax(axis=0)
    signs = np.where(vectors[largest, np.arange(vectors.shape[1])] < 0, -1.0, 1.0)
    return np.ascontiguousarray((vectors * signs).T)
