"""Which factors look technical: made by the handling of cells rather than by their type.

A factor is suspected where, within cells of one cluster and dataset,

- its share rises or falls with depth or with the number of detected genes, or
- its share rises with the share of mitochondrial or of ribosomal counts,

the correlation being 0.5 or more, or where half of its ten top genes or more are of one of
the kinds of :mod:`tigon.storage.gene_kinds`. Over all cells a factor of a cell type that
happens to be large correlates with depth too: monocytes among lymphocytes at 0.5. Within
clusters no such factor reaches 0.45 in four sets of real data and three seeds each, and
factors of ribosomal proteins are at 0.65 and more (benchmarks/results/factors.jsonl).

Shares of a cell sum to 1: where one factor rises with depth, the others fall. So of two
signs only that of the strongest correlation counts.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tigon.storage.gene_kinds import NAMES

MIN_CORRELATION = 0.5
"""Correlation within clusters and datasets from which on a factor is suspected."""

N_GENES = 10
"""Top genes that are looked at."""

MIN_GENES = 5
"""As many of them of one kind make a factor suspect."""

MIN_CELLS = 100
"""Correlations that rest on fewer cells are not looked at: they are large by chance."""

BOTH_WAYS = frozenset({"depth", "genes"})
"""Figures of which a falling share tells as much as a rising one."""

FIGURES = {
    "depth": "depth",
    "genes": "the number of detected genes",
    "mito": "the mitochondrial share",
    "ribo": "the ribosomal share",
}
"""What shares are correlated with, in words."""


def reasons(
    correlations: Mapping[str, NDArray[np.float64]], top_kinds: NDArray[np.uint8]
) -> list[list[str]]:
    """Why each factor looks technical; nothing where it does not.

    Parameters
    ----------
    correlations
        Within clusters and datasets, by figure, shape (k,); NaN where it is not known.
    top_kinds
        Kinds of the top genes of each factor, uint8, shape (k, at most 10).
    """
    found: list[list[str]] = [[] for _ in top_kinds]
    for name, r in correlations.items():
        for f in np.flatnonzero(_sign(name, r) * np.nan_to_num(r) >= MIN_CORRELATION):
            found[f].append(f"its share follows {FIGURES[name]} (r = {r[f]:+.2f})")
    for kind, name in NAMES.items():
        n = (top_kinds == kind).sum(axis=1)
        for f in np.flatnonzero(n >= MIN_GENES):
            found[f].append(f"{n[f]} of {top_kinds.shape[1]} top genes are {name} genes")
    return found


def _sign(name: str, r: NDArray[np.float64]) -> float:
    """The sign of the correlations that count."""
    known = np.nan_to_num(r)
    return float(np.sign(known[np.abs(known).argmax()])) if name in BOTH_WAYS else 1.0
