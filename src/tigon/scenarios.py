"""Cells that come after a run, as calls: refine the run with them, or lay them on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.main_job import check_outputs, told_to, write_page
from tigon.scaling import recalling
from tigon.scaling.budget import parse_bytes
from tigon.scaling.cells import CellFilter
from tigon.scaling.engine import threads_of
from tigon.scaling.preparing import PrepareConfig
from tigon.scaling.projecting import ProjectConfig, project_on_run
from tigon.scaling.updating import UpdateConfig, told_sources, update_run
from tigon.storage.borrowing import borrowed_atlas
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress
from tigon.storage.runs.run import Run

if TYPE_CHECKING:
    from tigon.storage.opening import Counts

_OPEN = ("layer", "raw", "join", "gene_id_column", "allow_non_integer")
_FILTER = ("min_genes", "min_counts", "max_mito")


def update(
    run: Run | str | os.PathLike[str],
    new: Counts | None = None,
    out: str | os.PathLike[str] = "",
    *,
    batch_key: str | Sequence[str] | None = None,
    drop: Sequence[str] = (),
    refresh: Counts | None = None,
    n_epochs: int | str | None = None,
    n_threads: int | None = None,
    memory_limit: str | int | None = "2GiB",
    cache: str | os.PathLike[str] | None = None,
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    report: bool = True,
    command: str = "",
    progress: Progress | bool | None = None,
    **options: Any,
) -> Run:
    """Refine a run with new cells, without reading those that it was made from.

    New datasets get metagenes of their own, new cells of known datasets are scaled as the
    dataset was; all weigh in the shared metagenes as the old cells do. Cells of the run keep
    their loadings: ``obs["tigon_version"]`` says of which update each cell's are. Alignment,
    clusters and layout are made anew of all cells.

    Parameters
    ----------
    run
        A run, or where it is; it is not written to.
    new
        The new cells: anything that :func:`tigon.open` takes. None to drop or refresh only.
    out
        The run to write, ``*.zarr``; the report is ``*.html`` beside it.
    batch_key
        Columns of ``obs`` that name the datasets; None for those of the run.
    drop
        Names of datasets to remove from the run, cells and statistics.
    refresh
        Where counts of old cells are: datasets that are there as a whole are solved again
        with the new metagenes.
    n_epochs
        Passes over the new cells; None for as many as the run was set to.
    n_threads
        Threads; None for all processors. Results do not depend on it.
    memory_limit
        Limit of the process tree; None for none.
    cache, scratch
        Where packs are kept, and the folder for what is worked on.
    overwrite, report, command, progress
        As for :func:`tigon.integrate`.
    **options
        Of opening ``new`` and ``refresh``: ``layer``, ``raw``, ``join``, ``gene_id_column``,
        ``allow_non_integer``. Of the new cells: ``cells``, ``small_datasets``, and
        ``min_genes``, ``min_counts``, ``max_mito``, by default those of the run.

    Returns
    -------
    Run

    Raises
    ------
    TigonError
        The run, the cells, an option or the output cannot be used. Nothing is left behind.

    Notes
    -----
    Two passes over the new cells, one over ``refresh``. Genes that the run does not know are
    ignored, those that new data lack are masked; notices count both.
    """
    run = run if isinstance(run, Run) else Run.open(Path(run))
    run.need_factors("tigon update")
    out = output_of(out, report=report, overwrite=overwrite)
    if new is None and not drop and refresh is None:
        raise InputError(
            "nothing is to be updated: new cells, datasets to drop or data to refresh old cells "
            "from are needed; name a source, --drop or --refresh"
        )
    opening, prepare = _sorted(run, batch_key, options)
    # Datasets of the run keep the lambda of their own, new ones have that of the run.
    inmf = replace(recalling.inmf_config(run).refining(), lam_by_dataset=None)
    config = UpdateConfig(
        prepare=prepare,
        inmf=inmf if n_epochs is None else replace(inmf, n_epochs=n_epochs),  # type: ignore[arg-type]
        drop=tuple(drop),
        sources=() if new is None else told_sources(_listed(new)),
        n_threads=threads_of(n_threads),
        memory_limit_bytes=None if memory_limit is None else parse_bytes(memory_limit),
    )
    aside = Path(scratch) if scratch is not None else out.absolute().parent
    with told_to(progress=progress) as tell, ExitStack() as opened:

        def lend(source: Counts | None) -> Any:
            if source is None:
                return None
            return opened.enter_context(borrowed_atlas(source, scratch=aside, **opening))

        made = update_run(
            run,
            lend(new),
            config,
            out,
            aside,
            old=lend(refresh),
            cache=None if cache is None else Path(cache),
            overwrite=overwrite,
            command=command,
            progress=tell,
        )
    write_page(made, out, report=report, overwrite=overwrite)
    return made


def project(
    run: Run | str | os.PathLike[str],
    new: Counts,
    out: str | os.PathLike[str],
    *,
    batch_key: str | Sequence[str] | None = None,
    label_key: str | None = None,
    cells: str | None = None,
    n_threads: int | None = None,
    memory_limit: str | int | None = "2GiB",
    scratch: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    command: str = "",
    progress: Progress | bool | None = None,
    **opening: Any,
) -> Run:
    """Lay new cells on a run, whose metagenes stay: loadings, labels with confidence, places.

    Parameters
    ----------
    run
        A run, or where it is; it is not written to.
    new
        The cells: anything that :func:`tigon.open` takes; some of the genes will do.
    out
        What to write, ``*.zarr``: it opens like a run. ``obs`` has ``tigon_label``,
        ``tigon_confidence`` (the label's share of the votes of the 15 nearest cells of the
        run, near ones counting more), and ``tigon_cluster``.
    batch_key
        Columns of ``obs`` that name the datasets; None for those of the run. A dataset that
        the run knows keeps its metagenes and scale; a new one is scaled by its own root
        mean squares, or as the run is as a whole where it has fewer than 100 cells.
    label_key
        Column of the run's ``obs`` to take labels over from; None for the one that the run
        was scored against, or for its clusters.
    cells
        Expression over the columns of ``obs`` of the new cells.
    n_threads, memory_limit, scratch, overwrite, command, progress
        As for :func:`update`.
    **opening
        ``layer``, ``raw``, ``join``, ``gene_id_column``, ``allow_non_integer``.

    Returns
    -------
    Run
        With statistics and objective of the new cells.

    Raises
    ------
    TigonError
        The run, the cells, an option or the output cannot be used. Nothing is left behind.

    Notes
    -----
    One pass over the cells, two where a new dataset has 100 cells or more.
    """
    unknown = sorted(set(opening) - set(_OPEN))
    if unknown:
        raise InputError(
            f"{unknown[0]!r} is not an option of project: there are {', '.join(sorted(_OPEN))}"
        )
    run = run if isinstance(run, Run) else Run.open(Path(run))
    run.need_factors("tigon project")
    out = output_of(out, report=False, overwrite=overwrite)
    key = recalling.batch_key(run) if batch_key is None else batch_key
    config = ProjectConfig(
        batch_key=key if key is None or isinstance(key, str) else list(key),
        label_key=label_key or run.config.get("label_key"),
        cells=cells,
        sources=told_sources(_listed(new)),
        n_threads=threads_of(n_threads),
        memory_limit_bytes=None if memory_limit is None else parse_bytes(memory_limit),
    )
    aside = Path(scratch) if scratch is not None else out.absolute().parent
    with (
        told_to(progress=progress) as tell,
        borrowed_atlas(new, scratch=aside, **opening) as atlas,
    ):
        return project_on_run(
            run, atlas, config, out, aside, overwrite=overwrite, command=command, progress=tell
        )


def output_of(out: str | os.PathLike[str], *, report: bool, overwrite: bool) -> Path:
    """Where a run is to be written; refused where it cannot be.

    Raises
    ------
    TigonError
        No name was given, or something is there already.
    """
    if not os.fspath(out):
        raise InputError("no output was named: a run is needed; for instance out='run2.zarr'")
    check_outputs(Path(out), overwrite=overwrite, report=report)
    return Path(out)


def _listed(source: Any) -> list[Any]:
    return list(source) if isinstance(source, list | tuple) else [source]


def _sorted(
    run: Run, batch_key: str | Sequence[str] | None, options: dict[str, Any]
) -> tuple[dict[str, Any], PrepareConfig]:
    """Options of opening, and which cells take part: by default as in the run."""
    given = dict(options)
    opening = {name: given.pop(name) for name in _OPEN if name in given}
    before = recalling.cell_filter(run)
    limits = {name: given.pop(name, None) for name in _FILTER}
    prepare = PrepareConfig(
        batch_key=recalling.batch_key(run) if batch_key is None else batch_key,
        cells=given.pop("cells", None),
        small_datasets=given.pop("small_datasets", "error"),
        cell_filter=CellFilter(
            **{
                name: getattr(before, name) if value is None else value
                for name, value in limits.items()
            }
        ),
    )
    if given:
        known = ", ".join(sorted((*_OPEN, *_FILTER, "cells", "small_datasets")))
        raise InputError(f"{next(iter(given))!r} is not an option of update: there are {known}")
    return opening, prepare
