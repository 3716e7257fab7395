"""UINMF with scikit-learn's interface: iNMF that also learns from genes only some measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

from tigon.scaling.inmf.config import Init, Solver
from tigon.scaling.inmf.estimator import OnlineINMF
from tigon.scaling.preparing import PrepareConfig
from tigon.storage.progress import Progress, silent


class UINMF(OnlineINMF):
    """Integrative non-negative matrix factorisation with unshared features.

    Finds shared metagenes W, dataset-specific V_i over the genes that all datasets
    measure, dataset-specific U_i over the genes that dataset i and not all others measure,
    and loadings H_i, all non-negative, that minimise

        sum_i |X_i - H_i (W + V_i)|^2 + lambda_i |H_i V_i|^2
              + |P_i - H_i U_i|^2 + lambda_i |H_i U_i|^2,

    where X_i are the shared and P_i the unshared genes of dataset i, scaled as for
    :class:`tigon.OnlineINMF`. A gene that several datasets measure and others do not has a
    U_i for each of them.

    Parameters
    ----------
    n_components
        Number of factors k.
    lam
        lambda: larger values push differences between datasets out of V, and give unshared
        genes less weight in the loadings: for given loadings they explain 1 / (1 + lambda)
        of what they would without a penalty.
    lam_by_dataset
        The lambda of datasets that have another one, by name.
    n_genes
        Shared variable genes to select, "all", or a list of gene names.
    n_unshared
        Unshared variable genes to select, the most variable of each dataset in turn; "all",
        or a list of gene names.
    solver
        "online" for steps of mini-batches, "batch" for iterations over all cells.
    n_epochs
        Passes, as for :class:`tigon.OnlineINMF` or :class:`tigon.INMF`.
    polish, minibatch_size, minibatches_per_task, staleness, n_sweeps, tol, tol_final, \
tol_objective, tol_batch, tol_residual, init, n_starts, small_datasets, n_threads, random_state, \
progress
        As for :class:`tigon.OnlineINMF`.

    Attributes
    ----------
    shared_
        Which of the genes are shared, bool, shape (m,).
    V_
        V_i at shared genes and U_i at the others, zero where a dataset does not measure a
        gene, {dataset: float32, shape (k, m)}; ``W_`` is zero at genes that are not shared.
    others
        As for :class:`tigon.OnlineINMF`.

    Notes
    -----
    Steps, passes and memory are those of :class:`tigon.OnlineINMF` for as many genes. The
    input is an atlas of which some datasets lack genes, as ``tigon.open(sources,
    join="outer")`` makes it. ``transform`` and ``partial_fit`` solve cells of known datasets
    against their U_i; for ``transform`` new datasets have their shared genes only, with
    ``partial_fit`` they get a U_i over those of the unshared genes that they measure.

    References
    ----------
    Kriebel and Welch (2022), doi:10.1038/s41467-022-28431-4; Gao et al. (2021),
    doi:10.1038/s41587-021-00867-x.

    Examples
    --------
    >>> import tigon
    >>> atlas = tigon.open(["rna.h5ad", "spatial.h5ad"], join="outer")  # doctest: +SKIP
    >>> H = tigon.UINMF(n_unshared=1000).fit(atlas).transform(atlas)  # doctest: +SKIP
    """

    def __init__(
        self,
        n_components: int = 20,
        *,
        lam: float = 5.0,
        lam_by_dataset: Mapping[str, float] | None = None,
        n_genes: int | Literal["all"] | Sequence[str] = 2000,
        n_unshared: int | Literal["all"] | Sequence[str] = 2000,
        solver: Solver = "online",
        n_epochs: int | Literal["auto"] = "auto",
        polish: int | Literal["auto"] = 0,
        minibatch_size: int = 5000,
        minibatches_per_task: int | Literal["auto"] = "auto",
        staleness: int | None = None,
        n_sweeps: int | Literal["auto"] = "auto",
        tol: float = 1e-3,
        tol_final: float = 1e-5,
        tol_objective: float = 1e-3,
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
            polish=polish,
            minibatch_size=minibatch_size,
            minibatches_per_task=minibatches_per_task,
            staleness=staleness,
            n_sweeps=n_sweeps,
            tol=tol,
            tol_final=tol_final,
            tol_objective=tol_objective,
            tol_batch=tol_batch,
            tol_residual=tol_residual,
            init=init,
            n_starts=n_starts,
            small_datasets=small_datasets,
            n_threads=n_threads,
            random_state=random_state,
            progress=progress,
        )
        self.n_unshared = n_unshared
        self.solver = solver

    def _chosen(self, batch_key: str | Sequence[str] | None) -> PrepareConfig:
        return replace(super()._chosen(batch_key), n_unshared=self.n_unshared)
