"""Compare numbers of factors and values of lambda on one pack.

For every lambda and fold one warm path: the fit of the least k, and each larger one begun
from the one before (:mod:`tigon.scaling.choosing.paths`). Folds have seeds and cells of
their own, so that what their fits agree on is stability. The same seeds serve all lambdas.
"""

from __future__ import annotations

from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.aligning import align
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.budget import Plan, bytes_to_spare
from tigon.scaling.choosing.config import MIXED_CELLS, ChooseConfig
from tigon.scaling.choosing.folds import Fold, cut_folds, draw_sample
from tigon.scaling.choosing.heldout import check_hidden, held_out_loadings, hidden_error
from tigon.scaling.choosing.paths import Scored, WarmPath
from tigon.scaling.choosing.table import Comparison, Setting
from tigon.scaling.embedding.neighbors import neighbors
from tigon.scaling.embedding.scores import N_MIXING, mixing
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.consensus import Metagenes, cluster, mean_metagenes, unit_rows
from tigon.scaling.inmf.state import Problem
from tigon.scaling.job import Job
from tigon.scaling.keeping import kept_pack, obtain_pack
from tigon.scaling.kept import prepared_arrays, prepared_of
from tigon.scaling.memory import give_back
from tigon.scaling.preparing import Prepared, prepare
from tigon.storage.errors import InputError
from tigon.storage.packs.cache import PackCache
from tigon.storage.progress import Progress, silent
from tigon.storage.rows import ArrayRows

if TYPE_CHECKING:
    from tigon.storage import Atlas

STAGE = "comparing (factors)"
"""How progress is told: a fit of k factors takes about k times as long as one of one."""


def compare(
    atlas: Atlas,
    config: ChooseConfig,
    plan: Plan,
    job: Job,
    engine: ThreadEngine,
    progress: Progress = silent,
    cache: PackCache | None = None,
) -> Comparison:
    """Fit every setting in every fold, and score it.

    Parameters
    ----------
    atlas, config
        The counts and the options.
    plan
        What it costs.
    job
        In whose folder the pack and the loadings lie, and what is done is kept.
    engine, progress
        Where it runs and who is told.
    cache
        Where the pack is kept and looked for; None to write it in that of the job.

    Returns
    -------
    Comparison

    Raises
    ------
    InputError
        The options do not fit the counts.

    Notes
    -----
    Two passes over the atlas. Every fit is the passes of its epochs over the training
    cells, and two over those held out. Holds the factors of the fits of one lambda,
    8 m bytes for each, besides what a fit does.
    """
    order, hidden, fits = np.random.SeedSequence(config.seed).spawn(3)
    prepared = _prepared(atlas, config, job, engine, progress)
    sample = draw_sample(prepared, config.n_cells, order)
    config.check_cells(int(sample.datasets.sizes.sum()))
    _check_visible(config, len(prepared.genes))
    pack = kept_pack(job.folder / "pack", engine, progress) or obtain_pack(
        atlas,
        sample.datasets,
        prepared.statistics,
        prepared.genes,
        job.folder / "pack",
        cache,
        engine,
        order,
        progress,
    )
    del prepared
    give_back()
    with closing(pack):
        if pack.n_bytes <= bytes_to_spare(plan, config.memory_limit_bytes):
            pack.hold()
        folds = cut_folds(pack, sample.problem, config.n_folds, config.hidden_share, hidden)
        for fold in folds:
            check_hidden(fold)
        settings = _compared(folds, config, job, fits, engine, progress)
    return Comparison(settings, pack.n_cells, pack.n_genes, sample.datasets.names)


def _prepared(
    atlas: Atlas, config: ChooseConfig, job: Job, engine: ThreadEngine, progress: Progress
) -> Prepared:
    kept = job.load("prepared.npz")
    if kept is not None:
        return prepared_of(kept)
    found = prepare(atlas, config.prepare, config.k[-1], engine, progress)
    job.save("prepared.npz", **prepared_arrays(found))
    return found


def _check_visible(config: ChooseConfig, n_genes: int) -> None:
    n_seen = n_genes - max(1, round(config.hidden_share * n_genes))
    if n_seen < config.k[-1]:
        raise InputError(
            f"{config.k[-1]} factors are more than the {n_seen} genes that are not hidden of "
            f"held-out cells: at most {n_seen} can be compared; set --k, or --n-genes"
        )


def _compared(
    folds: list[Fold],
    config: ChooseConfig,
    job: Job,
    seed: np.random.SeedSequence,
    engine: ThreadEngine,
    progress: Progress,
) -> list[Setting]:
    settings = []
    done, total = 0, sum(config.k) * len(config.lam) * len(folds)
    progress(STAGE, 0, total)
    for number, lam in enumerate(config.lam):
        errors = np.zeros((len(config.k), len(folds)))
        mixed, factors = np.zeros_like(errors), []
        for fold in folds:
            problem = fold.with_lam(lam)
            path = WarmPath(fold, problem, config, seed, job, f"{number}-{fold.number}")
            score = partial(_scored, fold, problem, config, engine)
            of_fold = []
            for i, found in enumerate(path.scored(score, engine)):
                errors[i, fold.number], mixed[i, fold.number] = found.error, found.mixing
                of_fold.append(found.factors)
                done += config.k[i]
                progress(STAGE, done, total, k=config.k[i], lam=lam, error=found.error)
            factors.append(of_fold)
        for i, k in enumerate(config.k):
            agreed = agreement(np.array([of_fold[i] for of_fold in factors]))
            settings.append(Setting(k, lam, errors[i], agreed, mixed[i]))
    return settings


def _scored(
    fold: Fold, problem: Problem, config: ChooseConfig, engine: ThreadEngine, found: Metagenes
) -> Scored:
    error = hidden_error(fold, problem, found, config.inmf.tol_final, engine)
    mixed = _mixing(fold, problem, found, config, engine)
    return Scored(error, mixed, unit_rows(mean_metagenes(problem, found))[0])


def agreement(factors: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far the factors of each fold agree with those of all others, shape (n_folds,).

    Parameters
    ----------
    factors
        Of length 1, float64, shape (n_folds, k, m).

    Returns
    -------
    ndarray of float64
        Mean cosine of a fold's factors with the others' of the same cluster (see
        :mod:`tigon.scaling.inmf.consensus`); their mean is the mean stability.
    """
    n = len(factors)
    members = cluster(factors).members
    in_order = factors[np.arange(n)[:, None], members]
    cosines = np.einsum("ajm,bjm->ab", in_order, in_order) / factors.shape[1]
    found: NDArray[np.float64] = (cosines.sum(axis=1) - np.diag(cosines)) / (n - 1)
    return found


def _mixing(
    fold: Fold, problem: Problem, found: Metagenes, config: ChooseConfig, engine: ThreadEngine
) -> float:
    """Mixing of the datasets among held-out cells, aligned as a run's are."""
    if problem.n_datasets == 1:
        return float("nan")
    H, codes = held_out_loadings(fold, problem, found, MIXED_CELLS, config.inmf.tol_final, engine)
    aligned = np.zeros_like(H)

    def write(start: int, rows: NDArray[np.float32]) -> None:
        aligned[start : start + len(rows)] = rows

    align(ArrayRows(H), codes, problem.n_datasets, AlignConfig(), config.seed, engine.local, write)
    loaded = H.any(axis=1)
    if loaded.sum() < 2:
        return float("nan")
    # One thread: the last bits of distances, which order neighbours, must not depend on it.
    points = aligned[loaded]
    near = neighbors(points, min(N_MIXING, len(points) - 1), n_threads=1)
    return mixing(near.indices, codes[loaded])
