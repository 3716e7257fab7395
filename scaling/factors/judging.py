"""Which factors look technical: made by the handling of cells rather than by their type.

A factor is suspected where, within cells of one cluster and dataset,

- its share rises or falls with depth or with the number of detected genes, or
- its share rises with the share of mitochondrial or of ribosomal counts,

the correlation being 0.5 or more, or where half of its ten top genes or more are of one of
the kinds of :mod:`tigon.scaling.gene_kinds`. Over all cells a factor of a cell type that
happens to be large correlates with depth too: monocytes among lymphocytes at 0.5. Within
clusters such factors stay below 0.4 in four sets of real data, and factors of ribosomal
proteins are at 0.65 and more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.gene_kinds import NAMES

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


def reasons(correlations: Mapping[str, float], top_kinds: NDArray[np.uint8]) -> Sequence[str]:
    """Why a factor looks technical; nothing where it does not.

    Parameters
    ----------
    correlations
        Within clusters and datasets, by figure; NaN where it is not known.
    top_kinds
        Kinds of the factor's top genes, the first first, uint8.
    """
    found = []
    for name, words in FIGURES.items():
        r = correlations.get(name, np.nan)
        if (abs(r) if name in BOTH_WAYS else r) >= MIN_CORRELATION:
            found.append(f"its share follows {words} (r = {r:+.2f})")
    for kind, name in NAMES.items():
        n = int((top_kinds[:N_GENES] == kind).sum())
        if n >= MIN_GENES:
            found.append(f"{n} of {len(top_kinds[:N_GENES])} top genes are {name} genes")
    return found
