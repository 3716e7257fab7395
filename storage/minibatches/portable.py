"""Mini-batches that travel: to Dask's and torch's workers, which open the atlas again."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from tigon.storage.errors import InputError
from tigon.storage.minibatches.batch import MiniBatch
from tigon.storage.minibatches.genes import Genes
from tigon.storage.minibatches.plan import Plan
from tigon.storage.minibatches.stream import Reader
from tigon.storage.opening import open_atlas

if TYPE_CHECKING:
    from tigon.storage.atlas import Atlas

_PROBE_CELLS = 16


@dataclass(frozen=True, eq=False)
class PortableMiniBatches:
    """A plan and where its cells are; pickles, and reads in any process.

    Attributes
    ----------
    path
        Path or URL of the atlas. A process opens it once, and keeps it open.
    probe
        What tells the atlas from another at the same place.
    plan
        Which cells are in which mini-batch.
    genes
        Those kept; None for all.
    """

    path: str
    probe: str
    plan: Plan
    genes: Genes | None

    @classmethod
    def of(cls, atlas: Atlas, plan: Plan, genes: Genes | None) -> PortableMiniBatches:
        """The mini-batches of an open atlas.

        Raises
        ------
        InputError
            The atlas is not in one place that can be opened again.
        """
        if atlas.path is None:
            raise InputError(
                "the atlas is a list of sources or in memory: other processes cannot open it; "
                "write it as one atlas with tigon ingest first"
            )
        is_url = "://" in atlas.path
        path = atlas.path if is_url else os.path.abspath(atlas.path)  # noqa: PTH100
        return cls(path, _probe(atlas), plan, genes)

    def reader(self) -> Reader:
        """Reads windows of the plan in this process.

        Raises
        ------
        InputError
            There is another atlas at the path than there was, or it was opened with
            options (a layer, say) that a worker does not know.
        """
        # By process: what a fork inherits must not be used.
        atlas, probe = _opened(self.path, os.getpid())
        if probe != self.probe:
            raise InputError(
                f"{self.path}: opened again it holds other counts: it changed, or it was opened "
                "with options; write it as an atlas with tigon ingest and open that"
            )
        return Reader(atlas, self.genes)

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


@lru_cache(maxsize=4)
def _opened(path: str, process: int) -> tuple[Atlas, str]:
    atlas = open_atlas(path)
    return atlas, _probe(atlas)


def _probe(atlas: Atlas) -> str:
    """A name for the atlas: shape, types, sources and the counts of a few cells."""
    known = (atlas.shape, atlas.values_dtype.str, atlas.source_names, atlas.n_nonzeros)
    digest = hashlib.blake2b(repr(known).encode(), digest_size=16)
    first = np.unique(np.linspace(0, atlas.n_cells - 1, _PROBE_CELLS, dtype=np.int64))
    rows = atlas.read_runs(np.stack([first, first + 1], axis=1))
    for array in (rows.indptr, rows.indices, rows.values):
        digest.update(array.tobytes())
    return digest.hexdigest()
