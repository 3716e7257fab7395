"""The engine that a job runs on: threads of this process, or the workers of a cluster."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from tigon.kernels.compiling import load_compiler
from tigon.scaling.budget import BASE_BYTES, Plan
from tigon.scaling.engine import Cluster, ClusterEngine, ThreadEngine
from tigon.storage.progress import Progress, silent
from tigon.storage.publish import remove
from tigon.storage.views.reopening import reference

if TYPE_CHECKING:
    from tigon.storage import Atlas

HERE = Cluster()
"""No cluster: threads of this process."""

OF_FACTORS = ("scaling.packing", "scaling.inmf.tasks", "scaling.inmf.solving")
"""Modules that tasks of an integration need on workers, beside those that all need."""

_OF_ALL = ("tigon.scaling.statistics", "tigon.storage.sources.tigon_atlas", "zarr")


def check_reachable(atlas: Atlas, cluster: Cluster) -> None:
    """Refuse an atlas that workers could not open, before any work is done.

    Raises
    ------
    InputError
        It is in memory, or in a format other than Tigon's own.
    """
    if cluster.is_used:
        pickle.dumps(reference(atlas))


def files_of(atlas: Atlas) -> list[Path]:
    """What workers must see to open an atlas; nothing of one behind a URL."""
    return [] if atlas.path is None or "://" in atlas.path else [Path(atlas.path).absolute()]


@contextmanager
def running(
    cluster: Cluster,
    plan: Plan,
    n_threads: int,
    atlas: Atlas,
    folder: Path,
    cache: Path | None = None,
    modules: Sequence[str] = OF_FACTORS,
    progress: Progress = silent,
) -> Iterator[ThreadEngine]:
    """Where tasks run, for the length of a block.

    Parameters
    ----------
    cluster
        Which one, if any.
    plan
        What tasks cost.
    n_threads
        Threads of this process.
    atlas, folder, cache
        What workers must see: the counts, an existing folder of this job alone, and packs
        that are kept.
    modules
        What tasks of this job need on workers.
    progress
        Told of a scheduler that is waited for.

    Raises
    ------
    InputError
        The cluster cannot be reached, or a worker does not see what it needs.
    MemoryLimitError
        A worker is too small for the tasks that it would run at once.
    """
    if not cluster.is_used:
        with ThreadEngine(n_threads, window=plan.window) as threads:
            yield threads
        return
    needed = files_of(atlas) + ([] if cache is None else [cache.absolute()])
    tasks = Tasks(plan.task_bytes, modules, needed)
    with on_workers(cluster, tasks, n_threads, folder, plan.window, progress) as engine:
        yield engine


@dataclass(frozen=True, slots=True)
class Tasks:
    """What tasks ask of the workers that run them.

    Attributes
    ----------
    n_bytes
        What each takes at most.
    modules
        What it imports of Tigon, beside what all do.
    needed
        Files that it opens.
    """

    n_bytes: int
    modules: Sequence[str]
    needed: Sequence[Path] = ()


@contextmanager
def on_workers(
    cluster: Cluster,
    tasks: Tasks,
    n_threads: int,
    folder: Path,
    window: int | None = None,
    progress: Progress = silent,
) -> Iterator[ClusterEngine]:
    """The workers of a cluster, for the length of a block; see :func:`running`."""
    shared = folder / "shared"
    remove(shared)  # functions of a driver that was killed
    shared.mkdir()
    load_compiler()  # updates run here
    load = partial(_load, (*_OF_ALL, *(f"tigon.{name}" for name in tasks.modules)))
    with (
        cluster.connect(tasks.n_bytes, BASE_BYTES, progress) as client,
        ClusterEngine(client, shared, n_threads, window, tasks.needed, load) as engine,
    ):
        yield engine


def _load(modules: Sequence[str]) -> None:
    """On a worker: load what its tasks will need, rather than with the first of them."""
    for name in modules:
        import_module(name)
    load_compiler()
