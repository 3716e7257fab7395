"""Loadings and statistics of old cells, solved again with the metagenes of now."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tigon.scaling.datasets import Datasets
from tigon.scaling.inmf.known import Known
from tigon.scaling.inmf.projecting import make_query, project_with_sums
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.scattering import WriteRows

if TYPE_CHECKING:
    import pandas as pd

    from tigon.scaling.engine import ThreadEngine
    from tigon.storage import Atlas

log = logging.getLogger("tigon")


def refresh(
    atlas: Atlas,
    obs: pd.DataFrame,
    before: Known,
    known: Known,
    tol: float,
    engine: ThreadEngine,
    write: WriteRows,
    progress: Progress = silent,
) -> tuple[Known, NDArray[np.int64]]:
    """Solve those datasets again whose old cells are all in an atlas.

    Parameters
    ----------
    atlas
        Where the counts are; cells are found by name.
    obs
        The old cells, with their dataset.
    before
        The fit that knew these cells alone.
    known
        The present one, whose statistics may hold other cells besides.
    tol, engine, progress
        Tolerance of the loadings, where it runs and who is told.
    write
        Called with rows of ``obs`` and their new loadings.

    Returns
    -------
    Known
        With the sums of the new loadings in place of those of the old ones.
    NDArray
        Rows of ``obs`` that were solved, int64.

    Raises
    ------
    InputError
        No dataset is there as a whole, one has more cells than these, or genes are missing.

    Notes
    -----
    One pass over the atlas.
    """
    codes, rows = _whole_datasets(atlas, obs, before)
    # Datasets of the fit before come first in the one of now.
    everywhere = np.ones((len(known.names), atlas.n_genes), bool)
    query = make_query(atlas, Datasets(known.names, codes, everywhere), known, engine, progress)
    solved = np.unique(codes[codes >= 0]).tolist()
    for i in solved:
        lost = int((known.measured[known.names[i]] & ~query.problem.measured[i]).sum())
        if lost:
            raise InputError(
                f"{lost} genes of {known.names[i]!r} are not in the data to refresh it from: its "
                "cells cannot be solved as they were; open what the run was made from"
            )

    def write_rows(positions: NDArray[np.int64], H: NDArray[np.float32]) -> None:
        write(rows[positions], H)

    found = project_with_sums(atlas, query, tol, engine, write_rows, progress)
    A, B = dict(known.A), dict(known.B)
    for i in solved:
        name = known.names[i]
        A[name] = found.A[i] + (known.A[name] - before.A[name])
        B[name] = found.B[i] + (known.B[name] - before.B[name]) * known.measured[name]
    return replace(known, A=A, B=B), np.sort(rows[codes >= 0])


def _whole_datasets(
    atlas: Atlas, obs: pd.DataFrame, before: Known
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Dataset (-1 for none) and row of ``obs`` of each cell of the atlas."""
    rows = obs.index.get_indexer(atlas.obs.index).astype(np.int64)
    number = {name: i for i, name in enumerate(before.names)}
    of_row = obs["tigon_dataset"].astype(str).map(number).to_numpy().astype(np.int32)
    codes = np.where(rows >= 0, of_row[rows], np.int32(-1)).astype(np.int32)
    here = np.bincount(codes[codes >= 0], minlength=len(number))
    wanted = np.array([before.n_cells[name] for name in before.names])
    whole = (here == wanted) & (here > 0)
    if not whole.any():
        raise InputError(
            f"no dataset of the run is whole in the data to refresh it from ({int(here.sum()):,} "
            f"of {len(obs):,} cells were found by name): open what the run was made from"
        )
    partly = [name for name, n, ok in zip(before.names, here, whole, strict=True) if n and not ok]
    if partly:
        log.warning(
            "%d datasets are in the data to refresh them from in part (%s): they keep their "
            "loadings",
            len(partly),
            ", ".join(partly[:5]),
        )
    return np.where(np.isin(codes, np.flatnonzero(whole)), codes, np.int32(-1)), rows
