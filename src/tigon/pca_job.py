"""Principal components as one call: from counts to a run on disk and its report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.main_job import (
    CLUSTER,
    FILTER,
    OPEN,
    check_outputs,
    cluster_of,
    opened,
    opening_of,
    options_of,
    told_to,
    write_page,
)
from tigon.scaling.budget import parse_bytes
from tigon.scaling.cells import CellFilter
from tigon.scaling.engine import threads_of
from tigon.scaling.pca.config import PCAConfig
from tigon.scaling.pca.job.config import TARGET_SUM, DecomposeConfig
from tigon.scaling.pca.job.running import decompose_atlas, plan_job
from tigon.scaling.preparing import PrepareConfig
from tigon.storage.errors import InputError
from tigon.storage.progress import Progress

if TYPE_CHECKING:
    from tigon.scaling.pca.job.planning import DecomposePlan
    from tigon.storage.opening import Counts
    from tigon.storage.runs.run import Run

_PREPARE = ("batch_key", "n_genes", "cells")
_PCA = options_of(PCAConfig)
_OTHERS = ("label_key", "memory_limit", "n_threads", "scratch", *CLUSTER)


def pca(
    source: Counts,
    *,
    out: str | os.PathLike[str],
    overwrite: bool = False,
    resume: bool = False,
    restart: bool = False,
    report: bool = True,
    command: str = "",
    progress: Progress | bool | None = None,
    **options: Any,
) -> Run:
    """Principal components of an atlas, as ``tigon pca`` finds them.

    Variable genes, counts scaled to a sum and their logarithm, components with a certificate,
    and scores of all cells; written as one Zarr store that ``anndata.read_zarr`` opens, with
    a report page beside it.

    Parameters
    ----------
    source
        An atlas, an AnnData, a path, a URL, or a list of these; raw counts.
    out
        The run to write, ``*.zarr``; the report is ``*.html`` beside it.
    overwrite, resume, restart, report, command, progress
        As for :func:`tigon.integrate`.
    **options
        Counts: ``layer``, ``raw``, ``join``, ``gene_id_column``, ``allow_non_integer``,
        ``scratch``. Cells and genes: ``batch_key`` (variable genes are those of each dataset),
        ``n_genes`` (2000; "all", or a list), ``cells``, ``min_genes``, ``min_counts``,
        ``max_mito``. Components: ``n_components`` (50), ``solver``, ``center``, ``scale``,
        ``target_sum`` (10,000; None for counts as they are), ``log1p`` (True), ``tol``,
        ``max_passes``, ``random_state``: as for :class:`tigon.PCA`. ``label_key``, a
        column of ``obs`` that the report colours cells by. Machine: ``n_threads``,
        ``memory_limit``; one of ``client``, ``scheduler``, ``workers``: as for
        :func:`tigon.integrate`.

    Returns
    -------
    Run
        With ``obsm["X_pca"]``, ``varm["PCs"]`` and ``uns["pca"]``, where scanpy looks;
        ``components`` has what is proven of them.

    Raises
    ------
    TigonError
        The input, an option or the output cannot be used, or the machine or the cluster
        failed. Nothing is left behind, but where a minute's work or more was done, that
        is: a hidden folder beside ``out`` that ``resume`` goes on from.

    Notes
    -----
    With up to 4,096 genes in the atlas two passes over the counts, with 4,096 selected ones
    three; else one more than the iterations take where all genes are used, or two. A gene
    that a dataset does not measure is left out. Results are the same bytes for any
    ``n_threads``, number of workers and ``memory_limit``. See ``docs/pca.md``.

    Examples
    --------
    >>> import tigon
    >>> run = tigon.pca("atlas.zarr", out="pca.zarr", n_components=50)  # doctest: +SKIP
    >>> run.components.residuals.max(), run.components.completeness  # doctest: +SKIP
    """
    cluster = cluster_of(options)
    config, scratch = _configure(source, options)
    out = Path(out)
    check_outputs(out, overwrite=overwrite, report=report)
    scratch = scratch or out.absolute().parent
    with told_to(progress=progress) as tell:
        with opened(source, config.opening, scratch) as atlas:
            run = decompose_atlas(
                atlas,
                config,
                out,
                scratch,
                cluster=cluster,
                overwrite=overwrite,
                resume=resume,
                restart=restart,
                command=command,
                progress=tell,
            )
        write_page(run, out, report=report, overwrite=overwrite, progress=tell)
    return run


def plan_pca(
    source: Counts,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    report: bool = True,
    **options: Any,
) -> DecomposePlan:
    """What :func:`pca` would cost, without reading counts.

    Parameters
    ----------
    source, out, overwrite, report, **options
        As for :func:`pca`; ``out`` may be None.

    Raises
    ------
    TigonError
        As for :func:`pca`, as far as it is known without the counts.
    """
    cluster = cluster_of(options)
    config, scratch = _configure(source, options)
    if out is not None:
        check_outputs(Path(out), overwrite=overwrite, report=report)
    scratch = scratch or Path(out or "run.zarr").absolute().parent
    with opened(source, config.opening, scratch) as atlas:
        return plan_job(atlas, config, cluster)[1]


def _configure(source: Counts, options: dict[str, Any]) -> tuple[DecomposeConfig, Path | None]:
    """Sort flat options into the configurations that check them; and the scratch folder."""
    given = dict(options)

    def take(names: tuple[str, ...]) -> dict[str, Any]:
        return {name: given.pop(name) for name in names if name in given}

    scratch = given.pop("scratch", None)
    limit = given.pop("memory_limit", "2GiB")
    config = DecomposeConfig(
        opening=opening_of(source, take(OPEN)),
        prepare=PrepareConfig(**take(_PREPARE), cell_filter=CellFilter(**take(FILTER))),
        pca=PCAConfig(**{"target_sum": TARGET_SUM, "log1p": True, **take(_PCA)}),
        label_key=given.pop("label_key", None),
        n_threads=threads_of(given.pop("n_threads", None)),
        memory_limit_bytes=None if limit is None else parse_bytes(limit),
    )
    if given:
        known = sorted((*OPEN, *_PREPARE, *FILTER, *_PCA, *_OTHERS))
        raise InputError(
            f"{next(iter(given))!r} is not an option of pca: there are {', '.join(known)}; see "
            "help(tigon.pca)"
        )
    return config, None if scratch is None else Path(scratch)
