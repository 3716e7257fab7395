"""Which cells and which genes speak for a factor."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tigon.report.grouping import Grouping, printable
from tigon.report.palette import OTHER
from tigon.scaling.factors.genes import gene_scores, top_genes
from tigon.scaling.factors.listing import FactorListing
from tigon.scaling.recalling import shared_genes
from tigon.storage.runs.run import Run

_READ_ROWS = 1 << 16
N_SHARED = 10
N_SPECIFIC = 5
MAX_DOTS = 8


def cell_shares(run: Run, *, aligned: bool) -> Iterator[NDArray[np.float64]]:
    """Shares of the factors in each cell, (n, k) in parts; a cell's sum to 1, or are all 0.

    Aligned cells are stored as the roots of their shares
    (``tigon.scaling.embedding.space``), without the factors that were dropped.
    """
    rows = run.obsm("X_inmf_aligned" if aligned else "X_inmf")
    n = rows.shape[0]
    for start in range(0, n, _READ_ROWS):
        H = rows.read(start, min(start + _READ_ROWS, n)).astype(np.float64)
        if aligned:
            yield np.square(H)
        else:
            total = H.sum(axis=1, keepdims=True)
            yield np.divide(H, total, out=np.zeros_like(H), where=total > 0)


def mean_shares(
    shares: Iterable[NDArray[np.float64]], k: int, groups: Grouping
) -> NDArray[np.float64]:
    """Mean share of each factor in the cells of each group, float64, (n_groups, k); one pass."""
    sums = np.zeros((len(groups.names), k))
    start = 0
    for part in shares:
        codes = groups.codes[start : start + len(part)]
        start += len(part)
        for factor in range(k):
            sums[:, factor] += np.bincount(codes, part[:, factor], minlength=len(sums))
    means: NDArray[np.float64] = sums / groups.sizes[:, None]
    return means


@dataclass(frozen=True)
class Gene:
    """A gene's weights in a factor.

    Attributes
    ----------
    name
        The gene.
    shared
        Its weight in W.
    dots
        (dataset, colour, weight in V) of the datasets that add most, the
        largest first.
    """

    name: str
    shared: float
    dots: list[tuple[str, str, float]]


@dataclass(frozen=True)
class Factor:
    """A factor in words and numbers.

    Attributes
    ----------
    number
        Its position, from 0.
    n_cells
        Cells on which it is the strongest factor.
    group
        The group with the largest mean share, "" where no cell loads or it is dropped.
    technical
        Why it looks technical; empty where it does not.
    dropped
        Whether alignment and what follows leave it out.
    shared
        Genes that speak most for it (``tigon.scaling.factors.genes``).
    specific
        Genes with the largest weight in any V, as (gene, dataset, weight);
        none where there is one dataset.
    unshared
        The same, of genes that have no weight in W as not all datasets measure them.
    scale
        The largest weight among ``shared`` and their dots.
    largest
        The largest weight in W, of which weights in V are told as shares.
    """

    number: int
    n_cells: int
    group: str
    technical: list[str]
    dropped: bool
    shared: list[Gene]
    specific: list[tuple[str, str, float]]
    unshared: list[tuple[str, str, float]]
    scale: float
    largest: float

    def tell_share(self, weight: float) -> str:
        """A weight as a share of the factor's largest W: ``7 %``."""
        if self.largest == 0:
            return "none in W"
        percent = 100 * weight / self.largest
        return f"{percent:.0f} %" if percent >= 1 else "below 1 %"


def describe_factors(
    run: Run,
    listing: FactorListing,
    datasets: Grouping,
    groups: Grouping,
    means: NDArray[np.float64],
) -> list[Factor]:
    """Top genes, cells and group of every factor, from mean shares (n_groups, k)."""
    colours = dict(zip(datasets.names, datasets.colours, strict=True))
    names = [printable(name) for name in run.datasets]
    V = np.stack(list(run.V.values()))  # (n_datasets, k, m)
    genes = [printable(name) for name in run.genes]
    known = shared_genes(run)
    in_W = np.ones(len(genes), dtype=bool) if known is None else known
    scores = gene_scores(run.W[:, in_W])
    top = np.flatnonzero(in_W)[top_genes(scores, N_SHARED)]
    return [
        _describe(
            j, run.W[j], V[:, j], top[j], in_W, genes, names, colours, groups, means[:, j], listing
        )
        for j in range(len(run.W))
    ]


def _describe(
    number: int,
    W: NDArray[np.float32],
    V: NDArray[np.float32],
    top: NDArray[np.int64],
    in_W: NDArray[np.bool_],
    genes: list[str],
    datasets: list[str],
    colours: dict[str, str],
    groups: Grouping,
    means: NDArray[np.float64],
    listing: FactorListing,
) -> Factor:
    shared = []
    for gene in top.tolist():
        largest = np.argsort(-V[:, gene], kind="stable")[:MAX_DOTS].tolist()
        dots = [(datasets[i], colours.get(datasets[i], OTHER), float(V[i, gene])) for i in largest]
        shared.append(Gene(genes[gene], float(W[gene]), [dot for dot in dots if dot[2] > 0]))
    weights = [gene.shared for gene in shared] + [dot[2] for g in shared for dot in g.dots]
    return Factor(
        number=number,
        n_cells=int(listing.n_strongest[number]),
        group=groups.names[int(means.argmax())] if means.any() else "",
        technical=listing.reasons[number],
        dropped=number in listing.dropped,
        shared=shared,
        specific=_specific(V * in_W, genes, datasets) if len(datasets) > 1 else [],
        unshared=_specific(V * ~in_W, genes, datasets),
        scale=max(weights) or 1.0,
        largest=float(W.max(initial=0.0)),
    )


def _specific(
    V: NDArray[np.float32], genes: list[str], datasets: list[str]
) -> list[tuple[str, str, float]]:
    where = V.argmax(axis=0)
    largest = V.max(axis=0)
    top = np.argsort(-largest, kind="stable")[:N_SPECIFIC].tolist()
    return [
        (genes[gene], datasets[int(where[gene])], float(largest[gene]))
        for gene in top
        if largest[gene] > 0
    ]
