"""UINMF by alternating exact least squares, in float64: what online UINMF is held against.

Each iteration solves every row of H_i, then V_i (U_i at genes that are not shared), then W,
by SciPy's Lawson-Hanson, so that F never rises. Written from the equations for dense
matrices in memory, with nothing in common with the engine.

References
----------
Kriebel and Welch (2022), doi:10.1038/s41467-022-28431-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Array = NDArray[np.float64]


@dataclass
class Batch:
    """A factorisation in the making.

    Attributes
    ----------
    X
        Scaled counts of each dataset, (n_i, m); zero where a gene is not measured.
    measured
        Which genes each dataset measures, bool, (d, m).
    shared
        Genes of W, bool, (m,).
    lam
        lambda of each dataset, (d,).
    W, V
        Metagenes, (k, m) and (d, k, m).
    """

    X: Sequence[Array]
    measured: NDArray[np.bool_]
    shared: NDArray[np.bool_]
    lam: Array
    W: Array
    V: Array

    @classmethod
    def drawn(
        cls,
        X: Sequence[Array],
        measured: NDArray[np.bool_],
        shared: NDArray[np.bool_],
        lam: Array,
        k: int,
        seed: int,
    ) -> Batch:
        """A random start, with no V."""
        W = np.random.default_rng(seed).uniform(0, 2, (k, len(shared))) * shared
        return cls(X, measured, shared, lam, W, np.zeros((len(X), *W.shape)))

    def loadings(self, i: int) -> Array:
        """H_i, exact."""
        L = (self.W + self.V[i]) * self.measured[i]
        return solve(L @ L.T + self.lam[i] * self.V[i] @ self.V[i].T, self.X[i] @ L.T)

    def iterate(self) -> None:
        """All H_i, then V_i, then W."""
        H = [self.loadings(i) for i in range(len(self.X))]
        A = [h.T @ h for h in H]
        B = [h.T @ x for h, x in zip(H, self.X, strict=True)]
        for i, own in enumerate(self.measured):
            target = (B[i] - A[i] @ self.W)[:, own]
            self.V[i][:, own] = solve((1 + self.lam[i]) * A[i], target.T).T
        for g in np.flatnonzero(self.shared):
            here = np.flatnonzero(self.measured[:, g])
            target = sum(B[i][:, g] - A[i] @ self.V[i][:, g] for i in here)
            self.W[:, g] = solve(sum(A[i] for i in here), target[None])[0]

    def objective(self) -> float:
        """F with exact loadings, from its definition."""
        total = 0.0
        for i, x in enumerate(self.X):
            H = self.loadings(i)
            rest = (x - H @ (self.W + self.V[i])) * self.measured[i]
            total += (rest**2).sum() + self.lam[i] * ((H @ self.V[i]) ** 2).sum()
        return float(total)

    def run(self, tol: float, most: int = 2000) -> list[float]:
        """Iterate until F falls by less than ``tol`` of itself in ten iterations; each ten's F."""
        found = [self.objective()]
        for _ in range(0, most, 10):
            for _ in range(10):
                self.iterate()
            found.append(self.objective())
            if found[-2] - found[-1] <= tol * found[-1]:
                break
        return found


def solve(G: Array, R: Array) -> Array:
    """Rows h >= 0 that minimise h G h / 2 - r h, for the rows r of R."""
    # The ridge is for a factor that nothing uses; it is far below the tolerance of any use.
    root = np.linalg.cholesky(G + 1e-12 * np.trace(G) * np.eye(len(G))).T
    targets = np.linalg.solve(root.T, R.T).T
    return np.array([nnls(root, target)[0] for target in targets])
