"""Which genes are decomposed.

A gene that a dataset does not measure would be taken for zero there, and its absence for
what makes cells differ: only genes that all datasets measure take part.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets
from tigon.scaling.genes import listed_genes, select_genes
from tigon.scaling.preparing import PrepareConfig
from tigon.scaling.statistics import Statistics
from tigon.storage.errors import InputError

if TYPE_CHECKING:
    from tigon.storage import Atlas

log = logging.getLogger("tigon")


def measured_by_all(datasets: Datasets) -> NDArray[np.bool_]:
    """Genes that every dataset with a cell measures, bool, shape (n_genes,).

    Raises
    ------
    InputError
        There are none.
    """
    measured: NDArray[np.bool_] = np.logical_and.reduce(datasets.measured[datasets.sizes > 0])
    if not measured.any():
        raise InputError(
            "no gene is measured by all datasets: principal components need genes that are; leave "
            "out datasets with --cells, or choose another --batch-key"
        )
    return measured


def known_genes(
    atlas: Atlas, config: PrepareConfig, measured: NDArray[np.bool_]
) -> NDArray[np.int64] | None:
    """Positions of the genes where they are known before counts are read; None where not.

    Raises
    ------
    InputError
        Listed genes are not in the atlas, or not measured by all datasets.
    """
    if isinstance(config.n_genes, int):
        return None
    if config.n_genes == "all":
        n_absent = int((~measured).sum())
        if n_absent:
            log.warning(
                "%s of %s genes are left out: not all datasets measure them",
                f"{n_absent:,}",
                f"{len(measured):,}",
            )
        return np.flatnonzero(measured)
    genes = listed_genes(list(atlas.var_columns.index), config.n_genes)
    absent = genes[~measured[genes]]
    if len(absent):
        names = ", ".join(map(str, atlas.var_columns.index[absent[:5]]))
        raise InputError(
            f"{len(absent)} of {len(genes)} listed genes are not measured by all datasets "
            f"({names}): what was not measured cannot be decomposed; leave these genes out"
        )
    return genes


def selected_genes(
    statistics: Statistics, datasets: Datasets, n_genes: int, measured: NDArray[np.bool_]
) -> NDArray[np.int64]:
    """Variable genes of the kept cells among those that all datasets measure, ascending.

    Raises
    ------
    InputError
        None is detected.
    """
    return select_genes(statistics, datasets, n_genes, among=measured)
