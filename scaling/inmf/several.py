"""Several starts of one fit, and the consensus that they are refined to.

The starts differ in the metagenes that they begin with and in nothing else: their
mini-batches are the same. Those that fit in memory side by side take turns, a step each,
so that each mini-batch is read once for all of them; the others follow. What a start
finds does not depend on which, and start 0 is the fit that one start alone is.

The medians of :mod:`tigon.scaling.inmf.consensus` are refined by batch iterations, which
never raise F. The result is they, or the best start where its F is lower still: F is never
above that of the best start.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.inmf.consensus import (
    Clusters,
    Metagenes,
    cluster,
    mean_metagenes,
    medians,
    unit_rows,
)
from tigon.scaling.inmf.fitting import Fitting
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.outcome import Consensus, Outcome, load_outcome, save_outcome
from tigon.scaling.inmf.rescaling import factor_sizes
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.solving import solve_all
from tigon.scaling.inmf.state import empty_state, init_state, state_bytes
from tigon.scaling.inmf.training import Steps
from tigon.storage.packs.reader import SharedReads
from tigon.storage.progress import Progress

log = logging.getLogger("tigon")

MAX_REFINING = 30
"""Batch iterations of the medians at most, where the starts have none: what follows lowers F
by little. Where they have some, the medians have as many, or the starts would be ahead."""

FEWEST_REFINING = 3
"""Passes after the starts at the least: an iteration, F of the medians, and the loadings."""

_BLOCKS_AHEAD = 3
"""Blocks that starts which take turns may be apart, besides those of a step: two are read ahead."""


def agree(
    fitting: Fitting,
    scratch: Path,
    start: np.random.SeedSequence,
    epochs: np.random.SeedSequence,
    spare_bytes: int,
    progress: Progress,
) -> Outcome:
    """Fit all starts, and refine what they have in common.

    Parameters
    ----------
    fitting
        What is factorised, ``n_starts`` times.
    scratch
        An existing folder; start 0 works in it, the others below it.
    start, epochs
        Seeds of the metagenes to begin with, and of the order of mini-batches.
    spare_bytes
        Memory for starts side by side.
    progress
        Who is told.

    Notes
    -----
    The passes of a fit for every start that does not share them, one pass for the F of each
    start and of the medians, and one for each iteration: at most as many as the options give
    a start, ``MAX_REFINING`` where these are none. Holds the metagenes of all starts, and
    what :func:`several_bytes` says.
    """
    kept = load_outcome(scratch) if fitting.resumable else None
    if kept is not None:
        return kept
    n = fitting.config.n_starts
    size = together(fitting, spare_bytes)
    found: list[tuple[Metagenes, History]] = []
    for first in range(0, n, size):
        numbers = range(first, min(first + size, n))
        found += _take_turns(fitting, scratch, numbers, start, epochs, progress)
    metagenes = [of_start for of_start, _ in found]
    objectives = np.array(
        [
            _objective(fitting, of_start, f"start {s} of {n}", progress)
            for s, of_start in enumerate(metagenes, 1)
        ]
    )
    outcome = _chosen(fitting, scratch, metagenes, objectives, [h for _, h in found], progress)
    if fitting.resumable:
        save_outcome(scratch, outcome)
    return outcome


def together(fitting: Fitting, spare_bytes: int) -> int:
    """Starts that are fitted side by side."""
    config, problem = fitting.config, fitting.problem
    if fitting.engine is not fitting.engine.local or config.solver != "online":
        return 1
    each = state_bytes(problem.n_datasets, problem.n_genes, config.n_components)
    # The loadings of the mini-batches under way, and the tables that they are solved against.
    minibatch = min(config.minibatch_size, fitting.pack.n_cells)
    each += _blocks_apart(fitting) * 8 * config.n_components * (minibatch + problem.n_genes)
    return int(min(config.n_starts, 1 + spare_bytes // each))


def _blocks_apart(fitting: Fitting) -> int:
    """Blocks that are kept for the starts that have not had them."""
    config, n_datasets = fitting.config, fitting.problem.n_datasets
    return _BLOCKS_AHEAD + plan_schedule(config, fitting.pack.n_cells, n_datasets).per_task


def several_bytes(n_starts: int, n_datasets: int, n_genes: int, n_components: int) -> int:
    """Bytes that several starts take besides the state of one.

    The metagenes of all, their factors twice, and the cosines of all pairs.
    """
    if n_starts == 1:
        return 0
    n = n_starts * n_components
    return 4 * (n + n_components) * (n_datasets + 1) * n_genes + 16 * n * n_genes + 24 * n * n


def _take_turns(
    fitting: Fitting,
    scratch: Path,
    numbers: Sequence[int],
    start: np.random.SeedSequence,
    epochs: np.random.SeedSequence,
    progress: Progress,
) -> list[tuple[Metagenes, History]]:
    """Metagenes and history of some starts, a step of each after the other."""
    if len(numbers) > 1:
        fitting = replace(fitting, pack=SharedReads(fitting.pack, _blocks_apart(fitting)))
    found: dict[int, tuple[Metagenes, History]] = {}

    def tell_of(number: int) -> Progress:
        def tell(stage: str, done: int, total: int, **figures: float) -> None:
            if number == min(set(numbers) - set(found)):
                progress(stage, done, total, start=number + 1, **figures)

        return tell

    fits: dict[int, Steps] = {}
    for s in numbers:
        state = init_state(fitting.problem, fitting.config.n_components, seed_of(start, s))
        folder = scratch / f"start-{s}" if s else scratch
        fits[s] = fitting.by_step(state, epochs, folder, tell_of(s))
    del state
    while fits:
        for s in list(fits):
            try:
                next(fits[s])
            except StopIteration as end:
                last, history = end.value
                found[s] = Metagenes(last.W, last.V), history
                del fits[s], last
    return [found[s] for s in numbers]


def seed_of(start: np.random.SeedSequence, number: int) -> np.random.SeedSequence:
    """The seed of a start: by its number, so that more starts leave the first as they are."""
    if number == 0:
        return start
    return np.random.SeedSequence(start.entropy, spawn_key=(*start.spawn_key, number))


def _objective(fitting: Fitting, found: Metagenes, whose: str, progress: Progress) -> float:
    """F with loadings as they are reported."""

    def tell(stage: str, done: int, total: int, **figures: float) -> None:
        progress(f"objective of {whose}", done, total, **figures)

    tol, engine = fitting.config.tol_final, fitting.engine
    return solve_all(
        fitting.pack, fitting.problem, found.W, found.V, tol, engine, _discard, tell
    ).objective


def _discard(positions: NDArray[np.int64], rows: NDArray[np.float32]) -> None:
    """Loadings of a start are not kept."""


def _chosen(
    fitting: Fitting,
    scratch: Path,
    starts: Sequence[Metagenes],
    objectives: NDArray[np.float64],
    histories: Sequence[History],
    progress: Progress,
) -> Outcome:
    """The refined medians, or the best start."""
    problem = fitting.problem
    factors, lengths = map(
        np.array,
        zip(*(unit_rows(mean_metagenes(problem, found)) for found in starts), strict=True),
    )
    clusters = cluster(factors)
    del factors
    found = medians(starts, lengths, clusters)
    sizes = factor_sizes(found.W)[:, None]
    state = empty_state(problem, found.W / sizes, found.V / sizes)
    state, history = fitting.iterate(
        state,
        fitting.config.max_iterations or MAX_REFINING,
        scratch / "consensus",
        History(),
        progress,
    )
    refined = Metagenes(state.W, state.V)
    objective = _objective(fitting, refined, "the consensus", progress)
    best = int(objectives.argmin())
    if objective <= objectives[best]:
        return Outcome(refined, history, _told(clusters, objectives, None))
    log.warning(
        "the consensus of %d starts ends at F = %.6g, above the best of them (%.6g): the best is "
        "taken",
        len(starts),
        objective,
        objectives[best],
    )
    return Outcome(starts[best], histories[best], _told(clusters, objectives, best))


def _told(clusters: Clusters, objectives: NDArray[np.float64], best: int | None) -> Consensus:
    """What is known of the factors, in the order of the medians or of the best start."""
    k = len(clusters.stability)
    order = np.arange(k) if best is None else np.argsort(clusters.members[best])
    return Consensus(
        objectives=objectives,
        stability=clusters.stability[order],
        n_outliers=(~clusters.kept).sum(axis=0)[order],
        best_start=-1 if best is None else best,
    )
