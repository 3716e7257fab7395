"""A picture of the cells in two dimensions: t-SNE from neighbours already found.

References
----------
van der Maaten, Hinton (2008), Journal of Machine Learning Research 9, 2579.
Policar, Strazar, Zupan (2024), Journal of Statistical Software 109(3), doi:10.18637/jss.v109.i03.
Kobak, Berens (2019), Nature Communications 10, 5416, doi:10.1038/s41467-019-13056-x (the start).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.embedding.layout import principal_start
from tigon.scaling.embedding.neighbors import Neighbors
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent

NEIGHBORS_PER_PERPLEXITY = 3
"""Cells farther away than the nearest so many times the perplexity have no affinity to speak of."""

N_EPOCHS = 750
"""A third of them with exaggeration, as openTSNE has it."""

_EXAGGERATION = 12.0
_START_DEVIATION = 1e-4
"""Standard deviation of the first coordinate at the start: small, so that cells can move."""

_TOLD_EVERY = 10


def tsne_layout(
    points: NDArray[np.float32],
    near: Neighbors,
    *,
    seed: int,
    perplexity: float = 30.0,
    n_epochs: int | None = None,
    n_threads: int = 1,
    progress: Progress = silent,
) -> NDArray[np.float32]:
    """Coordinates of the cells, float32, shape (n, 2), centred.

    Parameters
    ----------
    points
        Cells, float32, shape (n, k).
    near
        Their nearest neighbours, without themselves: three times the perplexity.
    seed
        Decides the noise on the start.
    perplexity
        How many cells each is near to, in the measure of its affinities.
    n_epochs
        Epochs; None for 750. The first third of them is with exaggeration.
    n_threads
        Threads; the coordinates do not depend on it.
    progress
        Told of the epochs.

    Raises
    ------
    InputError
        openTSNE is not installed.

    Notes
    -----
    Starts from the two first principal components. Threads share out cells, each of which has
    its sums to itself; only the divergence that is told is summed over threads.
    """
    start = principal_start(points, seed).astype(np.float64) if len(points) else np.empty((0, 2))
    if len(points) < 4:  # nothing to arrange
        return start.astype(np.float32)
    tsne = load_opentsne()
    affinities = tsne.affinity.PerplexityBasedNN(
        perplexity=perplexity,
        knn_index=tsne.nearest_neighbors.PrecomputedNeighbors(near.indices, near.distances),
        n_jobs=n_threads,
    )
    total = N_EPOCHS if n_epochs is None else n_epochs
    done = 0
    progress("layout (epochs)", 0, total)

    def tell(_: int, divergence: float, __: NDArray[np.float64]) -> bool:
        nonlocal done
        done += _TOLD_EVERY
        progress("layout (epochs)", min(done, total), total, KL=float(divergence))
        return False

    layout = tsne.TSNEEmbedding(
        start * (_START_DEVIATION / float(start[:, 0].std())),  # the start has noise: never 0
        affinities,
        random_state=seed,
        n_jobs=n_threads,
        callbacks=tell,
        callbacks_every_iters=_TOLD_EVERY,
    )
    n_exaggerated = total // 3
    layout.optimize(n_exaggerated, exaggeration=_EXAGGERATION, inplace=True)
    layout.optimize(total - n_exaggerated, inplace=True)
    if done < total:  # the last ones were too few to be told of
        progress("layout (epochs)", total, total)
    found = np.asarray(layout)
    centred: NDArray[np.float32] = (found - found.mean(axis=0)).astype(np.float32)
    return centred


def load_opentsne() -> Any:
    """openTSNE, with its affinities and neighbours.

    Raises
    ------
    InputError
        It is not installed.
    """
    try:
        import openTSNE
        import openTSNE.affinity
        import openTSNE.nearest_neighbors
    except ImportError as error:
        raise InputError(
            f"openTSNE is not installed ({error.name}): it is an extra of Tigon; install "
            "tigon[tsne], or take --method umap"
        ) from error
    return openTSNE
