"""The main job as one call: from counts to a run on disk and its report."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.scaling.alignment.config import AlignConfig
from tigon.scaling.budget import Plan, parse_bytes
from tigon.scaling.cells import CellFilter
from tigon.scaling.config import IntegrateConfig, OpenConfig
from tigon.scaling.embedding.config import EmbedConfig
from tigon.scaling.engine import Cluster, threads_of
from tigon.scaling.inmf.config import INMFConfig, usual_staleness
from tigon.scaling.integrating import integrate_atlas, plan_integration
from tigon.scaling.memory import use_one_heap
from tigon.scaling.preparing import PrepareConfig
from tigon.storage.atlas import Atlas
from tigon.storage.borrowing import borrowed_atlas
from tigon.storage.errors import InputError, OutputExistsError
from tigon.storage.progress import Progress, silent, whole_stage
from tigon.storage.publish import check_output

if TYPE_CHECKING:
    from tigon.storage.opening import Counts
    from tigon.storage.runs.run import Run


def options_of(config: type, *, besides: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Names of the options of a configuration, without those in ``besides``."""
    return tuple(field.name for field in fields(config) if field.name not in besides)


OPEN = options_of(OpenConfig, besides=("sources",))
_PREPARE = options_of(PrepareConfig, besides=("cell_filter",))
FILTER = options_of(CellFilter)
_INMF = options_of(INMFConfig)
_EMBED = options_of(EmbedConfig)
# The neighbours that one asks for are those of the graph, not the voters of the alignment.
_ALIGN = options_of(AlignConfig, besides=("n_neighbors",))
_NOT_RUNS = frozenset({".h5ad", ".h5", ".html", ".loom", ".csv"})
"""Endings of ``out`` that promise another type of file."""
CLUSTER = ("client", "scheduler", "workers")
_OTHERS = ("cache", "drop_factors", "label_key", "memory_limit", "n_threads", "scratch", *CLUSTER)


def integrate(
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
    """Integrate the datasets of an atlas: the main job, as ``tigon integrate`` runs it.

    Statistics and variable genes, iNMF, alignment, clusters, a UMAP, and
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
    resume
        Go on with the interrupted job of ``out``, to the bytes of an undisturbed one; where
        there is none, begin. Whatever is interrupted is then kept, however short it was.
    restart
        Discard an interrupted job of ``out``.
    report
        Whether to write the report.
    command
        What to record as the call that made the run.
    progress
        True for the bars of the command line, None or False for silence, or
        what is called as ``progress(stage, done, total, **figures)``.
    **options
        Counts: ``layer``, ``raw``, ``join``, ``gene_id_column``,
        ``allow_non_integer``, ``scratch`` (see :func:`tigon.open`; not for an
        atlas, which is open already). Cells and genes: ``batch_key``,
        ``n_genes``, ``n_unshared`` (genes that not all datasets measure, for UINMF: see
        :class:`tigon.UINMF`; None to treat all alike), ``cells``, ``min_genes``,
        ``min_counts``, ``max_mito``, ``small_datasets``. Factorisation: ``n_components``,
        ``lam``, ``lam_by_dataset``, ``solver`` ("online" or "batch"), ``n_epochs``, ``polish``,
        ``minibatch_size``, ``minibatches_per_task``, ``staleness``, ``n_sweeps``, ``tol``,
        ``tol_final``, ``tol_objective``, ``tol_batch``, ``tol_residual``, ``init``, ``n_starts``,
        ``random_state``
        (see :class:`tigon.OnlineINMF` and :class:`tigon.INMF`; a cluster has another default for
        ``staleness``, the run says which).
        Alignment: ``align``, "centroid", "quantile" or "none"; for quantiles
        ``n_quantiles`` of the map, ``min_cells`` for a dataset to be
        mapped in a cluster, ``n_sampled`` cells for its quantiles, ``n_voters``
        on joint clusters, ``reference``, the number of the dataset that others
        are mapped to (None for their mean); ``drop_factors``, numbers of factors that it and
        what follows leave out (:func:`tigon.factors` lists them). Clusters and layout:
        ``resolution``, ``n_neighbors`` in the graph, ``n_landmarks``,
        ``n_placing``, ``umap`` (whether to lay out), ``min_dist``,
        ``n_layout_epochs``; ``label_key`` to score against. Machine:
        ``n_threads`` (None for all processors), ``memory_limit`` ("2GiB"; None
        for none), ``cache``, a folder where the streamed copy of the selected genes
        is kept for the next call that wants the same (None to keep none). Cluster, one
        of: ``client``, of :mod:`distributed`; ``scheduler``, its address; ``workers``, how
        many processes to start here. Workers must see ``scratch``, which lies beside ``out``
        by default, and open the atlas themselves: one that Tigon wrote.

    Returns
    -------
    Run

    Raises
    ------
    TigonError
        The input, an option or the output cannot be used, or the machine or the cluster
        failed. Nothing is left behind, but where a minute's work or more was done, that
        is: a hidden folder beside ``out`` that ``resume`` goes on from.

    Notes
    -----
    Two passes over the atlas; the selected genes are streamed from a temporary
    copy beside ``out``, or from one in ``cache``, which spares a pass where it is
    there already. Results are the same for any ``n_threads``.
    """
    cache, cluster = options.pop("cache", None), _scheduled(options)
    config, scratch = _configure(source, options)
    out = Path(out)
    check_outputs(out, overwrite=overwrite, report=report)
    scratch = scratch or out.absolute().parent
    with told_to(progress=progress) as tell:
        with opened(source, config.opening, scratch) as atlas:
            run = integrate_atlas(
                atlas,
                config,
                out,
                scratch,
                cluster=cluster,
                cache=None if cache is None else Path(cache),
                overwrite=overwrite,
                resume=resume,
                restart=restart,
                command=command,
                progress=tell,
            )
        write_page(run, out, report=report, overwrite=overwrite, progress=tell)
    return run


def plan(
    source: Counts,
    *,
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    report: bool = True,
    **options: Any,
) -> Plan:
    """What :func:`integrate` would cost, without reading counts.

    Parameters
    ----------
    source, overwrite, report, **options
        As for :func:`integrate`.
    out
        As for :func:`integrate`, and refused where that would refuse it; None
        where it is not known yet.

    Returns
    -------
    Plan
        Passes, bytes and projected memory by stage.

    Raises
    ------
    TigonError
        As for :func:`integrate`, as far as it is known without the counts.
    """
    options.pop("cache", None)  # what a job costs without a pack that is kept
    cluster = _scheduled(options)
    config, scratch = _configure(source, options)
    if out is not None:
        check_outputs(Path(out), overwrite=overwrite, report=report)
    scratch = scratch or Path(out or "run.zarr").absolute().parent
    with opened(source, config.opening, scratch) as atlas:
        return plan_integration(atlas, config, cluster)


def check_outputs(out: Path, *, overwrite: bool, report: bool) -> None:
    """Refuse a run, or a report beside it, that could not be written at the end.

    Raises
    ------
    OutputExistsError, InputError
        One of them exists, or its name says that it is another type of file.
    """
    if out.suffix.lower() in _NOT_RUNS:
        raise InputError(
            f"--out is {out}: a run is a .zarr folder; write {out.with_suffix('.zarr')}, "
            f"then `tigon export {out.with_suffix('.zarr')} {out.with_suffix('.h5ad')}`"
        )
    check_output(out.absolute(), overwrite=overwrite)
    if not report:
        return
    page = report_path(out)
    try:
        check_output(page.absolute(), overwrite=overwrite)
    except OutputExistsError as error:
        raise OutputExistsError(
            f"the report {page} of --out {out} exists: choose another name, or give "
            "--overwrite or --no-report"
        ) from error


def write_page(
    run: Run, out: Path, *, report: bool, overwrite: bool, progress: Progress = silent
) -> None:
    """Write the report beside a run, if it is wanted."""
    if report:
        from tigon.report import write_report

        with whole_stage(progress, "report (page)", 1):
            write_report(run, report_path(out), overwrite=overwrite)


def report_path(out: Path) -> Path:
    """Where the report of a run goes: ``run.zarr`` has ``run.html``."""
    return out.with_suffix(".html") if out.suffix == ".zarr" else out.with_name(out.name + ".html")


@contextmanager
def told_to(*, progress: Progress | bool | None) -> Iterator[Progress]:
    """Whom to tell of progress; the bars are on stderr and end with the block."""
    if not isinstance(progress, bool | None):
        yield progress
    elif not progress:
        yield silent
    else:
        from tigon.command.showing.progress import bars

        with bars() as shown:
            yield shown


def opened(source: Counts, opening: OpenConfig, scratch: Path) -> AbstractContextManager[Atlas]:
    """An atlas for the length of a block, of whatever a caller has."""
    use_one_heap()  # before readers have threads, each of which would take one
    how = {name: getattr(opening, name) for name in OPEN}
    return borrowed_atlas(source, scratch=scratch, **how)


def cluster_of(options: dict[str, Any]) -> Cluster:
    """Take what says where tasks run out of the options."""
    given = {name: options.pop(name, None) for name in CLUSTER}
    return Cluster(client=given["client"], scheduler=given["scheduler"], n_workers=given["workers"])


def _scheduled(options: dict[str, Any]) -> Cluster:
    """The cluster, with the schedule settled for it."""
    cluster = cluster_of(options)
    if options.get("staleness") is None:
        solver = options.get("solver", "online")
        options["staleness"] = usual_staleness(on_cluster=cluster.is_used, solver=solver)
    return cluster


def _configure(source: Counts, options: dict[str, Any]) -> tuple[IntegrateConfig, Path | None]:
    """Sort flat options into the configurations that check them; and the scratch folder."""
    given = dict(options)

    def take(names: Sequence[str]) -> dict[str, Any]:
        return {name: given.pop(name) for name in names if name in given}

    scratch = given.pop("scratch", None)
    limit = given.pop("memory_limit", "2GiB")
    config = IntegrateConfig(
        opening=opening_of(source, take(OPEN)),
        prepare=PrepareConfig(**take(_PREPARE), cell_filter=CellFilter(**take(FILTER))),
        inmf=INMFConfig(**take(_INMF)),
        drop_factors=given.pop("drop_factors", ()),
        align=AlignConfig(**take(_ALIGN)),
        embed=EmbedConfig(**take(_EMBED)),
        label_key=given.pop("label_key", None),
        n_threads=threads_of(given.pop("n_threads", None)),
        memory_limit_bytes=None if limit is None else parse_bytes(limit),
    )
    if given:
        known = sorted((*OPEN, *_PREPARE, *FILTER, *_INMF, *_ALIGN, *_EMBED, *_OTHERS))
        raise InputError(
            f"{next(iter(given))!r} is not an option of integrate: there are {', '.join(known)}; "
            "see help(tigon.integrate)"
        )
    return config, None if scratch is None else Path(scratch)


def opening_of(source: Counts, options: dict[str, Any]) -> OpenConfig:
    """What is integrated; how an open atlas was opened is no longer known."""
    if not isinstance(source, Atlas):
        listed = source if isinstance(source, list | tuple) else [source]
        return OpenConfig(sources=tuple(map(_told, listed)), **options)
    sources = (source.path,) if source.path else tuple(source.source_names)
    return OpenConfig(sources=sources, **{"join": None, **options})


def _told(source: Any) -> str:
    return os.fspath(source) if isinstance(source, str | os.PathLike) else type(source).__name__
