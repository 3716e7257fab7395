"""The whole factorisation of a prepared atlas: pack, epochs, final pass."""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.fitting import Fitting
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.nndsvd import nndsvd_state
from tigon.scaling.inmf.outcome import Consensus
from tigon.scaling.inmf.several import agree
from tigon.scaling.inmf.solving import Solution, solve_all
from tigon.scaling.inmf.state import Problem, State, init_state
from tigon.scaling.inmf.training import finish
from tigon.scaling.keeping import kept_pack, obtain_pack
from tigon.scaling.memory import give_back
from tigon.storage.progress import Progress, silent
from tigon.storage.scattering import WriteRows

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.scaling.preparing import Prepared
    from tigon.storage import Atlas
    from tigon.storage.packs.cache import PackCache

log = logging.getLogger("tigon")


@dataclass(frozen=True, slots=True)
class Factorisation:
    """Metagenes of an atlas and what is known about them.

    Attributes
    ----------
    problem
        Masks, scales, sizes and lambda.
    W, V
        Metagenes, float32, shapes (k, m) and (d, k, m).
    solution
        Exact statistics and objective of the final loadings.
    history
        The steps.
    consensus
        How far several starts agree; None of one.
    """

    problem: Problem
    W: NDArray[np.float32]
    V: NDArray[np.float32]
    solution: Solution
    history: History
    consensus: Consensus | None = None


def factorise(
    atlas: Atlas,
    prepared: Prepared,
    config: INMFConfig,
    scratch: Path,
    engine: ThreadEngine,
    write: WriteRows,
    progress: Progress = silent,
    cache: PackCache | None = None,
    spare_bytes: int = 0,
    *,
    resumable: bool = False,
    known: Solution | None = None,
) -> Factorisation:
    """Factorise the kept cells over the selected genes.

    Parameters
    ----------
    atlas, prepared, config
        The counts, what takes part, and the options.
    scratch
        An existing folder; a pack that is not kept is built below it.
    engine, progress
        Where it runs and who is told.
    write
        Called with atlas positions and final loadings, every kept cell once.
    cache
        Where the pack is kept and looked for; None to write it below ``scratch``.
    spare_bytes
        A pack that is no larger is held in memory; several starts may share passes in it.
    resumable
        Keep checkpoints in ``scratch``, and go on from a pack and a checkpoint that are
        there: those of the same atlas, preparation and options.
    known
        The final loadings were solved and written before, with this result.

    Returns
    -------
    Factorisation

    Notes
    -----
    One pass over the atlas, or over the pack where it was kept, then one over the pack
    per epoch and one more.
    """
    order, start, epochs = np.random.SeedSequence(config.random_state).spawn(3)
    problem = prepared.problem(np.array(config.lam_of(prepared.datasets.names)))
    n_cells = int(problem.n_cells.sum())
    if n_cells < config.minibatch_size != INMFConfig().minibatch_size:
        log.warning(
            "mini-batches of %d cells are more than the %d cells there are: using a tenth of them",
            config.minibatch_size,
            n_cells,
        )
    pack = kept_pack(scratch / "pack", engine, progress) or obtain_pack(
        atlas,
        prepared.datasets,
        prepared.statistics,
        prepared.genes,
        scratch / "pack",
        cache,
        engine,
        order,
        progress,
    )
    give_back()
    with closing(pack):
        if pack.n_bytes <= spare_bytes:
            pack.hold()
            spare_bytes = 0  # what is in memory need not be read for several starts at once
        fitting = Fitting(pack, problem, config, engine, resumable)
        W, V, history, consensus = _fitted(fitting, scratch, start, epochs, spare_bytes, progress)
        give_back()
        solution = known or solve_all(
            pack, problem, W, V, config.tol_final, engine, write, progress
        )
    if solution.n_unfinished:
        log.warning(
            "the loadings of %d of %d cells did not reach the tolerance %g",
            solution.n_unfinished,
            n_cells,
            config.tol_final,
        )
    return Factorisation(problem, W, V, solution, history, consensus)


def _fitted(
    fitting: Fitting,
    scratch: Path,
    start: np.random.SeedSequence,
    epochs: np.random.SeedSequence,
    spare_bytes: int,
    progress: Progress,
) -> tuple[NDArray[np.float32], NDArray[np.float32], History, Consensus | None]:
    """W, V and how they were found, of one start or of several."""
    if fitting.config.n_starts > 1:
        outcome = agree(fitting, scratch, start, epochs, spare_bytes, progress)
        return outcome.found.W, outcome.found.V, outcome.history, outcome.consensus
    state = _start(fitting, start)
    state, history = finish(fitting.by_step(state, epochs, scratch, progress))
    return state.W, state.V, history, None


def _start(fitting: Fitting, seed: np.random.SeedSequence) -> State:
    k = fitting.config.n_components
    if fitting.config.init == "nndsvd":
        return nndsvd_state(fitting.pack, fitting.problem, k, seed)
    return init_state(fitting.problem, k, seed)
