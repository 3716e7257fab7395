"""Genes that speak for a factor.

Symbols: W (k x m) the shared metagenes; w_fg = W_fg / ||W_f||. A gene's score in a
factor is w_fg^2 / sum_f' w_f'g: its weight times the share of the gene's weight that is
the factor's. By weight alone, genes that all cells express head the list of most factors.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def gene_scores(W: NDArray[np.float32]) -> NDArray[np.float64]:
    """Score of each gene in each factor, float64, shape (k, m); 0 where W is.

    Does not change when a factor is multiplied by a number.
    """
    weights = W.astype(np.float64)
    length = np.sqrt(np.square(weights).sum(axis=1, keepdims=True))
    weights /= np.where(length > 0, length, 1.0)
    of_gene = weights.sum(axis=0)
    scores: NDArray[np.float64] = np.square(weights) / np.where(of_gene > 0, of_gene, 1.0)
    return scores


def top_genes(scores: NDArray[np.float64], n: int) -> NDArray[np.int64]:
    """The ``n`` genes of the largest scores, the largest first, int64, shape (k, at most n).

    Of equals, the one that comes first.
    """
    return np.argsort(-scores, axis=1, kind="stable")[:, :n]
