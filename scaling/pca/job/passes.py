"""Passes of a job: the first one counts, too, and what each found is kept.

The sums of a pass are all that is left of it. They lie in the folder of the job: one that goes
on computes everything between passes again, comes to the same products, and finds their sums
there. Products are compared to the bit, so that sums of another matrix are never taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.kernels.sketches import GeneProducts
from tigon.scaling.first_pass import read_statistics, stored_statistics
from tigon.scaling.job import Job
from tigon.scaling.kept import prepared_arrays, prepared_of
from tigon.scaling.pca.job.begin import Beginning
from tigon.scaling.pca.job.first import chosen_rows, first_sums
from tigon.scaling.pca.moments import Moments
from tigon.scaling.pca.passes import Passes, Summing
from tigon.scaling.pca.rows import AtlasRows
from tigon.scaling.pca.sources import bytes_of
from tigon.scaling.preparing import Prepared
from tigon.scaling.selecting import GeneSelection
from tigon.scaling.statistics import BlockCounting, Statistics
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress
from tigon.storage.views.reopening import reference

if TYPE_CHECKING:
    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas

PREPARED = "prepared.npz"


class JobPasses(Passes):
    """Passes over the cells of a job.

    Parameters
    ----------
    atlas, beginning
        The counts, and what is done with them.
    job
        Where sums are kept.
    engine, progress
        Where it runs and who is told.

    Notes
    -----
    Where the first product of the iterations rides on the first pass, that is made when
    the product is asked for; else now.
    """

    def __init__(
        self,
        atlas: Atlas,
        beginning: Beginning,
        job: Job,
        engine: ThreadEngine,
        progress: Progress,
    ) -> None:
        self._atlas, self._beginning, self._job = atlas, beginning, job
        config = beginning.config.prepare
        self._counting = BlockCounting.of(atlas, beginning.datasets, config.cell_filter)
        self._genes = beginning.summed_genes
        rows = chosen_rows(atlas, self._counting, self._genes, bytes_of(atlas))
        super().__init__(rows, beginning.normalisation, engine, progress)
        self._chosen = rows
        self._prepared: Prepared | None = None
        self._ridden: GeneProducts | None = None
        if not beginning.begins_with_a_product:
            self._ridden = self._begin(beginning.riding())

    @property
    def prepared(self) -> Prepared:
        """Which cells and genes take part; the first pass must have been made."""
        assert self._prepared is not None, "no pass was made yet"
        return self._prepared

    def recall(self) -> bool:
        """Take over what the first pass left, without what rode on it; False where it left nothing.

        For scores of components that are known already.
        """
        if self._prepared is None:
            kept = self._job.load(PREPARED)
            if kept is None:
                return False
            self._settle(prepared_of(kept))
        return True

    def moments(self) -> GeneProducts:
        """Sums of the genes and of their squares."""
        return super().moments() if self._ridden is None else self._ridden

    def gram(self) -> GeneProducts:
        """Y^T Y of all cells, shape (m, m), and moments."""
        if self._ridden is None:
            return super().gram()
        found, self._ridden = self._ridden, None
        return found

    def summed(self, what: Summing, **figures: float) -> GeneProducts:
        """Sums over all cells; those that were kept are not summed again."""
        if self._prepared is None:
            found = self._begin(what, **figures)
            assert found is not None, "what is given rides"
            return found
        kept = self._kept(what, self.n_passes + 1)
        if kept is not None:
            self._count()
            return kept
        found = super().summed(what, **figures)
        self._check(found)
        self._keep(what, found)
        return found

    def _begin(self, what: Summing | None, **figures: float) -> GeneProducts | None:
        """The first pass; sums over the selected genes, where some ride on it."""
        stored = None if what is not None else self._stored()
        if stored is None:
            self._count()
        kept = self._job.load(PREPARED)
        found = None if what is None or kept is None else self._kept(what, 1)
        if kept is not None and (what is None or found is not None):
            prepared = prepared_of(kept)
        else:
            prepared, found = self._read(what, figures, stored)
            if what is not None and found is not None:
                self._keep(what, found)
            self._job.save(PREPARED, **prepared_arrays(prepared))
        self._settle(prepared)
        return None if found is None else _of_genes(found, self._genes, prepared.genes)

    def _stored(self) -> Statistics | None:
        """Statistics that the atlas brings with it: no pass is made for them."""
        return stored_statistics(self._atlas, self._beginning.datasets, self._counting)

    def _read(
        self, what: Summing | None, figures: dict[str, float], stored: Statistics | None
    ) -> tuple[Prepared, GeneProducts | None]:
        datasets = self._beginning.datasets
        if stored is not None:
            return self._beginning.settle(stored), None
        if what is None:
            counted = read_statistics(
                self._atlas, datasets, self._counting, self.engine, self.progress
            )
            return self._beginning.settle(counted), None
        counted, found = first_sums(
            self._chosen, datasets, self.normalisation, what, self.engine, self.progress, **figures
        )
        prepared = self._beginning.settle(counted)
        self._check(_of_genes(found, self._genes, prepared.genes))
        return prepared, found

    def _settle(self, prepared: Prepared) -> None:
        kept = prepared.statistics.kept
        self._prepared = prepared
        self.rows = AtlasRows(
            reference(self._atlas),
            GeneSelection.of(prepared.genes, self._atlas.n_genes),
            (int(kept.sum()), len(prepared.genes)),
            self._chosen.n_bytes,
            None if kept.all() else kept,
        )

    def _check(self, found: GeneProducts) -> None:
        """Refuse cells among which nothing differs."""
        center = self._beginning.pca.center
        if Moments.of(found, center=center, scale=False).total > 0:
            return
        why = "the same in all" if center else "zero in all"
        raise InputError(
            f"the {len(found.sums):,} genes are {why} {found.n_cells:,} cells: there is nothing to "
            "decompose; choose other genes or cells"
        )

    def _keep(self, what: Summing, found: GeneProducts) -> None:
        self._job.save(
            f"sums-{self.n_passes}.npz",
            Q=what.Q,
            product=found.product,
            sums=found.sums,
            squares=found.squares,
            n_cells=np.asarray(found.n_cells),
        )

    def _kept(self, what: Summing, number: int) -> GeneProducts | None:
        kept = self._job.load(f"sums-{number}.npz")
        if kept is None or not np.array_equal(kept["Q"], what.Q):
            return None
        return GeneProducts(kept["product"], kept["sums"], kept["squares"], int(kept["n_cells"]))


def _of_genes(
    found: GeneProducts, genes: NDArray[np.int64], selected: NDArray[np.int64]
) -> GeneProducts:
    """Sums over some of the genes, whose positions in the atlas ascend."""
    if len(genes) == len(selected):
        return found
    at = np.searchsorted(genes, selected)
    is_gram = found.product.shape == (len(genes), len(genes))
    product = found.product[np.ix_(at, at)] if is_gram else found.product[at]
    return GeneProducts(product, found.sums[at], found.squares[at], found.n_cells)
