"""Choosing genes for UINMF: shared ones, and ones that only some datasets measure.

A gene that all datasets measure is shared: its metagenes are W + V_i. Any other gene is
unshared: each dataset that measures it has a U_i of its own there. Either kind is ranked
by itself, as :mod:`tigon.scaling.genes` ranks all.

References
----------
Kriebel and Welch (2022), doi:10.1038/s41467-022-28431-4.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets
from tigon.scaling.genes import listed_genes, select_genes
from tigon.scaling.statistics import Statistics
from tigon.storage.errors import InputError

if TYPE_CHECKING:
    from tigon.storage import Atlas

Wanted = int | Literal["all"] | Sequence[str]
"""How many genes, "all", or their names."""


def check_split(atlas: Atlas, datasets: Datasets, n_shared: Wanted, n_unshared: Wanted) -> None:
    """Refuse, before counts are read, what :func:`select_split` would refuse.

    Raises
    ------
    InputError
        There are no genes of a kind, or a listed one is of the other kind.
    """
    for wanted, among, kind in _kinds(datasets, n_shared, n_unshared):
        _listed(atlas, wanted, among, kind)


def select_split(
    atlas: Atlas,
    statistics: Statistics,
    datasets: Datasets,
    n_shared: Wanted,
    n_unshared: Wanted,
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Positions of the genes to factorise, and which of them are shared.

    Parameters
    ----------
    atlas, statistics, datasets
        Genes, and what the first pass found.
    n_shared, n_unshared
        How many of either kind, "all", or their names.

    Returns
    -------
    genes
        Ascending, int64, shape (m,).
    shared
        Measured by all datasets, bool, shape (m,).

    Raises
    ------
    InputError
        There are no genes of a kind, or a listed one is of the other kind.
    """
    found = []
    for wanted, among, kind in _kinds(datasets, n_shared, n_unshared):
        genes = _listed(atlas, wanted, among, kind)
        if genes is None:
            n = wanted if isinstance(wanted, int) else None
            genes = select_genes(statistics, datasets, n, among)
        found.append(genes)
    genes = np.sort(np.concatenate(found))
    return genes, np.isin(genes, found[0])


def _kinds(
    datasets: Datasets, n_shared: Wanted, n_unshared: Wanted
) -> list[tuple[Wanted, NDArray[np.bool_], str]]:
    """What is wanted of either kind, and which genes of the atlas are of it."""
    n_measuring = datasets.measured.sum(axis=0)
    everywhere = n_measuring == len(datasets.names)
    somewhere = (n_measuring > 0) & ~everywhere
    n_datasets = len(datasets.names)
    if not everywhere.any():
        raise InputError(
            f"none of the {len(everywhere)} genes is measured by all of {n_datasets} datasets: at "
            "least one must be shared; leave --n-unshared out, or choose another batch key"
        )
    if not somewhere.any():
        raise InputError(
            f"there are 0 unshared genes: {n_datasets} datasets measure the same "
            f"{int(everywhere.sum())}; join sources with --join outer, or leave --n-unshared out"
        )
    return [(n_shared, everywhere, "shared"), (n_unshared, somewhere, "unshared")]


def _listed(
    atlas: Atlas, wanted: Wanted, among: NDArray[np.bool_], kind: str
) -> NDArray[np.int64] | None:
    """Positions of the genes that are named; None where they are to be ranked."""
    if isinstance(wanted, int | str):
        return None
    genes = listed_genes(list(atlas.var_columns.index), wanted)
    others = genes[~among[genes]]
    if len(others):
        names = ", ".join(map(str, atlas.var_columns.index[others[:5]]))
        by = "not measured by all datasets" if kind == "shared" else "measured by all, or by none"
        raise InputError(
            f"{len(others)} of {len(genes)} genes listed as {kind} are {by} ({names}): list "
            "genes that all datasets measure as shared (n_genes, --genes), others as unshared "
            "(n_unshared, --unshared-genes), or leave them out"
        )
    return genes
