"""What happened in the steps of a fit."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class History:
    """One entry a step, in equally long lists.

    Attributes
    ----------
    epoch, step
        Counted from 0.
    n_seen
        Cells seen so far, over all epochs.
    loss
        The mini-batch's share of F before it was learnt from, per cell.
    """

    epoch: list[int] = field(default_factory=list)
    step: list[int] = field(default_factory=list)
    n_seen: list[int] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)

    def append(self, epoch: int, n_cells: int, loss: float) -> None:
        """Add a step of ``n_cells`` whose cells had a mean loss of ``loss``."""
        self.epoch.append(epoch)
        self.step.append(len(self.step))
        self.n_seen.append(n_cells + (self.n_seen[-1] if self.n_seen else 0))
        self.loss.append(loss)

    def columns(self) -> dict[str, NDArray[Any]]:
        """The four columns as arrays, by name."""
        return {
            "epoch": np.asarray(self.epoch),
            "step": np.asarray(self.step),
            "n_seen": np.asarray(self.n_seen),
            "loss": np.asarray(self.loss),
        }
