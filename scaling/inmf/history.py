"""What happened in the steps of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class History:
    """One entry a step, in equally long lists; a batch iteration is an epoch of one step.

    Attributes
    ----------
    epoch, step
        Counted from 0.
    n_seen
        Cells seen so far, over all epochs.
    loss
        The mini-batch's share of F before it was learnt from, per cell; of a batch iteration
        F, which is exact.
    fall
        By how much an iteration lowered F, relative to F; NaN for steps of mini-batches.
    residual
        How far W and V were from their best for the loadings of an iteration, relative to
        ``|X|`` (:mod:`tigon.scaling.inmf.improving`); NaN for steps of mini-batches.
    """

    epoch: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    n_seen: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    fall: list[float] = field(default_factory=list)
    residual: list[float] = field(default_factory=list)

    @property
    def n_epochs(self) -> int:
        """Epochs so far, batch iterations among them."""
        return self.epoch[-1] + 1 if self.epoch else 0

    def append(
        self,
        epoch: int,
        n_cells: int,
        loss: float,
        fall: float = np.nan,
        residual: float = np.nan,
    ) -> None:
        """Add a step of ``n_cells`` whose cells had a mean loss of ``loss``."""
        self.epoch.append(epoch)
        self.step.append(len(self.step))
        self.n_seen.append(n_cells + (self.n_seen[-1] if self.n_seen else 0))
        self.loss.append(loss)
        self.fall.append(fall)
        self.residual.append(residual)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The six columns as arrays, by name."""
        return {
            "epoch": np.asarray(self.epoch),
            "step": np.asarray(self.step),
            "n_seen": np.asarray(self.n_seen),
            "loss": np.asarray(self.loss),
            "fall": np.asarray(self.fall),
            "residual": np.asarray(self.residual),
        }
