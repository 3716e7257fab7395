"""Options of online iNMF."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tigon.scaling.checking import check_number, check_whole
from tigon.storage.errors import InputError

MIN_EPOCHS = 5
MIN_STEPS = 200
MAX_EPOCHS = 60

CLUSTER_MINIBATCHES_PER_TASK = 4
CLUSTER_STALENESS = 7
"""The schedule on a cluster unless another is asked for, as benchmarks/bench_schedule.py
measured it: what the scheduler adds stays small beside what tasks compute, and F as it is."""


def schedule_options(*, on_cluster: bool) -> dict[str, int]:
    """The two options of the schedule, where they were not given."""
    if not on_cluster:
        return {"minibatches_per_task": 1, "staleness": 0}
    return {
        "minibatches_per_task": CLUSTER_MINIBATCHES_PER_TASK,
        "staleness": CLUSTER_STALENESS,
    }


_WHOLE = (
    "n_components",
    "minibatch_size",
    "minibatches_per_task",
    "staleness",
    "n_sweeps",
    "random_state",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class INMFConfig:
    """Options of online iNMF, checked when made.

    Parameters
    ----------
    n_components
        Number of factors k.
    lam
        Weight lambda of the dataset-specific part; larger means more alike.
    n_epochs
        Passes over the pack, or "auto": at least 5 epochs and 200 steps, then
        until an epoch lowers F by less than ``tol_objective``, at most 60.
    minibatch_size
        Cells per step; never more than a tenth of the cells.
    minibatches_per_task
        Mini-batches that are solved against one version of the metagenes and make up
        one step; 1 is best, more give a cluster's workers enough to do.
    staleness
        How many steps old the metagenes may be that a mini-batch is solved against. On a
        cluster that many tasks more are under way; 0 waits for every one.
    n_sweeps
        HALS sweeps over W and every touched V_i in a step.
    tol
        Tolerance of the loadings while training, relative to the largest
        product of the cell (see ``tigon.kernels.cpu.descent``).
    tol_final
        The same for the loadings that are reported.
    tol_objective
        Relative decrease of F per epoch at which "auto" stops.
    random_state
        Seed of everything that is drawn.
    """

    n_components: int = 20
    lam: float = 5.0
    n_epochs: int | Literal["auto"] = "auto"
    minibatch_size: int = 5000
    minibatches_per_task: int = 1
    staleness: int = 0
    n_sweeps: int = 1
    tol: float = 1e-3
    tol_final: float = 1e-5
    tol_objective: float = 1e-3
    random_state: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("n_components", "minibatch_size", "minibatches_per_task", "n_sweeps"):
            _at_least(name, getattr(self, name), 1)
        _at_least("staleness", self.staleness, 0)
        if self.n_epochs != "auto":
            _at_least("n_epochs", self.n_epochs, 1)
        _at_least("lam", self.lam, 0)
        _at_least("random_state", self.random_state, 0)
        self._check_tolerances()

    def _check_types(self) -> None:
        for name in _WHOLE:
            check_whole(name, getattr(self, name))
        if self.n_epochs != "auto":
            check_whole("n_epochs", self.n_epochs, word="auto")
        for name in ("lam", "tol", "tol_final", "tol_objective"):
            check_number(name, getattr(self, name))

    def _check_tolerances(self) -> None:
        for name in ("tol", "tol_final"):
            if not 1e-5 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}: float32 loadings allow 1e-5 up to 1; "
                    "1e-3 is fast, 1e-5 is tight"
                )
        if not 0 <= self.tol_objective < 1:
            raise InputError(
                f"tol_objective is {self.tol_objective}: it lies between 0 and 1; try 1e-3"
            )


def _at_least(name: str, value: float, limit: int) -> None:
    option = "--" + name.replace("_", "-")
    if not value >= limit or value == float("inf"):
        raise InputError(f"{name} is {value}: it must be finite and at least {limit}; set {option}")
