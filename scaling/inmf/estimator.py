"""Online iNMF with scikit-learn's interface."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from tigon.scaling.budget import plan_run
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.datasets import datasets_of, resolve_small
from tigon.scaling.engine import Cluster, ThreadEngine, threads_of
from tigon.scaling.inmf.arriving import arrive
from tigon.scaling.inmf.config import Init, INMFConfig, Solver, usual_staleness
from tigon.scaling.inmf.continuing import continue_fit
from tigon.scaling.inmf.factorising import factorise
from tigon.scaling.inmf.known import Known, own_squares
from tigon.scaling.inmf.projecting import make_query, project
from tigon.scaling.preparing import PrepareConfig, chosen_datasets, prepare
from tigon.scaling.running import HERE, check_reachable, running
from tigon.storage.borrowing import borrowed_atlas
from tigon.storage.progress import Progress, silent
from tigon.storage.scratch import Scratch

if TYPE_CHECKING:
    from distributed import Client

    from tigon.storage import Atlas
    from tigon.storage.opening import Counts


class OnlineINMF(BaseEstimator):  # type: ignore[misc]
    """Online integrative non-negative matrix factorisation.

    Finds shared metagenes W, dataset-specific V_i and loadings H_i, all
    non-negative, that minimise

        sum_i |X_i - H_i (W + V_i)|^2 + lambda sum_i |H_i V_i|^2,

    where X_i are the counts of dataset i divided by each cell's total and by
    each gene's root mean square in the dataset. Genes that a dataset does not
    measure are left out of its terms.

    Parameters
    ----------
    n_components
        Number of factors k.
    lam
        lambda: larger values push differences between datasets out of V.
    lam_by_dataset
        The lambda of datasets that have another one, by name.
    n_genes
        Variable genes to select, "all", or a list of gene names.
    n_epochs
        Passes over the selected genes, or "auto" (at least 5 epochs and 200
        sweeps, until F settles).
    polish
        Batch iterations at most after the epochs, as :class:`tigon.INMF` does them, or
        "auto": until F settles.
    minibatch_size
        Cells that are read at a time, at most a tenth of the cells.
    minibatches_per_task, staleness
        Mini-batches that make up one step, and how many steps old the metagenes may
        be that they are solved against: see :class:`tigon.scaling.inmf.config.INMFConfig`.
        By default they are 0 steps old on threads, 7 on a cluster. "auto": 1, of many cells up
        to 8, and where metagenes may be old 4 to 12.
    n_sweeps
        HALS sweeps over W and V per step; "auto": 1, and 2 in steps of more than 10,000 cells and
        500 of a dataset.
    tol, tol_final
        Tolerances of the loadings, while training and as reported.
    tol_objective
        Relative decrease of F per epoch at which "auto" stops.
    tol_batch, tol_residual
        Where batch iterations stop.
    init
        "random", or "nndsvd": W starts from singular vectors of the first 10,000 cells of the
        shuffled ones (see :mod:`tigon.scaling.inmf.nndsvd`).
    n_starts
        Seeded starts whose consensus is the result; 1 for the first alone (see
        :mod:`tigon.scaling.inmf.consensus`).
    small_datasets
        "error", "merge" or "drop", for datasets of fewer cells than factors.
    n_threads
        Threads; all the processor has by default. Results do not depend on it.
    random_state
        Seed.
    progress
        Called as ``progress(stage, done, total, **figures)``.

    Attributes
    ----------
    W_
        Shared metagenes, float32, shape (k, m).
    V_
        Dataset-specific metagenes, {dataset: float32, shape (k, m)}.
    A_, B_
        H_i^T H_i and H_i^T X_i over all cells, {dataset: float64}, shapes
        (k, k) and (k, m).
    genes_
        Names of the m selected genes.
    objective_
        The objective at the reported W, V and H.
    history_
        {"epoch", "step", "n_seen", "loss", "fall", "residual"}: one entry a step, see
        :class:`tigon.scaling.inmf.history.History`.
    n_cells_
        Cells of each dataset.
    lam_
        lambda of each dataset.
    shared_
        At which genes W may differ from zero, bool, shape (m,); None for all.
    stability_
        Mean cosine of two starts' versions of each factor, float64, shape (k,); None of one
        start.
    start_objectives_
        F of each of several starts, float64; None of one.
    n_arrivals_
        How often ``partial_fit`` refined the fit.
    n_epochs_
        Epochs run, batch iterations among them.

    Notes
    -----
    Two passes over the atlas; the selected genes are then streamed from a
    temporary copy of about 4 bytes a non-zero.

    References
    ----------
    Gao et al. (2021), doi:10.1038/s41587-021-00867-x.

    Examples
    --------
    >>> import tigon
    >>> model = tigon.OnlineINMF(n_components=20)
    >>> H = model.fit(adata, batch_key="batch").transform(adata)  # doctest: +SKIP
    """

    _solver: Solver = "online"

    def __init__(
        self,
        n_components: int = 20,
        *,
        lam: float = 5.0,
        lam_by_dataset: Mapping[str, float] | None = None,
        n_genes: int | Literal["all"] | Sequence[str] = 2000,
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
        self.n_components = n_components
        self.lam = lam
        self.lam_by_dataset = lam_by_dataset
        self.n_genes = n_genes
        self.n_epochs = n_epochs
        self.polish = polish
        self.minibatch_size = minibatch_size
        self.minibatches_per_task = minibatches_per_task
        self.staleness = staleness
        self.n_sweeps = n_sweeps
        self.tol = tol
        self.tol_final = tol_final
        self.tol_objective = tol_objective
        self.tol_batch = tol_batch
        self.tol_residual = tol_residual
        self.init = init
        self.n_starts = n_starts
        self.small_datasets = small_datasets
        self.n_threads = n_threads
        self.random_state = random_state
        self.progress = progress

    def fit(
        self,
        X: Counts,
        y: None = None,
        *,
        batch_key: str | Sequence[str] | None = None,
        client: Client | None = None,
        scratch: str | os.PathLike[str] | None = None,
    ) -> Self:
        """Learn W and V.

        Parameters
        ----------
        X
            An atlas, an AnnData, a path, a URL, or a list of these; raw counts.
        y
            Ignored.
        batch_key
            Columns of ``obs`` that name the datasets; None for the sources.
        client
            Of :mod:`distributed`: tasks run on its workers, which must be able to open the
            atlas, one that Tigon wrote. None for threads of this process.
        scratch
            Folder for intermediate files, which workers must see; None for the system's
            own.

        Raises
        ------
        InputError
            The data or the options cannot be used.
        """
        del y
        cluster = Cluster(client=client)
        config = self._config(cluster)
        chosen = self._chosen(batch_key)
        with (
            borrowed_atlas(X) as atlas,
            closing(Scratch(None if scratch is None else Path(scratch))) as aside,
            self._running(cluster, atlas, chosen, config, aside.folder) as engine,
        ):
            prepared = prepare(atlas, chosen, config.n_components, engine, self.progress)
            found = factorise(
                atlas, prepared, config, aside.folder, engine, _discard, self.progress
            )
            self.genes_ = np.asarray(atlas.var.index[prepared.genes], dtype=object)
        names = prepared.datasets.names
        self.batch_key_ = batch_key
        self.W_ = found.W
        self.V_ = dict(zip(names, found.V, strict=True))
        self.A_ = dict(zip(names, found.solution.A, strict=True))
        self.B_ = dict(zip(names, found.solution.B, strict=True))
        self.merged_ = prepared.merged
        self.n_arrivals_ = 0
        self.shared_ = found.problem.shared
        self.lam_ = dict(zip(names, found.problem.lam_by_dataset.tolist(), strict=True))
        self.measured_ = dict(zip(names, found.problem.measured, strict=True))
        self.scale_ = dict(zip(names, found.problem.scale, strict=True))
        self.n_cells_ = dict(zip(names, found.problem.n_cells.tolist(), strict=True))
        self.squares_ = {
            name: own_squares(self.scale_[name], n) for name, n in self.n_cells_.items()
        }
        self.objective_ = found.solution.objective
        several = found.consensus
        self.stability_ = None if several is None else several.stability
        self.start_objectives_ = None if several is None else several.objectives
        self.history_ = found.history.columns()
        self.n_epochs_ = found.history.n_epochs
        return self

    def partial_fit(
        self, X: Counts, y: None = None, *, batch_key: str | Sequence[str] | None = None
    ) -> Self:
        """Refine W and V with new cells, without reading those of before; or fit.

        Parameters
        ----------
        X
            As in :meth:`fit`: cells that were not there before, of new datasets or of
            known ones, which keep their scale.
        y
            Ignored.
        batch_key
            Columns that name the datasets; those of ``fit`` by default.

        Raises
        ------
        InputError
            The data or the options cannot be used, or the data have none of the genes.

        Notes
        -----
        The genes stay: others of the new data are ignored, absent ones masked, and a warning
        counts both. ``A_`` and ``B_`` are sums over all cells, each with the loadings that it
        got when it came, and ``objective_`` is F of these loadings with the present
        metagenes; ``history_`` is of the new cells. Two passes over the new cells and those
        over their pack.
        """
        if not hasattr(self, "W_"):
            return self.fit(X, y, batch_key=batch_key)
        known = self._known()
        chosen = PrepareConfig(
            batch_key=batch_key or self.batch_key_, small_datasets=self.small_datasets
        )
        with (
            borrowed_atlas(X) as atlas,
            self._engine() as engine,
            closing(Scratch(None)) as scratch,
        ):
            arrival = arrive(atlas, known, chosen, engine, self.progress)
            found = continue_fit(
                atlas,
                arrival,
                known,
                self._config().refining(),
                self.n_arrivals_ + 1,
                scratch.folder,
                engine,
                _discard,
                self.progress,
            )
        self.n_arrivals_ += 1
        self.stability_ = self.start_objectives_ = None  # of the first fit
        self.W_, self.V_ = found.known.W, dict(found.known.V)
        self.A_, self.B_ = dict(found.known.A), dict(found.known.B)
        self.merged_, self.lam_ = dict(found.known.merged), dict(found.known.lam)
        self.measured_, self.scale_ = dict(found.known.measured), dict(found.known.scale)
        self.squares_, self.n_cells_ = dict(found.known.squares), dict(found.known.n_cells)
        self.objective_ = found.known.objective()
        self.history_ = found.history.columns()
        self.n_epochs_ = found.history.n_epochs
        return self

    def transform(
        self, X: Counts, *, batch_key: str | Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Loadings of cells with the metagenes fixed.

        Parameters
        ----------
        X
            As in :meth:`fit`; any cells, with some of the genes.
        batch_key
            Columns that name the datasets; those of ``fit`` by default.

        Returns
        -------
        ndarray of float32, shape (n_cells, k)
            A cell's loadings depend on that cell, its dataset and the metagenes
            only: known datasets keep their scale, new ones are scaled by their own root
            mean squares, or as all fitted cells together where they have fewer than 100
            cells; 0 for a cell without counts in the selected genes.

        Raises
        ------
        InputError
            The data have none of the genes.
        """
        check_is_fitted(self, "W_")
        known = self._known()
        with borrowed_atlas(X) as atlas, self._engine() as engine:
            datasets = datasets_of(atlas, batch_key or self.batch_key_)
            H = np.zeros((atlas.n_cells, self.n_components), np.float32)

            def write(positions: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
                H[positions] = rows

            query = make_query(atlas, datasets, known, engine, self.progress)
            project(atlas, query, self.tol_final, engine, write, self.progress)
        return H

    def fit_transform(
        self, X: Counts, y: None = None, *, batch_key: str | Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Fit, then the loadings of the same cells, shape (n_cells, k)."""
        with borrowed_atlas(X) as atlas:
            return self.fit(atlas, y, batch_key=batch_key).transform(atlas)

    def _known(self) -> Known:
        return Known(
            genes=list(self.genes_),
            W=self.W_,
            V=self.V_,
            A=self.A_,
            B=self.B_,
            measured=self.measured_,
            scale=self.scale_,
            squares=self.squares_,
            n_cells=self.n_cells_,
            lam=self.lam_,
            merged=self.merged_,
            shared=self.shared_,
        )

    def _chosen(self, batch_key: str | Sequence[str] | None) -> PrepareConfig:
        """Which cells and genes of a first fit take part."""
        return PrepareConfig(
            batch_key=batch_key, n_genes=self.n_genes, small_datasets=self.small_datasets
        )

    def _config(self, cluster: Cluster = HERE) -> INMFConfig:
        known = INMFConfig.__dataclass_fields__
        given: dict[str, Any] = {
            name: v for name, v in self.get_params(deep=False).items() if name in known
        }
        given = {"solver": self._solver, **given}
        if given.get("staleness") is None:
            staleness = usual_staleness(on_cluster=cluster.is_used, solver=given["solver"])
            given["staleness"] = staleness
        return INMFConfig(**given)

    @contextmanager
    def _running(
        self,
        cluster: Cluster,
        atlas: Atlas,
        chosen: PrepareConfig,
        config: INMFConfig,
        folder: Path,
    ) -> Iterator[ThreadEngine]:
        """Where tasks of a fit run."""
        n_threads = threads_of(self.n_threads)
        check_reachable(atlas, cluster)
        datasets = chosen_datasets(atlas, chosen, config.n_components)
        resolved = resolve_small(datasets, config.n_components, chosen.small_datasets)
        config.lam_of(resolved.names)
        whole = IntegrateConfig(prepare=chosen, inmf=config, n_threads=n_threads)
        plan = plan_run(atlas, len(datasets.names), whole)
        with running(cluster, plan, n_threads, atlas, folder, progress=self.progress) as engine:
            yield engine

    def _engine(self) -> ThreadEngine:
        return ThreadEngine(threads_of(self.n_threads))


def _discard(positions: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
    """Loadings are not kept by ``fit``."""
