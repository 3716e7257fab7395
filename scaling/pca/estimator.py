"""Principal components and truncated singular values with scikit-learn's interface."""

from __future__ import annotations

import logging
import os
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
)
from sklearn.utils.validation import check_is_fitted
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from tigon.scaling.engine import Cluster, threads_of
from tigon.scaling.pca.config import PCAConfig, Solver
from tigon.scaling.pca.decomposing import Decomposition, decompose, not_converged
from tigon.scaling.pca.passes import Passes
from tigon.scaling.pca.resident import ResidentPasses
from tigon.scaling.pca.sources import borrowed_source, names_of
from tigon.scaling.pca.where import passes_over
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, called, silent

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger("tigon")


class TruncatedSVD(
    ClassNamePrefixFeaturesOutMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    BaseEstimator,  # type: ignore[misc]
):
    """Leading singular values and right singular vectors of cells that are streamed.

    Parameters
    ----------
    n_components
        How many, k.
    solver
        "gram": the Gram matrix of the genes, summed in one pass in float64, exact, for up to
        some thousand genes. "krylov": block Krylov iterations from a sample, any number of
        genes, a few passes, 16 bytes for each gene and column of the basis. "auto": "gram" up
        to 4,096 genes; ``solver_reason_`` says why.
    target_sum
        What the counts of each cell are scaled to add up to; None for as they are.
    log1p
        Whether log(1 + x) is taken then.
    tol
        Iterations of "krylov" stop where |A^T u - sigma v| <= tol sigma holds for every
        component, no singular value twice as large as the last can be missing, and no more
        than a thousandth of the explained variance is still to come, as the last passes tell.
    max_passes
        Most passes of "krylov".
    n_threads
        Threads; all the processor has by default. Results do not depend on it.
    random_state
        Seed of the start and the probe of "krylov".
    progress
        Called as ``progress(stage, done, total, **figures)``; None for silence.

    Attributes
    ----------
    components_
        Right singular vectors, float64, shape (k, m); the entry of each that is largest by
        magnitude is positive.
    singular_values_
        float64, descending, shape (k,).
    explained_variance_
        Variance of each column of scores, shape (k,).
    explained_variance_ratio_
        The same over the variance of all genes.
    residuals_
        |A^T u - sigma v| / sigma_1 of each component, shape (k,): a singular value of A
        lies within residual times sigma_1 of it. The sine of the angle to the true vector is at
        most this distance over that to the other singular values; of vectors whose singular
        values are closer to each other than the residual, only the subspace is known.
    completeness_
        Singular values larger than this many times the last (at least 1e-7 sigma_1), to
        vectors orthogonal to all found, are missed with a probability of at most 1e-6.
    converged_
        Whether both are as asked for.
    n_passes_, bytes_read_
        Passes over all cells, and bytes that were decoded (with those of the sample).
    n_samples_, n_features_in_
        Cells and genes.
    feature_names_in_
        Names of the genes, str, shape (m,); of an atlas or an AnnData only.
    solver_, solver_reason_
        The solver, and why.

    Notes
    -----
    The left singular vectors are columns of the scores, divided by the singular values.

    References
    ----------
    Musco and Musco (2015), arXiv:1504.05477. Halko, Martinsson and Tropp (2011),
    doi:10.1137/090771806.
    """

    _center = False

    def __init__(
        self,
        n_components: int = 50,
        *,
        solver: Solver = "auto",
        target_sum: float | None = None,
        log1p: bool = False,
        tol: float = 0.07,
        max_passes: int = 20,
        n_threads: int | None = None,
        random_state: int = 0,
        progress: Progress | None = silent,
    ) -> None:
        self.n_components = n_components
        self.solver = solver
        self.target_sum = target_sum
        self.log1p = log1p
        self.tol = tol
        self.max_passes = max_passes
        self.n_threads = n_threads
        self.random_state = random_state
        self.progress = progress

    def fit(
        self,
        X: Any,
        y: None = None,
        *,
        client: Client | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Find the components.

        Parameters
        ----------
        X
            An atlas or a pack; a path or a URL, or a list of these, opened as an atlas; an
            AnnData, whose ``X`` is taken as it is; a SciPy or NumPy matrix; a Dask array of
            chunks of rows, CSR or dense; or a CSR matrix of cupyx.scipy.sparse, whose products
            are computed on its GPU in float32, their sums in float64. Cells by genes, any
            finite numbers; with ``log1p`` none below zero.
        y
            Ignored.
        client
            Of :mod:`distributed`: passes run on its workers, which must be able to open the
            atlas, one that Tigon wrote, or the pack; or X is a Dask array. None for threads of
            this process. The result has the same bytes.
        scratch
            Folder for what workers are told, which they must see; None for the system's own
            for intermediate files.

        Raises
        ------
        InputError
            The data or the options cannot be used.
        MemoryLimitError
            A worker is too small.
        ClusterError
            A task failed on the workers, or these were lost: fit again.
        """
        del y
        config = self._config()
        with (
            borrowed_source(X) as source,
            self._passes(source, config, client, scratch) as passes,
        ):
            found, names = decompose(passes, config), names_of(source)
            self._keep(found, passes.shape)
        self.__dict__.pop("feature_names_in_", None)
        if names is not None:
            self.feature_names_in_ = names
        return self

    def transform(
        self, X: Any, *, client: Client | None = None, scratch: str | os.PathLike[str] | None = None
    ) -> NDArray[np.float32]:
        """Scores of cells: the (centred, scaled) matrix times the components.

        Parameters
        ----------
        X
            As for :meth:`fit`, of the same genes in the same order. Names are compared
            where both have some.
        client, scratch
            As for :meth:`fit`.

        Returns
        -------
        ndarray of float32, shape (n_cells, k)
            Of a pack, in its order.

        Raises
        ------
        InputError
            Other genes, or in another order.

        Notes
        -----
        One pass. A cell's scores depend on that cell and the components only.
        """
        check_is_fitted(self, "components_")
        with (
            borrowed_source(X) as source,
            self._passes(source, self._config(), client, scratch) as passes,
        ):
            n_cells, n_genes = passes.shape
            self._check_genes(n_genes, names_of(source))
            scores = np.empty((n_cells, len(self.components_)), np.float32)
            done = 0
            for part in passes.scores(*self._found.onto()):
                scores[done : done + len(part)] = part
                done += len(part)
        return scores

    def fit_transform(
        self,
        X: Any,
        y: None = None,
        *,
        client: Client | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> NDArray[np.float32]:
        """Fit, then the scores of the same cells.

        Parameters
        ----------
        X, y, client, scratch
            As for :meth:`fit`.

        Returns
        -------
        ndarray of float32, shape (n_cells, k)
        """
        del y
        where: Any = {"client": client, "scratch": scratch}
        with borrowed_source(X) as source:
            return self.fit(source, **where).transform(source, **where)

    def inverse_transform(self, X: NDArray[np.floating]) -> NDArray[np.float32]:
        """What scores tell of the cells: the transformed counts, up to what is left out.

        Parameters
        ----------
        X
            Scores, shape (n_cells, k).

        Returns
        -------
        ndarray of float32, shape (n_cells, m)
            Scores times the components, unscaled, and means added. Normalisation
            (``target_sum``, ``log1p``) is not undone.

        Raises
        ------
        InputError
            Scores of another number of components.

        Notes
        -----
        Dense: 4 m bytes for each cell, and 4 m (k + 1) besides. Pass some cells at a time.
        """
        check_is_fitted(self, "components_")
        scores, k = np.asarray(X, np.float32), len(self.components_)
        if scores.ndim != 2 or scores.shape[1] != k:
            raise InputError(
                f"the scores have shape {scores.shape}: cells by {k} components are needed"
            )
        moments = self._found.moments
        onto = (self.components_ * moments.deviation).astype(np.float32)
        # One thread: sums of BLAS depend on how many there are.
        with threadpool_limits(1, "blas"):
            found: NDArray[np.float32] = scores @ onto
        found += moments.mean.astype(np.float32)
        return found

    @property
    def _n_features_out(self) -> int:
        """For the names of scikit-learn's mixin: pca0, pca1 and so on."""
        return len(self.components_)

    def _check_genes(self, n_genes: int, names: NDArray[Any] | None) -> None:
        """Refuse other genes than those that were fitted."""
        if n_genes != self.n_features_in_:
            raise InputError(
                f"the cells have {n_genes} genes: the components are of "
                f"{self.n_features_in_}; pass the same genes in the same order"
            )
        fitted = getattr(self, "feature_names_in_", None)
        if names is None or fitted is None:
            return
        differ = np.flatnonzero(names != fitted)
        if len(differ):
            first = differ[0]
            raise InputError(
                f"{len(differ):,} of {n_genes:,} genes are others than the components are of, or "
                f"in another order: number {first + 1:,} is {names[first]!r}, not "
                f"{fitted[first]!r}; put them in the order of feature_names_in_"
            )

    def _keep(self, found: Decomposition, shape: tuple[int, int]) -> None:
        self._found = found
        self.n_samples_, self.n_features_in_ = shape
        self.components_ = found.components
        self.singular_values_ = found.singular_values
        self.residuals_ = found.residuals
        self.completeness_ = found.completeness
        self.converged_ = found.converged
        self.n_passes_, self.bytes_read_ = found.n_passes, found.bytes_read
        self.solver_, self.solver_reason_ = found.solver, found.reason
        self._keep_variances(found)
        if not found.converged:
            log.warning("%s", not_converged(found, self.tol))

    def _keep_variances(self, found: Decomposition) -> None:
        self.explained_variance_, total = found.variances()
        self.explained_variance_ratio_ = self.explained_variance_ / (total or 1.0)

    def _config(self) -> PCAConfig:
        known = PCAConfig.__dataclass_fields__
        given = {name: v for name, v in self.get_params(deep=False).items() if name in known}
        return PCAConfig(**{"center": self._center, **given})

    def _passes(
        self,
        X: Any,
        config: PCAConfig,
        client: Client | None,
        scratch: str | os.PathLike[str] | None,
    ) -> AbstractContextManager[Passes | ResidentPasses]:
        return passes_over(
            X,
            config,
            threads_of(self.n_threads),
            Cluster(client=client),
            None if scratch is None else Path(scratch).absolute(),
            called(progress=self.progress),
        )


class PCA(TruncatedSVD):
    """Principal components of cells that are streamed.

    Parameters
    ----------
    n_components, solver, target_sum, log1p, tol, max_passes, n_threads, random_state, progress
        As for :class:`TruncatedSVD`.
    center
        Whether the mean of each gene is subtracted, without making the matrix dense.
    scale
        Whether genes are divided by their standard deviation (of n - 1 degrees of freedom). A
        constant one is left as it is: zero where means are subtracted. A pass more
        with "krylov".

    Attributes
    ----------
    mean_
        Means that are subtracted, float64, shape (m,).
    scale_
        What genes are divided by, float64, shape (m,).
    explained_variance_
        singular_values_^2 / (n - 1), shape (k,).
    explained_variance_ratio_
        The same over the variance of all genes.
    components_, singular_values_, residuals_, completeness_, converged_, n_passes_, bytes_read_, \
n_samples_, n_features_in_, feature_names_in_, solver_, solver_reason_
        As for :class:`TruncatedSVD`.

    Examples
    --------
    >>> import tigon
    >>> model = tigon.PCA(n_components=50, target_sum=1e4, log1p=True)
    >>> scores = model.fit_transform("atlas.zarr")  # doctest: +SKIP
    """

    _center = True

    def __init__(
        self,
        n_components: int = 50,
        *,
        solver: Solver = "auto",
        center: bool = True,
        scale: bool = False,
        target_sum: float | None = None,
        log1p: bool = False,
        tol: float = 0.07,
        max_passes: int = 20,
        n_threads: int | None = None,
        random_state: int = 0,
        progress: Progress | None = silent,
    ) -> None:
        super().__init__(
            n_components,
            solver=solver,
            target_sum=target_sum,
            log1p=log1p,
            tol=tol,
            max_passes=max_passes,
            n_threads=n_threads,
            random_state=random_state,
            progress=progress,
        )
        self.center = center
        self.scale = scale

    def _keep(self, found: Decomposition, shape: tuple[int, int]) -> None:
        super()._keep(found, shape)
        self.mean_, self.scale_ = found.moments.mean, found.moments.deviation

    def _keep_variances(self, found: Decomposition) -> None:
        n = max(found.moments.n_cells - 1, 1)
        self.explained_variance_ = found.singular_values**2 / n
        total = found.moments.total / n
        self.explained_variance_ratio_ = self.explained_variance_ / (total or 1.0)
