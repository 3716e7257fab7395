"""Compare numbers of factors and values of lambda on one pack.

For every lambda and fold one warm path: the fit of the least k, and each larger one begun
from the one before (:mod:`tigon.scaling.choosing.growing`). Folds have seeds and cells of
their own, so that what their fits agree on is stability. The same seeds serve all lambdas.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.alignment.aligning import align
from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.budget import Plan, bytes_to_spare
from tigon.scaling.choosing.config import MIXED_CELLS, ChooseConfig
from tigon.scaling.choosing.folds import Fold, child, cut_folds, draw_sample
from tigon.scaling.choosing.growing import grow
from tigon.scaling.choosing.heldout import check_hidden, held_out_loadings, hidden_error
from tigon.scaling.choosing.table import Comparison, Setting
from tigon.scaling.embedding.neighbors import neighbors
from tigon.scaling.embedding.scores import N_MIXING, mixing
from tigon.scaling.engine import ThreadEngine
from tigon.scaling.inmf.consensus import Metagenes, cluster, mean_metagenes, unit_rows
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.state import Problem, State
from tigon.scaling.inmf.training import train
from tigon.scaling.keeping import obtain_pack
from tigon.scaling.memory import give_back
from tigon.scaling.preparing import prepare
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
    scratch: Path,
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
    scratch
        An existing folder for the pack and the loadings.
    engine, progress
        Where it runs and who is told.
    cache
        Where the pack is kept and looked for; None to write it below ``scratch``.

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
    prepared = prepare(atlas, config.prepare, config.k[-1], engine, progress)
    sample = draw_sample(prepared, config.n_cells, order)
    config.check_cells(int(sample.datasets.sizes.sum()))
    _check_visible(config, len(prepared.genes))
    pack = obtain_pack(
        atlas,
        sample.datasets,
        prepared.statistics,
        prepared.genes,
        scratch / "pack",
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
        settings = _compared(folds, config, scratch, fits, engine, progress)
    return Comparison(settings, pack.n_cells, pack.n_genes, sample.datasets.names)


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
    scratch: Path,
    seed: np.random.SeedSequence,
    engine: ThreadEngine,
    progress: Progress,
) -> list[Setting]:
    settings = []
    done, total = 0, sum(config.k) * len(config.lam) * len(folds)
    progress(STAGE, 0, total)
    for lam in config.lam:
        errors = np.zeros((len(config.k), len(folds)))
        mixed, factors = np.zeros_like(errors), []
        for fold in folds:
            problem = fold.with_lam(lam)
            of_fold = []
            for i, found in enumerate(_path(fold, problem, config, scratch, seed, engine)):
                errors[i, fold.number] = hidden_error(
                    fold, problem, found, config.inmf.tol_final, engine
                )
                mixed[i, fold.number] = _mixing(fold, problem, found, config, engine)
                of_fold.append(unit_rows(mean_metagenes(problem, found))[0])
                done += config.k[i]
                progress(STAGE, done, total, k=config.k[i], lam=lam, error=errors[i, fold.number])
            factors.append(of_fold)
        for i, k in enumerate(config.k):
            agreed = agreement(np.array([of_fold[i] for of_fold in factors]))
            settings.append(Setting(k, lam, errors[i], agreed, mixed[i]))
    return settings


def _path(
    fold: Fold,
    problem: Problem,
    config: ChooseConfig,
    scratch: Path,
    seed: np.random.SeedSequence,
    engine: ThreadEngine,
) -> Iterator[Metagenes]:
    """The fits of one fold and lambda, from few factors to many."""
    folder = scratch / "fit"
    folder.mkdir(exist_ok=True)
    schedule = plan_schedule(config.inmf, fold.training.n_cells)
    state: State | None = None
    for k in config.k:
        begun = grow(state, problem, k, child(seed, 0, fold.number, k))
        epochs = child(seed, 1, fold.number, k)
        options = replace(config.inmf, n_components=k)
        state = train(fold.training, folder, problem, begun, schedule, options, engine, epochs)[0]
        yield Metagenes(state.W, state.V)


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
