"""Options of a decomposition."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from tigon.scaling.checking import check_number, check_switch, check_whole
from tigon.storage.errors import InputError

Solver = Literal["auto", "gram", "krylov"]

GRAM_GENES = 4096
"""Up to so many genes the Gram matrix is summed: 8 m^2 bytes, 128 MiB."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PCAConfig:
    """Options of a decomposition, checked when made.

    Parameters
    ----------
    n_components
        How many components.
    solver
        "gram", one pass and exact; "krylov", any number of genes; "auto".
    center
        Whether each gene's mean is subtracted, implicitly.
    scale
        Whether genes are divided by their standard deviation (n - 1). One that is constant is
        left as it is.
    target_sum
        What the counts of a cell are scaled to add up to, over all genes; None for as they are.
    log1p
        Whether log(1 + x) is taken then.
    tol
        Residual of every component at which block Krylov iterations stop, relative to its own
        singular value: |A^T u - sigma v| <= tol sigma. They go on until no more than a
        thousandth of the explained variance is still to come, as the last passes tell.
    max_passes
        Passes of block Krylov iterations at most.
    random_state
        Seed of the start and of the probe.
    """

    n_components: int = 50
    solver: Solver = "auto"
    center: bool = True
    scale: bool = False
    target_sum: float | None = None
    log1p: bool = False
    tol: float = 0.07
    max_passes: int = 20
    random_state: int = 0

    def __post_init__(self) -> None:
        for name in ("n_components", "max_passes", "random_state"):
            check_whole(name, getattr(self, name))
        for name in ("center", "scale", "log1p"):
            check_switch(name, getattr(self, name))
        if self.n_components < 1:
            raise InputError(f"n_components is {self.n_components}: at least 1 is needed")
        if self.max_passes < 2:
            raise InputError(
                f"max_passes is {self.max_passes}: the certificate needs at least 2 passes"
            )
        if self.random_state < 0:
            raise InputError(f"random_state is {self.random_state}: seeds are 0 or above")
        if self.solver not in ("auto", "gram", "krylov"):
            raise InputError(f"solver is {self.solver!r}: the choices are auto, gram and krylov")
        self._check_ranges()

    def _check_ranges(self) -> None:
        check_number("tol", self.tol)
        if not 0 < self.tol < 1:
            raise InputError(f"tol is {self.tol}: it is a relative residual between 0 and 1")
        if self.target_sum is not None:
            check_number("target_sum", self.target_sum)
            if not (np.isfinite(self.target_sum) and self.target_sum > 0):
                raise InputError(
                    f"target_sum is {self.target_sum}: a number above zero is needed, or None"
                )

    def check_shape(self, n_cells: int, n_genes: int) -> None:
        """Refuse more components than there can be.

        Raises
        ------
        InputError
            There are fewer than ``n_components + 1`` cells or genes; of a truncated singular
            value decomposition, which does not centre, fewer than ``n_components``.
        """
        lost = 1 if self.center else 0
        most = min(n_cells, n_genes) - lost
        shape = f"{_counted(n_cells, 'cell')} and {_counted(n_genes, 'gene')}"
        if most < 1:
            raise InputError(
                f"{shape} have no components: at least {lost + 1} of each are needed; take more"
            )
        if self.n_components > most:
            raise InputError(
                f"{self.n_components:,} components of {shape} are too many: at most {most:,} can "
                f"be found; set --n-components {most} or less"
            )

    def solver_for(self, n_genes: int) -> tuple[Solver, str]:
        """The solver, and why it."""
        if self.solver != "auto":
            return self.solver, "asked for"
        gram_mib = 8 * n_genes**2 >> 20
        if n_genes <= GRAM_GENES:
            return "gram", (
                f"{n_genes:,} genes are few: their Gram matrix takes {gram_mib} MiB, one pass is "
                "exact"
            )
        return "krylov", (
            f"{n_genes:,} genes are many: their Gram matrix would take {gram_mib:,} MiB"
        )


def _counted(n: int, word: str) -> str:
    return f"{n:,} {word}{'' if n == 1 else 's'}"
