"""Where block Krylov iterations begin: the components of a sample, and random directions.

A sample of some thousand cells fits in memory and tells most of the leading directions, which
saves about three passes over all cells. What it misses, the random directions and the
probe find: a start never decides a result, only how many passes it takes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.pca.certificate import PROBES
from tigon.scaling.pca.config import PCAConfig
from tigon.scaling.pca.krylov import block_krylov, improved
from tigon.scaling.pca.operator import Operator

Float64 = NDArray[np.float64]

SAMPLE_PASSES = 5
"""Over the sample."""

RANDOM = 8
"""Random directions that a start has besides, at least."""


def start_of(operator: Operator, config: PCAConfig, seed: np.random.SeedSequence) -> Float64:
    """Directions to begin with, shape (m, l)."""
    chosen, random = map(np.random.default_rng, seed.spawn(2))
    held = operator.passes.sampled(chosen)
    n_cells, m = held.shape
    wanted = improved(config.n_components)
    n = min(wanted, n_cells - 1, m)
    # A sample of few cells has few directions: random ones make up for those that are wanted.
    n_others = max(RANDOM, wanted - max(n, 0))
    others = random.standard_normal((m, min(n_others, m)))
    if n < 1:
        return others
    drawn = random.standard_normal((m, min(improved(n), m)))
    probe = random.standard_normal((m, PROBES))
    of_sample = Operator(held, center=config.center, scale=config.scale)
    found = block_krylov(of_sample.product, drawn, probe, n, config.tol, SAMPLE_PASSES)
    return np.hstack([found.vectors, others])
