"""Options of iNMF."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

from tigon.scaling.checking import check_number, check_whole
from tigon.storage.errors import InputError

MIN_EPOCHS, MIN_SWEEPS = 5, 200
"""Of a fit of automatic length at least. A step of two sweeps counts twice, so that large steps
need no more epochs than small ones."""

MAX_EPOCHS, MAX_ITERATIONS = 60, 500
"""Where F has not settled by then, the fit ends all the same."""

CLUSTER_STALENESS = 7
"""On a cluster unless another is asked for, as benchmarks/bench_schedule.py measured it: what the
scheduler adds stays small beside what tasks compute, and F as it is."""


Solver = Literal["online", "batch"]
Init = Literal["random", "nndsvd"]


WholeOrAuto = int | Literal["auto"]


def usual_staleness(*, on_cluster: bool, solver: str = "online") -> int:
    """The staleness where none was given."""
    return CLUSTER_STALENESS if on_cluster and solver != "batch" else 0


_ONLINE = (
    "minibatch_size",
    "minibatches_per_task",
    "staleness",
    "n_sweeps",
    "polish",
    "tol_objective",
)
"""What the batch solver has no use for."""

_AS_BEFORE = ("minibatches_per_task", "n_sweeps")
"""Of these it takes 1, which was their default: old runs of the batch solver say so."""

_WHOLE = ("n_components", "minibatch_size", "staleness", "n_starts", "random_state")

_WHOLE_OR_AUTO = ("n_epochs", "polish", "minibatches_per_task", "n_sweeps")


@dataclass(frozen=True, kw_only=True, slots=True)
class INMFConfig:
    """Options of iNMF, checked when made.

    Parameters
    ----------
    n_components
        Number of factors k.
    lam
        Weight lambda of the dataset-specific part; larger means more alike.
    lam_by_dataset
        The lambda of datasets that have another one, by name; None for none.
    solver
        "online": mini-batches, each of which improves the metagenes; "batch": all cells are
        solved before the metagenes are improved.
    n_epochs
        Passes over the pack, or "auto": at least 5 epochs and 200 sweeps, then
        until an epoch lowers F by less than ``tol_objective``, at most 60; where epochs have
        rounds (:mod:`tigon.scaling.inmf.schedule`), one more then. Of the batch
        solver iterations at most; "auto" for 500.
    polish
        Batch iterations at most after the online epochs, "auto" for 500; 0 for none.
    minibatch_size
        Cells that are read at a time; never more than a tenth of the cells.
    minibatches_per_task
        Mini-batches that are solved against one version of the metagenes and make up
        one step; "auto" for one, from 500,000 cells on two to eight, and four to twelve where
        metagenes may be old, which gives a cluster's workers enough to do; there some steps
        have fewer, so that all have about as many.
    staleness
        How many steps old the metagenes may be that a mini-batch is solved against. On a
        cluster that many tasks more are under way; 0 waits for every one.
    n_sweeps
        HALS sweeps over W and every touched V_i in a step; "auto" for one, and two in steps of
        more than 10,000 cells and 500 of a dataset.
    tol
        Tolerance of the loadings while training, relative to the largest
        product of the cell (see ``tigon.kernels.cpu.descent``).
    tol_final
        The same for the loadings that are reported.
    tol_objective
        Relative decrease of F per epoch at which "auto" stops.
    tol_batch
        Relative decrease of F in a batch iteration that is the last.
    tol_residual
        Residual of W and V, relative to ``|X|``, at which an iteration is the last (see
        :func:`tigon.scaling.inmf.improving.residual`).
    init
        What W starts as: "random", or "nndsvd", from singular vectors of the first cells (see
        :mod:`tigon.scaling.inmf.nndsvd`).
    n_starts
        Seeded starts whose consensus is the result; 1 for the first alone.
    random_state
        Seed of everything that is drawn.
    """

    n_components: int = 20
    lam: float = 5.0
    lam_by_dataset: Mapping[str, float] | None = None
    solver: Solver = "online"
    n_epochs: WholeOrAuto = "auto"
    polish: WholeOrAuto = 0
    minibatch_size: int = 5000
    minibatches_per_task: WholeOrAuto = "auto"
    staleness: int = 0
    n_sweeps: WholeOrAuto = "auto"
    tol: float = 1e-3
    tol_final: float = 1e-5
    tol_objective: float = 1e-3
    tol_batch: float = 1e-6
    tol_residual: float = 1e-4
    init: Init = "random"
    n_starts: int = 1
    random_state: int = 0

    def __post_init__(self) -> None:
        self._check_types()
        for name in ("n_components", "minibatch_size", "n_starts"):
            _at_least(name, getattr(self, name), 1)
        for name in _WHOLE_OR_AUTO:
            if getattr(self, name) != "auto":
                _at_least(name, getattr(self, name), 0 if name == "polish" else 1)
        _at_least("staleness", self.staleness, 0)
        self._check_solver()
        self._check_init()
        _at_least("lam", self.lam, 0)
        self._check_lam_by_dataset()
        _at_least("random_state", self.random_state, 0)
        self._check_tolerances()

    @property
    def max_iterations(self) -> int:
        """Batch iterations at most, of the batch solver or after the epochs of the online one."""
        wanted = self.n_epochs if self.solver == "batch" else self.polish
        return MAX_ITERATIONS if wanted == "auto" else wanted

    def refining(self) -> Self:
        """Options for cells that come later: online epochs, whatever the fit itself was."""
        n_epochs = self.n_epochs if self.solver == "online" else "auto"
        return replace(self, solver="online", polish=0, n_epochs=n_epochs, n_starts=1)

    def lam_of(self, names: Sequence[str]) -> list[float]:
        """Lambda of each of the datasets of these names.

        Raises
        ------
        InputError
            One was given for a dataset that is not among them.
        """
        own = self.lam_by_dataset or {}
        unknown = sorted(set(own) - set(names))
        if unknown:
            raise InputError(
                f"lam was given for {unknown[0]!r}, which is no dataset: there are "
                f"{', '.join(map(str, names))}; name one of these with --lam NAME=VALUE"
            )
        return [float(own.get(name, self.lam)) for name in names]

    def _check_lam_by_dataset(self) -> None:
        if self.lam_by_dataset is None:
            return
        if not isinstance(self.lam_by_dataset, Mapping):
            raise InputError(
                f"lam_by_dataset is {self.lam_by_dataset!r}: it gives numbers by the names of "
                "datasets; set a dictionary such as {'donor1': 1.0}"
            )
        for name, value in self.lam_by_dataset.items():
            if not isinstance(name, str):
                raise InputError(f"lam_by_dataset names {name!r}: names are text; use quotes")
            check_number(f"lam of {name!r}", value)
            _at_least(f"lam of {name!r}", value, 0, "--lam")

    def _check_types(self) -> None:
        for name in _WHOLE:
            check_whole(name, getattr(self, name))
        for name in _WHOLE_OR_AUTO:
            if getattr(self, name) != "auto":
                check_whole(name, getattr(self, name), word="auto")
        for name in ("lam", "tol", "tol_final", "tol_objective", "tol_batch", "tol_residual"):
            check_number(name, getattr(self, name))

    def _check_solver(self) -> None:
        if self.solver not in get_args(Solver):
            raise InputError(
                f"solver is {self.solver!r}: there are {' and '.join(get_args(Solver))}; choose one"
            )
        if self.solver == "online":
            return
        for name in _ONLINE:
            value = getattr(self, name)
            is_old = name in _AS_BEFORE and value == 1
            if value != type(self).__dataclass_fields__[name].default and not is_old:
                raise InputError(
                    f"{name} is {value}, with the batch solver: only the online one, whose steps "
                    f"are mini-batches, has a use for it; leave {name} out or set --solver online"
                )

    def _check_init(self) -> None:
        if self.init not in get_args(Init):
            raise InputError(
                f"init is {self.init!r}: there are {' and '.join(get_args(Init))}; choose one"
            )
        if self.init != "random" and self.n_starts > 1:
            raise InputError(
                f"init is {self.init!r} with {self.n_starts} starts: they would all begin with the "
                "same metagenes; leave out init or n_starts"
            )

    def _check_tolerances(self) -> None:
        for name in ("tol", "tol_final"):
            if not 1e-5 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}: float32 loadings allow 1e-5 up to 1; "
                    "1e-3 is fast, 1e-5 is tight"
                )
        for name, default in (("tol_objective", 1e-3), ("tol_batch", 1e-6), ("tol_residual", 1e-4)):
            if not 0 <= getattr(self, name) < 1:
                raise InputError(
                    f"{name} is {getattr(self, name)}: it lies between 0 and 1; try {default:g}"
                )


def _at_least(name: str, value: float, limit: int, option: str = "") -> None:
    option = option or "--" + name.replace("_", "-")
    if not value >= limit or value == float("inf"):
        raise InputError(f"{name} is {value}: it must be finite and at least {limit}; set {option}")
