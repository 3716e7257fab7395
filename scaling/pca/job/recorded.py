"""What a run of principal components records."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from tigon.scaling.pca.config import PCAConfig
from tigon.scaling.pca.decomposing import Decomposition
from tigon.scaling.pca.job.begin import Beginning
from tigon.scaling.preparing import Prepared
from tigon.scaling.recording import KeptNames, cell_table, gene_table, versions
from tigon.storage.rows import RowReader
from tigon.storage.runs.components import SCORES, Components
from tigon.storage.runs.contents import RunContents

if TYPE_CHECKING:
    from tigon.storage import Atlas

log = logging.getLogger("tigon")


def run_contents(
    atlas: Atlas,
    beginning: Beginning,
    prepared: Prepared,
    found: Decomposition,
    scores: RowReader,
) -> RunContents:
    """A run's tables, scores and components.

    Parameters
    ----------
    atlas, beginning, prepared
        The counts, and which cells and genes took part.
    found
        The components, with the cost of all passes.
    scores
        Of the kept cells, shape (n, k).
    """
    datasets = prepared.datasets
    _tell_constant(beginning.pca, found)
    return RunContents(
        obs=cell_table(atlas, prepared),
        cell_names=KeptNames(atlas.obs_columns, prepared.statistics.kept),
        var=gene_table(atlas, prepared),
        datasets=datasets.names,
        n_cells=datasets.sizes,
        model=_components(beginning.pca, found),
        obsm={SCORES: scores},
        config=beginning.config.as_dict(),
        versions=versions(),
    )


def _components(config: PCAConfig, found: Decomposition) -> Components:
    moments = found.moments
    if config.center:
        degrees = max(moments.n_cells - 1, 1)
        variance, total = found.singular_values**2 / degrees, moments.total / degrees
    else:
        variance, total = found.variances()
    return Components(
        vectors=found.components,
        variance=variance,
        variance_ratio=variance / (total or 1.0),
        singular_values=found.singular_values,
        residuals=found.residuals,
        completeness=found.completeness,
        tol=config.tol,
        converged=found.converged,
        solver=found.solver,
        reason=found.reason,
        n_passes=found.n_passes,
        bytes_read=found.bytes_read,
        mean=moments.mean,
        deviation=moments.deviation,
        centered=config.center,
        scaled=config.scale,
        log1p=config.log1p,
        target_sum=config.target_sum,
    )


def _tell_constant(config: PCAConfig, found: Decomposition) -> None:
    """Say that there are genes which cannot be scaled."""
    if not config.scale:
        return
    # Exactly 1 is what those are divided by.
    n_constant = int(np.count_nonzero(found.moments.deviation == 1.0))
    if n_constant:
        log.warning(
            "%s of %s genes do not vary among the cells: they are not scaled",
            f"{n_constant:,}",
            f"{found.components.shape[1]:,}",
        )
