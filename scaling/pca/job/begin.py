"""What a job begins with: cells, genes, the solver, and what rides on the first pass."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets, resolve_small
from tigon.scaling.pca.config import GRAM_GENES, PCAConfig
from tigon.scaling.pca.job.config import DecomposeConfig
from tigon.scaling.pca.job.genes import known_genes, measured_by_all, selected_genes
from tigon.scaling.pca.passes import GramOf, Normalisation, SketchOf, Summing
from tigon.scaling.preparing import Prepared, check_some_kept, chosen_datasets
from tigon.scaling.statistics import Statistics

if TYPE_CHECKING:
    from tigon.storage import Atlas


@dataclass(frozen=True, slots=True)
class Beginning:
    """What is known before a count is read.

    Attributes
    ----------
    config
        Options as they were given.
    pca
        Those of the decomposition, the solver settled.
    reason
        Why this solver.
    datasets
        Dataset of each cell that may take part.
    measured
        Genes that all of them measure, bool, shape (n_genes of the atlas,).
    genes
        Positions of the genes; None where variable ones are selected.
    """

    config: DecomposeConfig
    pca: PCAConfig
    reason: str
    datasets: Datasets
    measured: NDArray[np.bool_]
    genes: NDArray[np.int64] | None

    @classmethod
    def of(cls, atlas: Atlas, config: DecomposeConfig) -> Self:
        """Look at an atlas; reads metadata only.

        Raises
        ------
        InputError
            Cells, datasets, genes or the number of components cannot be as asked for.
        """
        # A dataset of one cell is none too small: nothing is fitted to datasets.
        datasets = chosen_datasets(atlas, config.prepare, n_components=1)
        measured = measured_by_all(datasets)
        genes = known_genes(atlas, config.prepare, measured)
        most = int(measured.sum())
        n_genes = config.prepare.at_most_genes(most) if genes is None else len(genes)
        config.pca.check_shape(int((datasets.codes >= 0).sum()), n_genes)
        solver, reason = config.pca.solver_for(n_genes)
        settled = replace(config.pca, solver=solver)
        return cls(config, settled, reason, datasets, measured, genes)

    @property
    def normalisation(self) -> Normalisation:
        """What is done to counts."""
        return Normalisation(self.pca.target_sum, self.pca.log1p)

    @property
    def at_most_genes(self) -> int:
        """Genes that will be decomposed, at most."""
        if self.genes is not None:
            return len(self.genes)
        return self.config.prepare.at_most_genes(int(self.measured.sum()))

    @property
    def summed_genes(self) -> NDArray[np.int64]:
        """Genes that sums of the first pass are over: all those that may be selected."""
        return np.flatnonzero(self.measured) if self.genes is None else self.genes

    @property
    def begins_with_a_product(self) -> bool:
        """Whether the first product of the iterations rides: its genes are known, unscaled."""
        return self.pca.solver == "krylov" and self.genes is not None and not self.pca.scale

    def riding(self) -> Summing | None:
        """What rides on the first pass before anything else is done; None for nothing."""
        n_genes = len(self.summed_genes)
        if self.pca.solver == "krylov":
            return SketchOf(np.zeros((n_genes, 1))) if self.pca.scale else None
        few = n_genes <= GRAM_GENES
        return GramOf(n_genes) if self.genes is not None or few else None

    def settle(self, statistics: Statistics) -> Prepared:
        """Which cells and genes take part, now that they are counted.

        Raises
        ------
        InputError
            Too little is left.
        """
        check_some_kept(statistics, self.config.prepare.cell_filter)
        datasets = resolve_small(self.datasets.keep(statistics.kept), 1, "error")
        statistics = statistics.merged(self.datasets, datasets)
        genes = self.genes
        if genes is None:
            n_genes = self.config.prepare.n_genes
            assert isinstance(n_genes, int), "others are known"
            # Over the datasets that have a cell left, all of which measure these genes.
            genes = selected_genes(statistics, datasets, n_genes, self.measured)
        self.pca.check_shape(int(statistics.kept.sum()), len(genes))
        return Prepared(datasets, statistics, genes, merged={})
