"""Epochs of online factorisation over counts that stay on the GPU, or are streamed to it.

Both launch the same steps on the same cells in the same order, and end with
the same bits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.gpu.minibatch import DeviceTile
from tigon.kernels.gpu.online import OnlineSteps, Part
from tigon.kernels.gpu.resident import TileStream, fits, to_device
from tigon.kernels.tile import CellTile

if TYPE_CHECKING:
    import cupy


@dataclass(frozen=True, slots=True)
class HostPart:
    """The cells of one dataset in a mini-batch, as NumPy arrays.

    Attributes
    ----------
    dataset
        Its number.
    tile
        Its counts.
    """

    dataset: int
    tile: CellTile

    @property
    def nnz(self) -> int:
        """Non-zeros of the tile's cells."""
        return int(np.diff(self.tile.indptr)[self.tile.rows].sum())


class ResidentEpochs:
    """Epochs over mini-batches that stay on the device.

    The first is launched step by step, which compiles what it needs; the second
    is captured as one CUDA graph, and it and all later ones replay that.

    Parameters
    ----------
    steps
        What a step does.
    minibatches
        Their parts, in order; the same in every epoch. A dataset stands at most
        once in a mini-batch.
    """

    def __init__(self, steps: OnlineSteps, minibatches: Sequence[Sequence[Part]]) -> None:
        import cupy

        self._steps = steps
        self._minibatches = minibatches
        self._stream = cupy.cuda.Stream(non_blocking=True)
        self._n_done = 0
        self._graph: Any = None

    @property
    def loadings(self) -> list[list[cupy.ndarray]]:
        """H of every part, float32, shape (n, k), as the last epoch left it."""
        return [[part.H for part in parts] for parts in self._minibatches]

    def run(self) -> NDArray[np.float64]:
        """One epoch; its |X|^2, F as cells were seen, unfinished cells: float64, shape (3,)."""
        import cupy

        self._stream.wait_event(cupy.cuda.get_current_stream().record())
        with self._stream:
            if self._n_done == 0:
                self._launch()
            else:
                self._replay()
        self._stream.synchronize()
        self._n_done += 1
        return np.asarray(cupy.asnumpy(self._steps.state.figures))

    def _launch(self) -> None:
        self._steps.begin_epoch()
        for parts in self._minibatches:
            self._steps.step(parts)

    def _replay(self) -> None:
        if self._graph is None:
            self._stream.begin_capture()
            self._launch()
            self._graph = self._stream.end_capture()
        self._graph.launch(self._stream)


class StreamedEpochs:
    """Epochs over mini-batches that lie in host memory; loadings stay on the device.

    Parameters
    ----------
    steps, minibatches
        As for :class:`ResidentEpochs`, on the host.
    """

    def __init__(self, steps: OnlineSteps, minibatches: Sequence[Sequence[HostPart]]) -> None:
        import cupy

        self._steps = steps
        self._minibatches = minibatches
        parts = [part for some in minibatches for part in some]
        k = len(steps.state.W)
        self.loadings = [
            [cupy.zeros((len(part.tile.rows), k), np.float32) for part in some]
            for some in minibatches
        ]
        self._nnz = {id(part): part.nnz for part in parts}
        self._stream = TileStream(
            max(len(part.tile.rows) for part in parts),
            max(self._nnz.values()),
            parts[0].tile.genes.dtype,
            parts[0].tile.counts.dtype,
        )

    def run(self) -> NDArray[np.float64]:
        """As :meth:`ResidentEpochs.run`."""
        import cupy

        self._steps.begin_epoch()
        arriving = self._stream(part.tile for some in self._minibatches for part in some)
        for some, loadings in zip(self._minibatches, self.loadings, strict=True):
            for part, H in zip(some, loadings, strict=True):
                self._take_in(part, arriving, H)
            self._steps.improve([part.dataset for part in some])
        for _ in arriving:
            raise AssertionError("more tiles than parts")
        return np.asarray(cupy.asnumpy(self._steps.state.figures))

    def _take_in(self, part: HostPart, arriving: Iterator[CellTile], H: cupy.ndarray) -> None:
        scale = self._steps.state.scale[part.dataset]
        tile = DeviceTile.of(next(arriving), scale, self._nnz[id(part)])
        self._steps.take_in(Part(part.dataset, tile, H))


def epochs_over(
    steps: OnlineSteps, minibatches: Sequence[Sequence[HostPart]]
) -> ResidentEpochs | StreamedEpochs:
    """Epochs over counts in host memory: kept on the device if they fit, else streamed.

    Parameters
    ----------
    steps, minibatches
        As for :class:`StreamedEpochs`.
    """
    import cupy

    parts = [part for some in minibatches for part in some]
    nnz, n_cells = sum(part.nnz for part in parts), sum(len(part.tile.rows) for part in parts)
    state, k = steps.state, len(steps.state.W)
    if not fits(nnz, n_cells, k):
        return StreamedEpochs(steps, minibatches)

    def resident(part: HostPart) -> Part:
        tile = DeviceTile.of(to_device(part.tile), state.scale[part.dataset], part.nnz)
        return Part(part.dataset, tile, cupy.zeros((len(part.tile.rows), k), np.float32))

    return ResidentEpochs(steps, [[resident(part) for part in some] for some in minibatches])
