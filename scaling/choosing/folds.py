"""Which cells and genes a fold holds out, and the cells that take part.

Bi-cross-validation: W and V are learnt from the cells outside of the fold, over all genes.
The loadings of the fold's cells are solved from the genes that are not hidden, and the
hidden genes are predicted with them. A factor too many fits noise of cells and genes that
the prediction does not share, so that the error has its least near the true number.

References
----------
Owen and Perry (2009), doi:10.1214/08-AOAS227.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets, resolve_small
from tigon.scaling.genes import inverse_rms
from tigon.scaling.inmf.state import Problem
from tigon.scaling.packing import pack_order
from tigon.scaling.preparing import Prepared
from tigon.storage.packs.pack import Pack
from tigon.storage.packs.reader import PackPart


@dataclass(frozen=True, slots=True)
class Sample:
    """The cells that are fitted.

    Attributes
    ----------
    datasets
        Those that have cells in the sample, and that of each cell of the atlas, -1 where it
        is not in it.
    problem
        Their masks and scales over the selected genes, and cells in the sample. Scales are
        of all cells, as in the fit that is to follow.
    """

    datasets: Datasets
    problem: Problem


def draw_sample(prepared: Prepared, n_cells: int, seed: np.random.SeedSequence) -> Sample:
    """Draw cells at random, of each dataset in its proportion; all where there are no more."""
    datasets = prepared.datasets
    places = pack_order(datasets.codes, seed)
    sampled = resolve_small(datasets.keep((places >= 0) & (places < n_cells)), 1, "drop")
    rows = [datasets.names.index(name) for name in sampled.names]
    scale = inverse_rms(prepared.statistics, datasets, prepared.genes)
    measured = datasets.measured[:, prepared.genes]
    return Sample(sampled, Problem(sampled.sizes, measured[rows], scale[rows], 0.0))


@dataclass(frozen=True, slots=True)
class Fold:
    """What one fold learns from and is tested on.

    Attributes
    ----------
    number
        Which one.
    training, held_out
        The cells.
    problem
        Masks and scales, with the cells of ``training``.
    hidden
        Genes that are hidden of the held-out cells, bool, shape (m,).
    """

    number: int
    training: PackPart
    held_out: PackPart
    problem: Problem
    hidden: NDArray[np.bool_]

    def with_lam(self, lam: float) -> Problem:
        """The problem of the training cells with a lambda."""
        return replace(self.problem, lam=lam)


def cut_folds(
    pack: Pack, problem: Problem, n_folds: int, hidden_share: float, seed: np.random.SeedSequence
) -> list[Fold]:
    """Cut the pack, whose stretches are random cells, into folds.

    Parameters
    ----------
    pack, problem
        All cells, and what is known of their datasets.
    n_folds, hidden_share
        Folds, and share of the genes that each hides.
    seed
        Of the hidden genes; each fold's are drawn from a child that its number names.
    """
    n = pack.n_cells
    codes = pack.datasets(0, n)
    folds = []
    for f in range(n_folds):
        start, stop = f * n // n_folds, (f + 1) * n // n_folds
        outside = ((0, start), (stop, n))
        counts = np.bincount(
            np.concatenate([codes[a:b] for a, b in outside]), minlength=problem.n_datasets
        )
        rng = np.random.default_rng(child(seed, f))
        m = problem.n_genes
        hidden = np.zeros(m, bool)
        hidden[rng.choice(m, max(1, round(hidden_share * m)), replace=False)] = True
        folds.append(
            Fold(
                f,
                PackPart(pack, tuple((a, b) for a, b in outside if a < b)),
                PackPart(pack, ((start, stop),)),
                replace(problem, n_cells=counts.astype(np.int64)),
                hidden,
            )
        )
    return folds


def child(seed: np.random.SeedSequence, *numbers: int) -> np.random.SeedSequence:
    """The seed that ``numbers`` name below another: whatever else is drawn, it is the same."""
    return np.random.SeedSequence(seed.entropy, spawn_key=(*seed.spawn_key, *numbers))
