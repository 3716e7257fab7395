"""The mini-batches of an atlas, epoch after epoch."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from numbers import Integral
from typing import TYPE_CHECKING, Any, Literal

from numpy.typing import NDArray

from tigon.storage import slices
from tigon.storage.errors import InputError
from tigon.storage.minibatches.batch import MiniBatch
from tigon.storage.minibatches.device import cuda_number, upload
from tigon.storage.minibatches.genes import choose_genes
from tigon.storage.minibatches.memory import footprint
from tigon.storage.minibatches.plan import Plan
from tigon.storage.minibatches.portable import PortableMiniBatches
from tigon.storage.minibatches.strata import choose_strata
from tigon.storage.minibatches.stream import PIECE_CELLS, Memory, Reader
from tigon.storage.space import check_limit
from tigon.storage.views.reopening import reference

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from tigon.storage.atlas import Atlas
    from tigon.storage.minibatches.torch import SharedMiniBatches

BLOCK_CELLS = 256
"""Cells of a run: those of about three chunks, so that a quarter of what is decoded is unused."""

WINDOW_BLOCKS = 128
"""Runs in a window, so that labels which lie sorted cost their mini-batches 1/256 nat each."""


class MiniBatches:
    """Mini-batches of cells, drawn from the whole atlas; made by ``Atlas.minibatches``.

    Every cell is in one mini-batch of an epoch. Which cells are in which, and in what
    order, follows from the arguments and the atlas's cells alone: not from threads,
    from how the atlas is stored, or from ``memory_limit``.

    Parameters
    ----------
    atlas
        Must stay open. Its cells are read when they are iterated over.
    batch_size
        Cells of a mini-batch; the last of an epoch may have fewer.
    shuffle
        Whether cells come in random order, or in the atlas's.
    seed
        Of the random order.
    genes
        Names, positions or a mask of the genes wanted, which come in this order; None
        for all.
    memory_limit
        Bytes that reading may hold at once, the reader's caches and 24 bytes a cell of
        the atlas for the order of an epoch aside. Less is read ahead under a low limit.
    device
        "cpu", or "cuda" or "cuda:1" for mini-batches whose counts are CuPy arrays there.
    stratify
        What mini-batches are proportional over: a column of ``obs``, or a whole number
        for each cell, shape (n_cells,); None for the sources of the atlas. Without
        shuffling it changes no order.
    block_cells
        Consecutive cells that are drawn together. Fewer are more random and slower:
        every run costs the chunks that it touches.
    window_cells
        Cells that are shuffled in memory, a multiple of ``batch_size``; None for 128
        runs, or a little more.
    drop_last
        Whether a last mini-batch that is not full is left out.

    Raises
    ------
    InputError
        An option is out of range, or names genes or a column that are not there.
    MemoryLimitError
        A window of cells does not fit in ``memory_limit``.

    Notes
    -----
    An epoch is one pass over the atlas, in which a chunk is decoded once for every
    window that has cells of it. The memory of an epoch is kept for the next one, until
    the object and the mini-batches are gone.

    Iterating over the object gives the epochs 0, 1, 2, ... in turn, and keeps count
    of its place for ``state_dict``: after an iteration that was left early the next
    goes on there. :meth:`epoch` gives any epoch from any step and keeps no count.
    """

    def __init__(
        self,
        atlas: Atlas,
        batch_size: int = 4096,
        *,
        shuffle: bool = True,
        seed: int = 0,
        genes: Sequence[str] | NDArray[Any] | None = None,
        memory_limit: int | None = None,
        device: str = "cpu",
        stratify: str | NDArray[Any] | None = None,
        block_cells: int = BLOCK_CELLS,
        window_cells: int | None = None,
        drop_last: bool = False,
    ) -> None:
        _check(batch_size=(batch_size, 1), block_cells=(block_cells, 1), seed=(seed, 0))
        if window_cells is None:
            window_cells = batch_size * -(-WINDOW_BLOCKS * block_cells // batch_size)
        _check(window_cells=(window_cells, batch_size))
        if window_cells % batch_size:
            raise InputError(
                f"window_cells={window_cells}: it is a multiple of batch_size ({batch_size:,})"
            )
        self.plan = Plan(
            strata=choose_strata(atlas, stratify),
            batch_size=batch_size,
            shuffle=shuffle,
            seed=seed,
            block_cells=block_cells,
            window_cells=window_cells,
            drop_last=drop_last,
        )
        check_limit(memory_limit)
        self._cuda = cuda_number(device)
        self._reader = Reader(atlas, None if genes is None else choose_genes(atlas, genes))
        needed = footprint(atlas, batch_size, window_cells, PIECE_CELLS)
        self._pieces_ahead = needed.pieces_ahead(memory_limit)
        slices.load()  # now, as threads that read would wait for it
        # New memory is set to zero before it is given: a seventh of an epoch's work.
        self._memory = Memory()
        self._epoch = self._step = 0

    @property
    def n_genes(self) -> int:
        """Genes of every mini-batch."""
        return self._reader.n_genes

    def __len__(self) -> int:
        """Mini-batches of an epoch."""
        return self.plan.n_steps

    def epoch(
        self, epoch: int, start: int = 0, *, part: tuple[int, int] = (0, 1)
    ) -> Generator[MiniBatch]:
        """The mini-batches of an epoch.

        Parameters
        ----------
        epoch
            Its number, from 0.
        start
            Step to begin with. Only cells of this and later steps are read.
        part
            ``(i, n)`` for the i-th of n parts of the epoch (from 0): every n-th window
            of it. Parts have no cell in common and hold all cells together.

        Raises
        ------
        InputError
            There is no such epoch, step or part; or, as they are read, an entry is not
            a count or a file is damaged.

        Notes
        -----
        Windows are read ahead on two threads while one is in use. Close the generator,
        or drop it, to stop them early.
        """
        if epoch < 0 or not 0 <= start <= len(self) or not 0 <= part[0] < part[1]:
            raise InputError(
                f"epoch {epoch} from step {start}, part {part[0]} of {part[1]}, is not there: "
                f"epochs and parts begin with 0, and an epoch has {len(self):,} steps"
            )
        return self._stream(epoch, start, part)

    def _stream(self, epoch: int, start: int, part: tuple[int, int]) -> Generator[MiniBatch]:
        windows = self.plan.windows(epoch, start, part)
        with closing(self._reader.stream(windows, self._pieces_ahead, self._memory)) as found:
            for batch in found:
                yield batch if self._cuda is None else upload(batch, self._cuda)

    def __iter__(self) -> Iterator[MiniBatch]:
        """The next epoch, from the step that the state names."""
        for batch in self.epoch(self._epoch, self._step):
            # Before it is handed over: who saves the state has the mini-batch by then.
            self._step = batch.step + 1
            yield batch
        self._epoch, self._step = self._epoch + 1, 0

    def __repr__(self) -> str:
        plan = self.plan
        order = f"shuffled with seed {plan.seed}" if plan.shuffle else "in the atlas's order"
        return (
            f"MiniBatches of {plan.n_cells:,} cells x {self.n_genes:,} genes: {len(self):,} an "
            f"epoch, of {plan.batch_size:,} cells, {order}; next is epoch {self._epoch}, step "
            f"{self._step}"
        )

    def portable(self) -> PortableMiniBatches:
        """The mini-batches as an object that reads in any process it is sent to.

        Pickling it refuses atlases that Tigon did not write: a list of sources, say.
        """
        return PortableMiniBatches(reference(self._reader.atlas), self.plan, self._reader.genes)

    def delayed(self, epoch: int) -> list[Delayed]:
        """The mini-batches of an epoch as Dask tasks, one for each step."""
        from tigon.storage.minibatches.tasks import delayed_batches

        return delayed_batches(self.portable(), epoch)

    def torch_dataset(self, layout: Literal["csr", "dense"] = "csr") -> SharedMiniBatches:
        """The mini-batches as a ``torch.utils.data.IterableDataset``.

        Parameters
        ----------
        layout
            Of the tensors: "csr" or "dense", float32.

        Returns
        -------
        SharedMiniBatches
            For a DataLoader with ``batch_size=None`` and any number of workers; its
            method ``set_epoch`` chooses the epoch, 0 at first.
        """
        from tigon.storage.minibatches.torch import shared

        return shared(self, self.portable(), layout)

    def state_dict(self) -> dict[str, int | str]:
        """Where the iteration stands: the epoch and the step that come next."""
        return {"epoch": self._epoch, "step": self._step, "plan": self.plan.fingerprint()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where another iteration over the same mini-batches stood.

        Raises
        ------
        InputError
            The state is of other mini-batches: of other cells, or with other arguments.
        """
        if state["plan"] != self.plan.fingerprint():
            raise InputError(
                "the state is of other mini-batches: it needs the same cells and the same "
                "batch_size, shuffle, seed, stratify, block_cells, window_cells and drop_last"
            )
        self._epoch, self._step = int(state["epoch"]), int(state["step"])


def _check(**options: tuple[object, int]) -> None:
    for name, (value, least) in options.items():
        if not isinstance(value, Integral) or value < least:
            raise InputError(f"{name}={value!r}: it is a whole number of at least {least}")
