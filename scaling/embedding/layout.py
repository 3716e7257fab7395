"""A picture of the cells in two dimensions: UMAP from neighbours already found.

References
----------
McInnes, Healy, Melville (2018), arXiv:1802.03426.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.neighbors import Neighbors
from tigon.storage.progress import Progress, silent

N_EPOCHS_OF_FEW, N_EPOCHS, _FEW_CELLS = 500, 200, 10_000
"""Epochs of up to 10,000 cells, and of more, as umap-learn has it."""

_STAGE = "layout (epochs)"

_SPREAD = 1.0
_JITTER = 1e-4
"""Noise on the start, relative to its extent; parts cells that coincide."""


def umap_layout(
    points: NDArray[np.float32],
    near: Neighbors,
    *,
    seed: int,
    min_dist: float = 0.1,
    n_epochs: int | None = None,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Coordinates of the cells, float32, shape (n, 2), centred.

    Parameters
    ----------
    points
        Cells, float32, shape (n, k).
    near
        Their nearest neighbours, without themselves.
    seed
        Decides the sampling of pairs.
    min_dist
        Least distance of cells in the layout.
    n_epochs
        Epochs; None for 500 up to 10,000 cells, 200 above.
    progress
        Told of the epochs; in a notebook, where umap-learn's own bar would stand beside, of
        the first and the last.

    Notes
    -----
    Starts from the two first principal components, which no graph can upset.
    One thread: UMAP's result is not reproducible on several.
    """
    if not len(points):
        return np.empty((0, 2), dtype=np.float32)
    start = principal_start(points, seed)
    if len(points) < 4:  # nothing to arrange
        return start
    from umap.umap_ import find_ab_params, fuzzy_simplicial_set, simplicial_set_embedding

    _keep_what_is_compiled()
    n = len(points)
    total = n_epochs or (N_EPOCHS_OF_FEW if n <= _FEW_CELLS else N_EPOCHS)
    told = _Told(progress, total)
    indices = np.column_stack([np.arange(n, dtype=np.int32), near.indices])
    distances = np.column_stack([np.zeros(n, dtype=np.float32), near.distances])
    generator = np.random.RandomState(seed)
    graph, _, _ = fuzzy_simplicial_set(
        points, indices.shape[1], generator, "euclidean", knn_indices=indices, knn_dists=distances
    )
    a, b = find_ab_params(_SPREAD, min_dist)
    layout, _ = simplicial_set_embedding(
        points,
        graph,
        n_components=2,
        initial_alpha=1.0,
        a=a,
        b=b,
        gamma=1.0,
        negative_sample_rate=5,
        n_epochs=total,
        init=start,
        random_state=generator,
        metric="euclidean",
        metric_kwds={},
        densmap=False,
        densmap_kwds={},
        output_dens=False,
        tqdm_kwds=told.options(),
    )
    told.end()
    centred: NDArray[np.float32] = (layout - layout.mean(axis=0)).astype(np.float32)
    return centred


def _keep_what_is_compiled() -> None:
    """Have Numba keep what it compiles of umap-learn's graph, which takes seconds, on disk.

    As for our own kernels: umap-learn leaves it to every process.
    """
    from umap.umap_ import compute_membership_strengths, smooth_knn_dist

    for kernel in (smooth_knn_dist, compute_membership_strengths):
        # There is no place that can be written to; or nothing is compiled at all.
        with suppress(RuntimeError, AttributeError):
            kernel.enable_caching()


def principal_start(points: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """The two first principal components and a little noise, float32, shape (n, 2)."""
    centred = points.astype(np.float64) - points.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    leading = axes[:, ::-1][:, :2]
    leading = leading * np.sign(leading[np.abs(leading).argmax(axis=0), range(leading.shape[1])])
    start = np.zeros((len(points), 2))
    start[:, : leading.shape[1]] = centred @ leading
    extent = max(float(np.ptp(start)), _JITTER)
    start += np.random.default_rng(seed).normal(scale=_JITTER * extent, size=start.shape)
    return start.astype(np.float32)


class _Told:
    """The file that umap-learn writes its bar to, which tells of its epochs instead.

    It is written to while tqdm holds a lock of all bars, which an error would leave locked:
    what goes wrong in telling is raised at the end.

    Parameters
    ----------
    progress
        Who is told; at once of the first epoch, which begins with a graph and with compiling.
    total
        Epochs.
    """

    def __init__(self, progress: Progress, total: int) -> None:
        self._progress, self._total, self._done = progress, total, 0
        self._error: BaseException | None = None
        progress(_STAGE, 0, total)

    def options(self) -> dict[str, Any]:
        """What tqdm is given."""
        from tqdm.auto import tqdm

        if any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__):
            return {"disable": True}
        return {"disable": False, "file": self, "bar_format": "{n}", "mininterval": 0.1}

    def write(self, text: str) -> None:
        """A bar, that is the number of epochs done, or what tqdm writes to clear it."""
        done = int(text) if text.strip().isdigit() else self._done
        if done > self._done and self._error is None:
            self._done = done
            try:
                self._progress(_STAGE, done, self._total)
            except BaseException as error:
                self._error = error

    def flush(self) -> None:
        """Nothing is held back."""

    def end(self) -> None:
        """The last epoch is done.

        Raises
        ------
        BaseException
            What was raised by whoever was told.
        """
        if self._error is not None:
            raise self._error
        if self._done < self._total:
            self._progress(_STAGE, self._total, self._total)
