"""The choice of k and lambda as one call: a table, and a page with its curves."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tigon.main_job import told_to
from tigon.scaling.budget import parse_bytes
from tigon.scaling.cells import CellFilter
from tigon.scaling.choosing.choosing import compare
from tigon.scaling.choosing.config import MINIBATCH_SIZE, ChooseConfig
from tigon.scaling.choosing.planning import ChoosePlan, plan_choice
from tigon.scaling.choosing.table import Choice, Comparison, as_table, choose
from tigon.scaling.config import OpenConfig
from tigon.scaling.engine import ThreadEngine, threads_of
from tigon.scaling.identity import identity_of
from tigon.scaling.inmf.config import INMFConfig
from tigon.scaling.job import Job, job_place
from tigon.scaling.memory import use_one_heap
from tigon.scaling.preparing import PrepareConfig
from tigon.storage.borrowing import borrowed_atlas
from tigon.storage.errors import InputError, OutputExistsError
from tigon.storage.packs.cache import PackCache
from tigon.storage.progress import Progress
from tigon.storage.publish import check_output, published
from tigon.storage.scratch import Scratch

if TYPE_CHECKING:
    import pandas as pd

    from tigon.storage.atlas import Atlas
    from tigon.storage.opening import Counts

_OPEN = ("layer", "raw", "join", "gene_id_column", "allow_non_integer")
_PREPARE = tuple(
    f.name for f in fields(PrepareConfig) if f.name not in ("cell_filter", "n_unshared")
)
_FILTER = tuple(f.name for f in fields(CellFilter))
_FIT = (
    *("n_epochs", "minibatch_size", "n_sweeps"),
    *("tol", "tol_final", "tol_objective", "random_state"),
)
_CHOICE = ("n_cells", "n_folds", "hidden_share", "min_stability")
_OTHERS = ("cache", "memory_limit", "n_threads", "scratch")


def select(
    source: Counts,
    *,
    k: Sequence[int],
    lam: Sequence[float] = (5.0,),
    out: str | os.PathLike[str] | None = None,
    overwrite: bool = False,
    resume: bool = False,
    restart: bool = False,
    command: str = "",
    progress: Progress | bool | None = None,
    **options: Any,
) -> pd.DataFrame:
    """Compare numbers of factors and values of lambda, as ``tigon select`` does.

    A sample of the cells is cut into folds. In each, metagenes are learnt from the cells
    outside, and the hidden genes of the cells inside are predicted; the fits of different
    folds are compared, and the datasets' mixing is scored.

    Parameters
    ----------
    source
        An atlas, an AnnData, a path, a URL, or a list of these; raw counts.
    k, lam
        What to compare.
    out
        A page with the curves to write, ``*.html``; the table is ``*.csv`` beside it.
    overwrite
        Replace these where they are there.
    resume
        Go on with the interrupted choice of ``out``, to the same table: fits that were done
        are not made again. Where there is none, begin; what is interrupted is then kept.
    restart
        Discard an interrupted choice of ``out``.
    command
        What to record as the call that made them.
    progress
        As for :func:`tigon.integrate`.
    **options
        ``n_cells`` that are fitted at most (50,000), ``n_folds`` (5), ``hidden_share`` of the
        genes (0.25), ``min_stability`` to be recommended (0.6). Of the fits ``n_epochs``,
        ``minibatch_size`` (1000), ``n_sweeps``, ``tol``, ``tol_final``, ``tol_objective``,
        ``random_state``; of the counts, cells and genes ``layer``, ``raw``, ``join``,
        ``gene_id_column``, ``allow_non_integer``, ``batch_key``, ``n_genes``, ``cells``,
        ``min_genes``, ``min_counts``, ``max_mito``, ``small_datasets``; and ``n_threads``,
        ``memory_limit``, ``cache``, ``scratch``: all as for :func:`tigon.integrate`.

    Returns
    -------
    DataFrame
        A row for each setting (:func:`tigon.scaling.choosing.table.as_table`), one of which
        is ``recommended``; ``attrs`` has its ``k`` and ``lam``, and the ``reason``.

    Raises
    ------
    TigonError
        The input, an option or the output cannot be used, or the machine failed. Nothing is
        left behind, but where a minute's work or more was done for a page, that is: a hidden
        folder beside it, which ``resume`` goes on from.

    Notes
    -----
    Two passes over the atlas, and one pack of the sample for all fits. The table is the same
    bytes for any ``n_threads``.

    Examples
    --------
    >>> table = tigon.select("atlas.zarr", batch_key="donor", k=range(5, 61, 5))  # doctest: +SKIP
    >>> table.attrs["k"], table.attrs["reason"]  # doctest: +SKIP
    """
    return selection(
        source,
        k=k,
        lam=lam,
        out=out,
        overwrite=overwrite,
        resume=resume,
        restart=restart,
        command=command,
        progress=progress,
        **options,
    ).table


@dataclass(frozen=True, slots=True)
class Selection:
    """A choice with what it rests on and its table."""

    choice: Choice
    comparison: Comparison
    table: pd.DataFrame


def selection(
    source: Counts,
    *,
    k: Sequence[int],
    lam: Sequence[float],
    out: str | os.PathLike[str] | None,
    overwrite: bool,
    resume: bool,
    restart: bool,
    command: str,
    progress: Progress | bool | None,
    **options: Any,
) -> Selection:
    """:func:`select`, with all that is known."""
    given = _Given.of(k, lam, options)
    page = None if out is None else Path(out)
    if page is not None:
        check_pages(page, overwrite=overwrite)
    elif resume or restart:
        raise InputError("an interrupted choice is found by its page, and there is none: give out")
    use_one_heap()
    config = given.config
    with (
        told_to(progress=progress) as tell,
        borrowed_atlas(source, scratch=given.scratch, **given.opening) as atlas,
    ):
        plan = plan_choice(atlas, config)
        with (
            _job(atlas, given, page, resume=resume, restart=restart) as job,
            ThreadEngine(config.n_threads, window=plan.run.window) as engine,
        ):
            compared = compare(atlas, config, plan.run, job, engine, tell, given.cache)
            choice = choose(compared.settings, config.min_stability)
            table = as_table(choice)
            table.attrs = {"k": choice.k, "lam": choice.lam, "reason": choice.reason}
            found = Selection(choice, compared, table)
            if page is not None:
                _write(found, config, page, command, overwrite=overwrite)
    return found


@contextmanager
def _job(
    atlas: Atlas, given: _Given, page: Path | None, *, resume: bool, restart: bool
) -> Iterator[Job]:
    """The job that makes a page; without one nothing is kept, nobody could go on with it."""
    opening = asdict(OpenConfig(**given.opening))
    identity = identity_of(atlas, {**asdict(given.config), "opening": opening})
    with ExitStack() as aside:
        if page is None:
            scratch = aside.enter_context(closing(Scratch(given.scratch)))
            place, page = scratch.folder / "job", scratch.folder
            identity = replace(identity, atlas=None)
        else:
            place = job_place(page, given.scratch or page.absolute().parent)
        job = Job.open(place, page, identity, resume=resume, restart=restart)
        with job.working(page, "for the pack and the loadings"):
            yield job


def plan_selection(
    source: Counts,
    *,
    k: Sequence[int],
    lam: Sequence[float],
    out: str | os.PathLike[str] | None,
    overwrite: bool,
    **options: Any,
) -> ChoosePlan:
    """What :func:`select` would cost, without reading counts."""
    given = _Given.of(k, lam, options)
    if out is not None:
        check_pages(Path(out), overwrite=overwrite)
    with borrowed_atlas(source, scratch=given.scratch, **given.opening) as atlas:
        return plan_choice(atlas, given.config)


@dataclass(frozen=True, slots=True)
class _Given:
    """Flat options, sorted and checked."""

    config: ChooseConfig
    opening: dict[str, Any]
    scratch: Path | None
    cache: PackCache | None

    @classmethod
    def of(cls, k: Sequence[int], lam: Sequence[float], options: dict[str, Any]) -> _Given:
        left = dict(options)

        def take(names: Sequence[str]) -> dict[str, Any]:
            return {name: left.pop(name) for name in names if name in left}

        limit, n_threads = left.pop("memory_limit", "2GiB"), left.pop("n_threads", None)
        scratch, cache = left.pop("scratch", None), left.pop("cache", None)
        fit = {"minibatch_size": MINIBATCH_SIZE, **take(_FIT)}
        opening = take(_OPEN)
        config = ChooseConfig(
            k=_listed(k),
            lam=_listed(lam),
            prepare=PrepareConfig(**take(_PREPARE), cell_filter=CellFilter(**take(_FILTER))),
            inmf=INMFConfig(**fit),
            n_threads=threads_of(n_threads),
            memory_limit_bytes=None if limit is None else parse_bytes(limit),
            **take(_CHOICE),
        )
        if left:
            known = sorted((*_OPEN, *_PREPARE, *_FILTER, *_FIT, *_CHOICE, *_OTHERS))
            raise InputError(
                f"{next(iter(left))!r} is not an option of select: there are {', '.join(known)}; "
                "see help(tigon.select)"
            )
        return cls(
            config,
            opening,
            None if scratch is None else Path(scratch),
            None if cache is None else PackCache(Path(cache)),
        )


def _listed(values: Any) -> list[Any]:
    """Values as a list: also of NumPy's arrays and of one number alone."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        return [values]
    return [value.item() if hasattr(value, "item") else value for value in values]


def table_path(page: Path) -> Path:
    """Where the table of a page goes: ``choice.html`` has ``choice.csv``."""
    return page.with_suffix(".csv")


def check_pages(page: Path, *, overwrite: bool) -> None:
    """Refuse a page, or a table beside it, that could not be written at the end.

    Raises
    ------
    OutputExistsError, InputError
        One of them exists, or the name is not that of a page.
    """
    if page.suffix.lower() not in (".html", ".htm"):
        raise InputError(
            f"--out is {page}: the page is an .html file; write {page.with_suffix('.html')}"
        )
    check_output(page.absolute(), overwrite=overwrite)
    table = table_path(page)
    try:
        check_output(table.absolute(), overwrite=overwrite)
    except OutputExistsError as error:
        raise OutputExistsError(
            f"the table {table} of --out {page} exists: choose another name, or give --overwrite"
        ) from error


def _write(
    found: Selection, config: ChooseConfig, page: Path, command: str, *, overwrite: bool
) -> None:
    from tigon.report.choice import render_choice

    text = render_choice(found.choice, found.comparison, config, page.name, command)
    with published(table_path(page), overwrite=overwrite) as aside:
        found.table.to_csv(aside, index=False)
    with published(page, overwrite=overwrite) as aside:
        aside.write_text(text, encoding="utf-8")
