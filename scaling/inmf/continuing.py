"""Scenario 2: cells that come after a fit refine it; the cells before are not read again.

The sums that earlier cells left are the base of the state (:mod:`tigon.scaling.inmf.state`):
they weigh in W as the cells themselves would with the loadings that they had. New datasets
start as in a fit, known ones keep their scale, and V_i of datasets at rest follow W through
their A_i and B_i. At the end exact sums of the new cells are added to the old ones, which
stay as they were, to the bit: metagenes are handed back in the sizes that they came in.

Genes are worked on in the order in which the new atlas has them; what comes back is in the
order of the model.
"""

from __future__ import annotations

import logging
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets
from tigon.scaling.inmf.arriving import Arrival
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.inmf.history import History
from tigon.scaling.inmf.improving import sweep_all
from tigon.scaling.inmf.known import Known
from tigon.scaling.inmf.rescaling import factor_sizes, rescale
from tigon.scaling.inmf.schedule import plan_schedule
from tigon.scaling.inmf.solving import Solution, solve_all
from tigon.scaling.inmf.state import Problem, State, empty_state
from tigon.scaling.inmf.training import train
from tigon.scaling.keeping import obtain_pack
from tigon.storage.progress import Progress, silent
from tigon.storage.scattering import WriteRows

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas
    from tigon.storage.packs.cache import PackCache

log = logging.getLogger("tigon")

N_SETTLING = 10
"""Sweeps over all metagenes after the last step, so that datasets at rest agree with W."""

_FIRST_SEED = 3
"""Children of the seed before it are those of the first fit."""


@dataclass(frozen=True, slots=True)
class Continued:
    """A fit that new cells have refined.

    Attributes
    ----------
    known
        Metagenes, and statistics over old and new cells.
    history
        The steps.
    n_unfinished
        New cells whose loadings did not reach the tolerance.
    """

    known: Known
    history: History
    n_unfinished: int


def continue_fit(
    atlas: Atlas,
    arrival: Arrival,
    known: Known,
    config: INMFConfig,
    number: int,
    scratch: Path,
    engine: ThreadEngine,
    write: WriteRows,
    progress: Progress = silent,
    cache: PackCache | None = None,
) -> Continued:
    """Refine a fit with new cells.

    Parameters
    ----------
    atlas, arrival
        The new cells and what the first pass found.
    known, config
        The fit and its options.
    number
        How many times the fit was continued before, and once more: new seeds for each.
    scratch
        An existing folder; a pack that is not kept is built below it.
    engine, progress
        Where it runs and who is told.
    write
        Called with atlas positions and final loadings, every new cell once.
    cache
        Where the pack is kept and looked for; None to write it below ``scratch``.

    Notes
    -----
    Reads the new cells alone: one pass over the atlas, then one over their pack per epoch
    and one more. A step costs what the datasets cost that its mini-batch touches. Holds 20 k m
    bytes for every dataset, and 8 k m more for a known one that has new cells.
    """
    names = tuple(dict.fromkeys([*known.names, *arrival.datasets.names]))
    genes = _gene_order(arrival, len(known.genes))
    lam = {**dict(zip(names, config.lam_of(names), strict=True)), **known.lam}
    problem = _problem(names, arrival, known, genes, np.array([lam[name] for name in names]))
    order, start, epochs = np.random.SeedSequence(
        config.random_state, spawn_key=(_FIRST_SEED + number - 1,)
    ).spawn(3)
    numbers = np.array([*map(names.index, arrival.datasets.names), -1], np.int32)
    everyone = Datasets(names, numbers[arrival.datasets.codes], problem.measured)
    pack = obtain_pack(
        atlas,
        everyone,
        arrival.statistics,
        arrival.genes,
        scratch / "pack",
        cache,
        engine,
        order,
        progress,
    )
    state = _start(names, known, problem, genes, start, engine)
    # Sums of cells that are not read weigh by their number: those of all new ones stand beside.
    schedule = replace(
        plan_schedule(config, arrival.n_cells, len(arrival.datasets.names)), rounds=1
    )
    with closing(pack):
        state, history = train(
            pack, scratch, problem, state, schedule, config, engine, epochs, progress
        )
        sweep_all(state, problem, N_SETTLING, engine)
        sizes = state.sizes.astype(np.float32)[:, None]
        W, V = state.W / sizes, state.V / sizes
        del state
        solution = solve_all(pack, problem, W, V, config.tol_final, engine, write, progress)
    found = _joined(names, known, arrival, problem, genes, W, V, solution)
    return Continued(found, history, solution.n_unfinished)


def _gene_order(arrival: Arrival, n_genes: int) -> NDArray[np.int64]:
    """Genes of the model as they are worked on, (m,): those of the atlas, then the others."""
    absent = np.setdiff1d(np.arange(n_genes), arrival.columns)
    return np.concatenate([arrival.columns, absent])


def _problem(
    names: tuple[str, ...],
    arrival: Arrival,
    known: Known,
    genes: NDArray[np.int64],
    lam: NDArray[np.float64],
) -> Problem:
    """Old datasets and new ones; n_cells are the new cells."""
    shape = (len(names), len(genes))
    measured, scale = np.zeros(shape, bool), np.zeros(shape)
    n_cells = np.zeros(len(names), np.int64)
    for i, name in enumerate(known.names):
        measured[i], scale[i] = known.measured[name], known.scale[name]
    here, own = arrival.measured(len(genes)), arrival.own_scale(len(genes))
    for a, name in enumerate(arrival.datasets.names):
        i = names.index(name)
        n_cells[i] = arrival.datasets.sizes[a]
        if name not in known.V:
            measured[i], scale[i] = here[a], own[a]
            continue
        lost = int((measured[i] & ~here[a]).sum())
        if lost:
            log.warning(
                "the new cells of %s lack %d of the %d genes that it was fitted with: the dataset "
                "goes on with the others",
                name,
                lost,
                int(measured[i].sum()),
            )
        measured[i] &= here[a]
        scale[i] *= measured[i]
    shared = None if known.shared is None else known.shared[genes]
    return Problem(n_cells, measured[:, genes], scale[:, genes], lam, shared)


def _start(
    names: tuple[str, ...],
    known: Known,
    problem: Problem,
    genes: NDArray[np.int64],
    seed: np.random.SeedSequence,
    engine: ThreadEngine,
) -> State:
    """The state before the first step: metagenes of size 1 and the bases."""
    rng = np.random.default_rng(seed)
    k, m = known.W.shape
    V = np.empty((len(names), k, m), np.float32)
    # New ones start as in a fit once metagenes have size 1, and at genes that are not shared
    # from zero: there V_i follows from the loadings.
    start = np.float32(0.1) * factor_sizes(known.W)[:, None]
    for i, name in enumerate(names):
        if name in known.V:
            V[i] = known.V[name][:, genes] * problem.measured[i]
        else:
            V[i] = rng.random((k, m), np.float32) * start * problem.informing[i]
    state = empty_state(problem, np.ascontiguousarray(known.W[:, genes]), V)
    for i, name in enumerate(known.names):
        state.A[i] = known.A[name]
        state.B[i] = known.B[name][:, genes] * problem.measured[i]
    continued = [i for i, name in enumerate(known.names) if problem.n_cells[i]]
    state = replace(
        state,
        continued=np.array(continued, np.int64),
        A_base=state.A[continued],
        B_base=state.B[continued],
    )
    rescale(state, problem, engine)
    return state


def _joined(
    names: tuple[str, ...],
    known: Known,
    arrival: Arrival,
    problem: Problem,
    genes: NDArray[np.int64],
    W: NDArray[np.float32],
    V: NDArray[np.float32],
    solution: Solution,
) -> Known:
    """Old and new together, genes in the order of the model."""
    back = np.argsort(genes)
    measured = dict(zip(names, problem.measured[:, back], strict=True))
    scale = dict(zip(names, problem.scale[:, back], strict=True))
    A, B, squares = dict(known.A), dict(known.B), dict(known.squares)
    n_cells = dict(known.n_cells)
    second = arrival.second_moments(len(genes))
    for a, name in enumerate(arrival.datasets.names):
        i = names.index(name)
        new_B, new_squares = solution.B[i][:, back], second[a] * scale[name] ** 2
        if name in known.V:
            A[name] = A[name] + solution.A[i]
            B[name] = B[name] * measured[name] + new_B
            squares[name] = squares[name] * measured[name] + new_squares
        else:
            A[name], B[name], squares[name] = solution.A[i], new_B, new_squares
        n_cells[name] = n_cells.get(name, 0) + int(problem.n_cells[i])
    return Known(
        genes=known.genes,
        W=np.ascontiguousarray(W[:, back]),
        V=dict(zip(names, np.ascontiguousarray(V[:, :, back]), strict=True)),
        A=A,
        B=B,
        measured=measured,
        scale=scale,
        squares=squares,
        n_cells=n_cells,
        lam=dict(zip(names, problem.lam_by_dataset.tolist(), strict=True)),
        merged={**known.merged, **arrival.merged},
        shared=known.shared,
    )
