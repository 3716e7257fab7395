"""The main job as one call: from counts to a run on disk and its report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.scaling.budget import Plan, parse_bytes
from tigon.scaling.cells import CellFilter
from tigon.scaling.config import IntegrateConfig
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.engine import available_threads
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.integrating import integrate_atlas, plan_integration
from tigon.scaling.preparing import PrepareConfig
from tigon.storage.borrowing import borrowed_atlas
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import check_output

if TYPE_CHECKING:
    from tigon.storage.anything import Counts
    from tigon.storage.run import Run

_PREPARE = ("batch_key", "n_genes", "cells", "small_datasets")
_FILTER = ("min_genes", "min_counts", "max_mito")
_INMF = (
    "n_components",
    "lam",
    "n_epochs",
    "minibatch_size",
    "n_sweeps",
    "tol",
    "tol_final",
    "tol_objective",
    "random_state",
)
_EMBED = ("resolution", "umap")
_OPEN = ("layer", "raw", "join", "gene_id_column", "allow_non_integer", "scratch")


def integrate(
    source: Counts,
    *,
    out: str | os.PathLike[str],
    overwrite: bool = False,
    report: bool = True,
    command: str = "",
    progress: Progress = silent,
    **options: Any,
) -> Run:
    """Integrate the datasets of an atlas: the main job, as ``tigon integrate`` runs it.

    Statistics and variable genes, online iNMF, alignment, clusters, a UMAP, and
    scores against labels if there are any; written as one Zarr store that
    ``anndata.read_zarr`` opens, with a report page beside it.

    Parameters
    ----------
    source
        An atlas, an AnnData, a path, a URL, or a list of these; raw counts.
    out
        The run to write, ``*.zarr``; the report is ``*.html`` beside it.
    overwrite
        Replace a run that is there, once the new one is complete.
    report
        Whether to write the report.
    command
        What to record as the call that made the run.
    progress
        Called as ``progress(stage, done, total, **figures)``.
    **options
        How to open: ``layer``, ``raw``, ``join``, ``gene_id_column``,
        ``allow_non_integer``, ``scratch`` (see :func:`tigon.open`). Which cells
        and genes: ``batch_key``, ``n_genes``, ``cells``, ``min_genes``,
        ``min_counts``, ``max_mito``, ``small_datasets``. The factorisation:
        ``n_components``, ``lam``, ``n_epochs``, ``minibatch_size``,
        ``n_sweeps``, ``tol``, ``tol_final``, ``tol_objective``,
        ``random_state`` (see :class:`tigon.OnlineINMF`). The picture:
        ``resolution`` of Leiden clusters, ``umap`` (whether to lay out),
        ``label_key``. The machine: ``n_threads``, ``memory_limit``
        ("2GiB"; None for none).

    Returns
    -------
    Run

    Raises
    ------
    TigonError
        The input, an option or the output cannot be used. Nothing is left behind.

    Notes
    -----
    Two passes over the atlas; the selected genes are streamed from a temporary
    copy beside ``out``. Results are the same for any ``n_threads``.
    """
    config, opening = _configure(options)
    out = Path(out)
    if report:
        check_output(report_path(out).absolute(), overwrite=overwrite)
    opening["scratch"] = scratch = opening["scratch"] or out.absolute().parent
    with borrowed_atlas(source, **opening) as atlas:
        run = integrate_atlas(
            atlas,
            config,
            out,
            Path(scratch),
            overwrite=overwrite,
            command=command,
            progress=progress,
        )
    if report:
        from tigon.report import write_report

        write_report(run, report_path(out), overwrite=overwrite)
    return run


def plan(source: Counts, *, out: str | os.PathLike[str] = "run.zarr", **options: Any) -> Plan:
    """What :func:`integrate` would cost, without reading counts.

    Parameters
    ----------
    source, out, **options
        As for :func:`integrate`.

    Returns
    -------
    Plan
        Passes, bytes and projected memory by stage.
    """
    config, opening = _configure(options)
    opening["scratch"] = opening["scratch"] or Path(out).absolute().parent
    with borrowed_atlas(source, **opening) as atlas:
        return plan_integration(atlas, config)


def report_path(out: Path) -> Path:
    """Where the report of a run goes: ``run.zarr`` has ``run.html``."""
    return out.with_suffix(".html") if out.suffix == ".zarr" else out.with_name(out.name + ".html")


def _configure(options: dict[str, Any]) -> tuple[IntegrateConfig, dict[str, Any]]:
    """Sort flat options into the configurations that check them."""
    given = dict(options)

    def take(names: Sequence[str]) -> dict[str, Any]:
        return {name: given.pop(name) for name in names if name in given}

    opening = {"scratch": None} | take(_OPEN)
    limit = given.pop("memory_limit", "2GiB")
    config = IntegrateConfig(
        prepare=PrepareConfig(**take(_PREPARE), cell_filter=CellFilter(**take(_FILTER))),
        inmf=INMFConfig(**take(_INMF)),
        embed=EmbedConfig(**take(_EMBED)),
        label_key=given.pop("label_key", None),
        n_threads=_threads(given.pop("n_threads", None)),
        memory_limit_bytes=None if limit is None else parse_bytes(limit),
    )
    if given:
        known = sorted((*_OPEN, *_PREPARE, *_FILTER, *_INMF, *_EMBED))
        raise InputError(
            f"{next(iter(given))!r} is not an option of integrate: there are {', '.join(known)}, "
            "label_key, memory_limit and n_threads; see help(tigon.integrate)"
        )
    return config, opening


def _threads(n_threads: int | None) -> int:
    if n_threads is None:
        return available_threads()
    if n_threads < 1:
        raise InputError(f"n_threads is {n_threads}: at least 1 is needed; set --n-threads")
    return n_threads
