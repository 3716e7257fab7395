"""What several starts have in common: factors matched, medians taken, stability told.

The factors of start s, l_sj (m), are the rows of the mean metagenes

    L_g = W_g + sum_i n_i V_ig / sum_i n_i,   over the datasets i that measure gene g:

what a cell that loads on the factor looks like on average. Neither W nor V_i alone is
told by the data, since the penalty decides how a common part is shared out between them;
their sum is. Each l_sj is brought to length 1, which the objective leaves open.

Factors are put into k clusters of one factor of every start: starting from the start
that agrees best with all others, each start is matched one to one to the medoids
(Hungarian method, largest sum of cosines) and each cluster's medoid, the member of
largest summed cosine to the others, is found anew, until nothing changes.

- The stability of a cluster is the mean cosine of two of its members.
- A member whose nearest factors of all starts are far (mean distance to 0.3 N of them
  above 0.5, as in consensus NMF) is left out of the median.
- The consensus is the median of W and of every V_i over the members of a cluster, each
  in units in which l_sj has length 1.

Invariant: no draw is made, and the order of starts matters in ties only.

References
----------
Kotliar et al. (2019), doi:10.7554/eLife.43803 (consensus, the density of factors); Kuhn
(1955), doi:10.1002/nav.3800020109 (the matching).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tigon.scaling.inmf.state import Problem

NEAR_SHARE = 0.3
"""Nearest factors that tell a factor's density, as a share of the starts."""

FAR = 0.5
"""Mean distance to them beyond which a factor is an outlier; two unit vectors of cosine
0.875 are so far apart."""

_MOST_ROUNDS = 100


@dataclass(frozen=True, slots=True)
class Metagenes:
    """W and V of one start.

    Attributes
    ----------
    W, V
        Float32, shapes (k, m) and (d, k, m).
    """

    W: NDArray[np.float32]
    V: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Clusters:
    """Factors of all starts, clustered.

    Attributes
    ----------
    members
        Factor of each start in each cluster, int64, shape (n_starts, k).
    kept
        Whether it takes part in the median, bool, shape (n_starts, k).
    stability
        Mean cosine of two members of a cluster, float64, shape (k,); 1 for one start.
    """

    members: NDArray[np.int64]
    kept: NDArray[np.bool_]
    stability: NDArray[np.float64]


def mean_metagenes(problem: Problem, found: Metagenes) -> NDArray[np.float64]:
    """W and the mean of V over cells, float64, shape (k, m)."""
    cells = problem.n_cells[:, None] * problem.measured.astype(np.float64)
    weight = cells / np.maximum(cells.sum(axis=0), 1.0)
    L = found.W.astype(np.float64)
    for V, of_dataset in zip(found.V, weight, strict=True):
        L += V * of_dataset
    return L


def unit_rows(L: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Rows at length 1, shape (k, m), and what they were divided by, (k,); zero stays zero."""
    lengths = np.sqrt(np.square(L).sum(axis=1))
    lengths[lengths == 0.0] = 1.0
    return L / lengths[:, None], lengths


def matched(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.int64]:
    """Row of ``other`` for each row of ``one``, int64, (k,): largest sum of products."""
    columns: NDArray[np.int64] = linear_sum_assignment(products(one, other), maximize=True)[1]
    return columns


def products(one: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    """Products of all pairs of rows, without BLAS, whose last bits change with its threads."""
    return np.asarray(np.einsum("am,bm->ab", one, other))


def cluster(factors: NDArray[np.float64]) -> Clusters:
    """Cluster the factors of all starts.

    Parameters
    ----------
    factors
        Rows of length 1, float64, shape (n_starts, k, m).

    Notes
    -----
    Holds 24 (n_starts k)^2 bytes: the cosines of all pairs, their distances and these sorted.
    """
    n, k, m = factors.shape
    flat = factors.reshape(n * k, m)
    cosines = np.clip(products(flat, flat), -1.0, 1.0)
    between = cosines.reshape(n, k, n, k)
    members = np.zeros((n, k), np.int64)
    medoids = _most_central(between) * k + np.arange(k)
    for _ in range(_MOST_ROUNDS):
        for s in range(n):
            members[s] = linear_sum_assignment(cosines[medoids][:, _rows(s, k)], maximize=True)[1]
        rows = members + k * np.arange(n)[:, None]
        sums = np.stack([cosines[np.ix_(of, of)].sum(axis=1) for of in rows.T], axis=1)
        found = rows[sums.argmax(axis=0), np.arange(k)]
        if (found == medoids).all():
            break
        medoids = found
    pairs = np.array([cosines[np.ix_(of, of)].sum() - n for of in rows.T])
    stability = pairs / (n * (n - 1)) if n > 1 else np.ones(k)
    kept = _density_distance(cosines, n)[rows] <= FAR
    kept |= rows == medoids
    return Clusters(members, kept, stability)


def _rows(start: int, k: int) -> slice:
    return slice(start * k, (start + 1) * k)


def _most_central(between: NDArray[np.float64]) -> int:
    """The start whose factors agree best with those of all others; ``between`` (n, k, n, k)."""
    n = len(between)
    agreement = np.zeros((n, n))
    for a in range(n):
        for b in range(a):
            cosines = between[a, :, b]
            pairs = linear_sum_assignment(cosines, maximize=True)
            agreement[a, b] = agreement[b, a] = cosines[pairs].sum()
    return int(agreement.sum(axis=1).argmax())


def _density_distance(cosines: NDArray[np.float64], n_starts: int) -> NDArray[np.float64]:
    """Mean distance of each factor to its nearest others, shape (n_starts k,)."""
    n_near = min(max(1, round(NEAR_SHARE * n_starts)), len(cosines) - 1)
    if not n_near:
        return np.zeros(len(cosines))
    distances = np.sqrt(2.0 - 2.0 * cosines)
    np.fill_diagonal(distances, np.inf)
    near: NDArray[np.float64] = np.sort(distances, axis=1)[:, :n_near].mean(axis=1)
    return near


def medians(starts: Sequence[Metagenes], lengths: NDArray[np.float64], of: Clusters) -> Metagenes:
    """Median metagenes of every cluster.

    Parameters
    ----------
    starts
        Metagenes of each start.
    lengths
        What each factor is divided by, float64, shape (n_starts, k).
    of
        Their clusters.

    Notes
    -----
    Holds one dataset's metagenes of all starts at a time, 8 n_starts m bytes a factor,
    and V of the medians twice.
    """
    V = np.stack([_median([s.V[i] for s in starts], lengths, of) for i in range(len(starts[0].V))])
    return Metagenes(_median([s.W for s in starts], lengths, of), V)


def _median(
    rows: list[NDArray[np.float32]], lengths: NDArray[np.float64], of: Clusters
) -> NDArray[np.float32]:
    found = np.empty(rows[0].shape, np.float32)
    for j in range(len(found)):
        members = [
            rows[s][of.members[s, j]] / lengths[s, of.members[s, j]]
            for s in np.flatnonzero(of.kept[:, j]).tolist()
        ]
        found[j] = np.median(np.stack(members), axis=0)
    return found
