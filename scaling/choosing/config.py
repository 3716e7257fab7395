"""Options of the choice of k and lambda."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tigon.scaling.checking import check_number, check_whole
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.preparing import PrepareConfig
from tigon.storage.errors import InputError

MINIBATCH_SIZE = 1000
"""Cells per step of the fits: they are compared, and so may be shorter than a fit to keep."""

MIXED_CELLS = 3000
"""Held-out cells of a fold whose mixing is scored at most."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ChooseConfig:
    """Options of a choice, checked when made.

    Parameters
    ----------
    k, lam
        Numbers of factors and values of lambda to compare; kept ascending, each once.
    n_cells
        Cells that are fitted, a sample where there are more.
    n_folds
        Parts of these cells that are held out in turn, each with a start of its own.
    hidden_share
        Share of the genes that are hidden of held-out cells.
    min_stability
        Mean stability of the factors that a setting needs to be recommended.
    prepare
        Which cells and genes take part.
    inmf
        Options of each fit, by online epochs from one random start; its k and lambda are those
        that are compared.
    n_threads
        Threads; the result does not depend on it.
    memory_limit_bytes
        Limit of the process tree; None for no limit.

    Raises
    ------
    InputError
        A value is out of its range.
    """

    k: Sequence[int]
    lam: Sequence[float] = (5.0,)
    n_cells: int = 50_000
    n_folds: int = 5
    hidden_share: float = 0.25
    min_stability: float = 0.6
    prepare: PrepareConfig = field(default_factory=PrepareConfig)
    inmf: INMFConfig = field(default_factory=lambda: INMFConfig(minibatch_size=MINIBATCH_SIZE))
    n_threads: int = 1
    memory_limit_bytes: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", _ascending("k", self.k, check_whole))
        object.__setattr__(self, "lam", _ascending("lam", self.lam, check_number))
        self._check_fits()
        for k in self.k:
            replace(self.inmf, n_components=k)
        for lam in self.lam:
            replace(self.inmf, lam=lam)
        for name, least in (("n_cells", 1), ("n_folds", 2)):
            value = getattr(self, name)
            check_whole(name, value)
            if value < least:
                raise InputError(
                    f"{name} is {value}: at least {least} is needed; set --{name.replace('_', '-')}"
                )
        for name in ("hidden_share", "min_stability"):
            value = getattr(self, name)
            check_number(name, value)
            if not 0 <= value <= 1 or (name == "hidden_share" and value in (0, 1)):
                raise InputError(
                    f"{name} is {value}: it lies between 0 and 1; set --{name.replace('_', '-')}"
                )

    def _check_fits(self) -> None:
        """Refuse options that fits which are compared have no use for."""
        for name in ("solver", "polish", "init", "n_starts", "lam_by_dataset"):
            value = getattr(self.inmf, name)
            if value != type(self.inmf).__dataclass_fields__[name].default:
                raise InputError(
                    f"{name} is {value!r}: settings are compared by online epochs from one random "
                    f"start, and one lambda for all; leave {name} out"
                )

    def check_cells(self, n_cells: int) -> None:
        """Refuse so few cells that a fold would hold next to none.

        Raises
        ------
        InputError
            There are fewer than ten cells a fold.
        """
        if n_cells < 10 * self.n_folds:
            raise InputError(
                f"{n_cells} cells are too few for {self.n_folds} folds: each needs 10; set "
                "--n-cells or --n-folds"
            )

    @property
    def largest(self) -> INMFConfig:
        """Options of the fit that takes most."""
        return replace(self.inmf, n_components=self.k[-1])

    @property
    def n_fits(self) -> int:
        """Fits of all settings and folds."""
        return len(self.k) * len(self.lam) * self.n_folds

    @property
    def seed(self) -> int:
        """Seed of everything that is drawn."""
        return self.inmf.random_state


def _ascending(name: str, values: Any, check: Any) -> tuple[Any, ...]:
    listed = [values] if not isinstance(values, Sequence) or isinstance(values, str) else values
    for value in listed:
        check(name, value)
    if not listed:
        raise InputError(f"no value of {name} is given: at least one is needed; set --{name}")
    return tuple(sorted(set(listed)))
