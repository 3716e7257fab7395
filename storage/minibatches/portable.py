"""Mini-batches that travel: to Dask's and torch's workers, which open the atlas again."""

from __future__ import annotations

from dataclasses import dataclass

from tigon.storage.minibatches.batch import MiniBatch
from tigon.storage.minibatches.genes import Genes
from tigon.storage.minibatches.plan import Plan
from tigon.storage.minibatches.stream import Reader
from tigon.storage.views.reopening import AtlasReference


@dataclass(frozen=True, eq=False)
class PortableMiniBatches:
    """A plan and where its cells are; reads in any process that it is sent to.

    Attributes
    ----------
    atlas
        How a process gets at the atlas. Of atlases that Tigon wrote each process opens
        its own, once; others cannot be sent, and pickling refuses.
    plan
        Which cells are in which mini-batch.
    genes
        Those kept; None for all.
    """

    atlas: AtlasReference
    plan: Plan
    genes: Genes | None

    def reader(self) -> Reader:
        """Reads windows of the plan in this process.

        Raises
        ------
        InputError
            The atlas is no longer what it was when the mini-batches were planned.
        """
        return Reader(self.atlas.get(), self.genes)

    def read(self, step: int, epoch: int = 0) -> MiniBatch:
        """One mini-batch.

        Notes
        -----
        Its cells lie all over the atlas: reading a whole window costs little more than
        one of its mini-batches.
        """
        number, place = divmod(step, self.plan.window_steps)
        window = self.plan.window(epoch, number)
        return self.reader().read(window.steps(place, place + 1))[0]

    def read_window(self, epoch: int, number: int) -> list[MiniBatch]:
        """All mini-batches of a window."""
        return self.reader().read(self.plan.window(epoch, number))
