"""Batch iNMF with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from tigon.scaling.inmf.config import Init, Solver
from tigon.scaling.inmf.estimator import OnlineINMF
from tigon.storage.progress import Progress, silent


class INMF(OnlineINMF):
    """Batch integrative non-negative matrix factorisation.

    Minimises the objective of :class:`tigon.OnlineINMF` by block coordinate descent: each
    iteration solves the loadings of all cells, then V_i and W. The objective never rises.
    Cells are streamed as in the online solver; an iteration is one pass.

    Parameters
    ----------
    n_epochs
        Iterations at most; "auto" for 500.
    tol_batch
        Relative decrease of F in an iteration that is the last.
    tol_residual
        Residual of W and V, relative to ``|X|``, at which an iteration is the last: the root
        of what all their entries could still lower F by, each by itself.
    n_components, lam, lam_by_dataset, n_genes, tol, tol_final, init, n_starts
        As for :class:`tigon.OnlineINMF`.
    small_datasets, n_threads
        As for :class:`tigon.OnlineINMF`.
    random_state, progress
        As for :class:`tigon.OnlineINMF`.

    Attributes
    ----------
    history_
        {"epoch", "step", "n_seen", "loss", "fall", "residual"}: one entry an iteration, with
        F per cell, by how much it fell, and the residual.
    n_epochs_
        Iterations run.

    Notes
    -----
    The other attributes, ``fit``, ``transform`` and ``fit_transform`` are those of
    :class:`tigon.OnlineINMF`; so is ``partial_fit``, which refines a fit by online epochs. Two
    passes over the atlas, one over the selected genes an iteration and one more. From the
    same start F ends within a part in a thousand of that of online epochs with ``polish``,
    which on many cells get there in fewer passes.

    References
    ----------
    Welch et al. (2019), doi:10.1016/j.cell.2019.05.006; Kim, He and Park (2014),
    doi:10.1007/s10898-013-0035-4.

    Examples
    --------
    >>> import tigon
    >>> model = tigon.INMF(n_components=20)
    >>> H = model.fit_transform(adata, batch_key="batch")  # doctest: +SKIP
    """

    _solver: Solver = "batch"

    def __init__(
        self,
        n_components: int = 20,
        *,
        lam: float = 5.0,
        lam_by_dataset: Mapping[str, float] | None = None,
        n_genes: int | Literal["all"] | Sequence[str] = 2000,
        n_epochs: int | Literal["auto"] = "auto",
        tol: float = 1e-3,
        tol_final: float = 1e-5,
        tol_batch: float = 1e-6,
        tol_residual: float = 1e-4,
        init: Init = "random",
        n_starts: int = 1,
        small_datasets: Literal["error", "merge", "drop"] = "error",
        n_threads: int | None = None,
        random_state: int = 0,
        progress: Progress = silent,
    ) -> None:
        super().__init__(
            n_components,
            lam=lam,
            lam_by_dataset=lam_by_dataset,
            n_genes=n_genes,
            n_epochs=n_epochs,
            tol=tol,
            tol_final=tol_final,
            tol_batch=tol_batch,
            tol_residual=tol_residual,
            init=init,
            n_starts=n_starts,
            small_datasets=small_datasets,
            n_threads=n_threads,
            random_state=random_state,
            progress=progress,
        )
