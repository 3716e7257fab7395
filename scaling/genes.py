"""Choosing variable genes: LIGER's variance test, ranked, with a union over datasets.

For the depth-normalised counts x of one dataset with n cells and G genes, let
mu and s2 be a gene's mean and variance and c the mean of 1 / total. Counts that
were Poisson around a fixed expression would have s2 = mu * c. A gene passes
where s2 / c exceeds the upper confidence bound of mu, and log10 s2 exceeds
log10(mu c) by a margin.

References
----------
Welch et al. (2019), doi:10.1016/j.cell.2019.05.006.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from tigon.scaling.datasets import Datasets
from tigon.scaling.statistics import Statistics
from tigon.storage.errors import InputError

ALPHA = 0.99
MARGIN = 0.1
_FLAT = 1e-12
"""A variance below this share of the squared mean is rounding."""
_MOST_LETTERS = 40
"""Of the name of a gene in a message."""


def excess_variance(statistics: Statistics, datasets: Datasets) -> Iterator[NDArray[np.float64]]:
    """log10 s2 - log10(mu c) for genes that pass the test, one dataset after the other.

    Yields
    ------
    ndarray of float64, shape (n_genes,)
        The excess for a gene that passes; the excess minus 1000 for one that
        varies but does not pass; -inf for one that is unmeasured or flat.
    """
    sums = statistics.first, statistics.second, statistics.inverse_totals
    n_cells = datasets.sizes.astype(np.float64)
    for n, measured, first, second, inverse_totals in zip(
        n_cells, datasets.measured, *sums, strict=True
    ):
        mean = first / n
        variance = (second - n * mean**2) / np.maximum(n - 1, 1)
        varies = (variance > _FLAT * mean**2) & measured & (mean > 0)
        c = inverse_totals / n
        bound = mean + ndtri(1 - ALPHA / measured.sum() / 2) * np.sqrt(mean * c / n)
        with np.errstate(divide="ignore", invalid="ignore"):
            excess = np.log10(variance) - np.log10(mean * c)
        passes = (variance / c > bound) & (excess > MARGIN)
        yield np.where(varies, np.where(passes, excess, excess - 1000.0), -np.inf)


def select_genes(
    statistics: Statistics,
    datasets: Datasets,
    n_genes: int | None,
    among: NDArray[np.bool_] | None = None,
) -> NDArray[np.int64]:
    """Positions of the genes to factorise, ascending.

    Parameters
    ----------
    statistics, datasets
        From the first pass.
    n_genes
        How many; None for every gene that a dataset measures and a kept cell has.
    among
        Genes to choose from, bool, shape (n_genes of the atlas,); None for all.

    Returns
    -------
    ndarray of int64
        Genes are ranked within each dataset by excess variance, and taken by
        their best rank over the datasets (ties by mean rank): the union of each
        dataset's most variable genes, cut at ``n_genes``.

    Raises
    ------
    InputError
        No gene is detected.
    """
    usable = (statistics.n_cells_detected > 0) & datasets.measured.any(axis=0)
    usable &= True if among is None else among
    detected = np.flatnonzero(usable)
    if not len(detected):
        raise InputError(
            f"no gene that a dataset measures has a count in the {int(statistics.kept.sum())} kept "
            "cells: at least one is needed; relax the cell filters, or choose another batch key"
        )
    if n_genes is None or n_genes >= len(detected):
        return detected
    n_all = len(usable)
    best, total, n_ranks = np.full(n_all, np.inf), np.zeros(n_all), np.zeros(n_all)
    for excess in excess_variance(statistics, datasets):
        excess[~usable] = -np.inf
        rank = np.empty(n_all)
        rank[np.argsort(-excess, kind="stable")] = np.arange(n_all)
        known = ~np.isneginf(excess)
        np.minimum(best, rank, out=best, where=known)
        np.add(total, rank, out=total, where=known)
        n_ranks += known
    mean = total / np.maximum(n_ranks, 1)
    chosen = np.lexsort((mean, best, ~usable))[:n_genes]
    return np.sort(chosen)


def listed_genes(gene_names: Sequence[str], wanted: Sequence[str]) -> NDArray[np.int64]:
    """Positions of the genes that the user lists, ascending.

    Raises
    ------
    InputError
        Some are not in the atlas.
    """
    position = {str(name): i for i, name in enumerate(gene_names)}
    absent = [name for name in wanted if name not in position]
    if absent:
        raise InputError(
            f"{len(absent)} of {len(wanted)} listed genes are not in the atlas "
            f"({', '.join(map(_short, absent[:5]))}): names must match var_names; for instance "
            f"{next(iter(position))!r}"
        )
    return np.unique([position[name] for name in wanted])


def _short(name: str) -> str:
    """``name``, cut where it is too long for one: a line of another kind of file."""
    return name if len(name) <= _MOST_LETTERS else f"{name[: _MOST_LETTERS - 1]}…"


def inverse_rms(
    statistics: Statistics, datasets: Datasets, genes: NDArray[np.int64]
) -> NDArray[np.float64]:
    """One over each gene's root mean square in each dataset.

    Returns
    -------
    ndarray of float64, shape (n_datasets, len(genes))
        1 / sqrt(sum x^2 / (n - 1)); 0 where a dataset does not measure a gene or
        never detects it.
    """
    divisor = np.maximum(datasets.sizes - 1, 1)[:, None]
    rms = np.sqrt(statistics.second[:, genes] / divisor) * datasets.measured[:, genes]
    scale = np.zeros(rms.shape)
    np.divide(1.0, rms, out=scale, where=rms > 0)
    return scale
