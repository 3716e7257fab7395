"""The factors of a run as calls: list them, and arrange its cells anew without some."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from tigon.main_job import told_to, write_page
from tigon.scaling.budget import parse_bytes
from tigon.scaling.engine import ThreadEngine, threads_of
from tigon.scaling.factors.listing import COLUMNS, FactorListing, list_factors
from tigon.scaling.rearranging import rearrange_run
from tigon.scenarios import output_of
from tigon.storage.progress import Progress, silent
from tigon.storage.runs.run import Run

if TYPE_CHECKING:
    import pandas as pd


def factors(
    run: Run | str | os.PathLike[str],
    *,
    n_top: int = 10,
    n_threads: int | None = None,
    progress: Progress | bool | None = None,
) -> pd.DataFrame:
    """The factors of a run: their genes and cells, and which of them look technical.

    Parameters
    ----------
    run
        A run, or where it is.
    n_top
        Top genes to list, by weight in W times the share of the gene's weight that is the
        factor's.
    n_threads
        Threads; None for all processors. Results do not depend on it.
    progress
        As for :func:`tigon.integrate`; told of the cells.

    Returns
    -------
    pandas.DataFrame
        A row for each factor, by number. ``loadings``: share of all loadings. ``cells``,
        ``n_cells``: share and number of the cells with loadings whose strongest factor it is.
        ``genes``: top genes, with commas. ``used_by``, ``use``: the dataset that uses it
        most, and its part of the use if all datasets had as many cells; ``unevenness``: 0
        where all use it alike, 1 where one does alone. ``own_in``, ``own``: the dataset that
        adds most to the shared metagene, and the part that it adds. ``r_depth``,
        ``r_genes``, ``r_mito``, ``r_ribo``: correlation of the share of the factor in a cell
        with the logarithms of its counts and of its detected genes, and its mitochondrial
        and ribosomal percentages, within clusters and datasets; ``r_depth_overall`` and so
        on: over all cells. NaN where the run does not keep the figure, or fewer than 100
        cells could be compared. ``technical``: why it looks technical
        (``tigon.scaling.factors.judging``), "" where it does not. ``dropped``: whether
        alignment and what follows leave it out.

    Raises
    ------
    InputError
        There is no run, or ``n_top`` or ``n_threads`` is not positive.

    Notes
    -----
    One pass over the loadings; memory does not grow with the cells.
    """
    with told_to(progress=progress) as tell:
        return as_table(listed(run, n_top=n_top, n_threads=n_threads, progress=tell))


def listed(
    run: Run | str | os.PathLike[str],
    *,
    n_top: int = 10,
    n_threads: int | None = None,
    progress: Progress = silent,
) -> FactorListing:
    """As :func:`factors`, with figures by dataset."""
    run = run if isinstance(run, Run) else Run.open(Path(run))
    run.need_factors("a list of factors")
    with ThreadEngine(threads_of(n_threads)) as engine:
        return list_factors(run, engine, n_top=n_top, progress=progress)


def as_table(listing: FactorListing) -> pd.DataFrame:
    """The table that :func:`factors` returns."""
    import pandas as pd

    names, numbers = np.array(listing.datasets, object), range(len(listing.genes))
    columns = {
        "loadings": listing.loadings,
        "cells": listing.n_strongest / max(1, listing.n_loaded),
        "n_cells": listing.n_strongest,
        "genes": [", ".join(genes) for genes in listing.genes],
        "used_by": listing.used_by,
        "use": listing.evened_use.max(axis=0),
        "unevenness": listing.unevenness,
        "own_in": names[listing.own.argmax(axis=0)],
        "own": listing.own.max(axis=0),
    }
    for figure in COLUMNS:
        found = listing.correlations.get(figure)
        columns[f"r_{figure}"] = np.nan if found is None else found.within
        columns[f"r_{figure}_overall"] = np.nan if found is None else found.overall
    columns["technical"] = ["; ".join(why) for why in listing.reasons]
    columns["dropped"] = np.isin(numbers, listing.dropped)
    return pd.DataFrame(columns, index=pd.RangeIndex(len(listing.genes), name="factor"))


def drop_factors(
    run: Run | str | os.PathLike[str],
    numbers: Sequence[int],
    out: str | os.PathLike[str],
    *,
    n_threads: int | None = None,
    memory_limit: str | int | None = "2GiB",
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    report: bool = True,
    command: str = "",
    progress: Progress | bool | None = None,
) -> Run:
    """Arrange the cells of a run anew without some of its factors, as another run.

    Loadings and metagenes of all factors stay as they are; alignment, clusters, layout and
    scores are made of the others, to the bytes of an integration with ``drop_factors``. No
    counts are read. Cells that load on dropped factors only are "unassigned".

    Parameters
    ----------
    run
        A run, or where it is; it is not written to.
    numbers
        The factors to drop, as :func:`factors` numbers them, in place of those that the run
        was made without; none to take all of them back in.
    out
        The run to write, ``*.zarr``; the report is ``*.html`` beside it.
    n_threads
        Threads; None for all processors. Results do not depend on it.
    memory_limit
        Limit of the process tree; None for none.
    scratch
        Folder for what is worked on; beside ``out`` by default.
    overwrite, report, command, progress
        As for :func:`tigon.integrate`.

    Returns
    -------
    Run

    Raises
    ------
    TigonError
        The run, the factors or the output cannot be used. Nothing is left behind.
    """
    run = run if isinstance(run, Run) else Run.open(Path(run))
    run.need_factors("dropping some")
    out = output_of(out, report=report, overwrite=overwrite)
    with told_to(progress=progress) as tell:
        made = rearrange_run(
            run,
            numbers,
            out,
            Path(scratch) if scratch is not None else out.absolute().parent,
            n_threads=threads_of(n_threads),
            memory_limit_bytes=None if memory_limit is None else parse_bytes(memory_limit),
            overwrite=overwrite,
            command=command,
            progress=tell,
        )
    write_page(made, out, report=report, overwrite=overwrite)
    return made
